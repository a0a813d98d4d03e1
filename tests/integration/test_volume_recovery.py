"""Volumes of a store whose database is put back from a copy that is older than they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlayer.volume.volumes import Volumes
from tests.conftest import needs_root
from tests.integration.damaged import Place
from tests.volumes import content

pytestmark = needs_root


@pytest.fixture(params=["overlay2", "vfs"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(tmp_path, request.param)


def written(volumes: Volumes, name: str, **given: str) -> None:
    volumes.create(name, options=given)
    (volumes.acquire(name, "writer") / "data").write_text(name)
    volumes.release("writer")


def test_an_old_copy_loses_no_volume(place: Place) -> None:
    """After it: volumes came and went, and one was written to."""
    with place.open() as store:
        volumes = Volumes(store)
        for name in ("old", "going"):
            written(volumes, name)
        written(volumes, "tree", image="app:1")
        written(volumes, "going-tree", image="app:1")
    old = place.aged()
    with place.open() as store:
        volumes = Volumes(store)
        written(volumes, "new")
        (volumes.acquire("old", "writer") / "later").write_text("later")
        (volumes.acquire("tree", "writer") / "later").write_text("later")
        volumes.release("writer")
        for name in ("going", "going-tree"):
            volumes.remove(name)
    old()
    place.path.write_bytes(b"noise" * 1000)
    report = place.check(repair=True)
    assert report.sound, report.findings
    assert place.check().sound
    with place.open() as store:
        volumes = Volumes(store)
        assert [volume.name for volume in volumes.all()] == ["new", "old", "tree"]
        assert content(volumes.acquire("new", "reader")) == {"data": "new"}
        assert content(volumes.acquire("old", "reader")) == {"data": "old", "later": "later"}
        tree = content(volumes.acquire("tree", "reader"))
        assert (tree["data"], tree["later"], tree["etc/conf"]) == ("tree", "later", "1")
        volumes.release("reader")
        for volume in volumes.all():
            volumes.remove(volume.name)
    assert place.check().sound
