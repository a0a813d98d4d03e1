"""Volumes of a store whose database is put back from a copy that is older than they are, and of killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastlayer.volume.volumes import Volumes, clear_dead
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


def test_the_copy_that_a_killed_export_wrote_from_goes(place: Place) -> None:
    code = """
import os, signal, sys
from fastlayer.volume import archive, volumes
archive._write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with volumes.volumes(sys.argv[1]) as found:
    found.export("data", sys.argv[2])
"""
    with place.open() as store:
        volumes = Volumes(store)
        written(volumes, "data")
        volumes.acquire("data", "somebody")  # so a copy is made
        words = [sys.executable, "-c", code, os.fspath(store.root), os.devnull]
        assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
        assert len(volumes.all()) == 2
        assert clear_dead(store) > 0
        assert [volume.name for volume in volumes.all()] == ["data"]
        volumes.release("somebody")
