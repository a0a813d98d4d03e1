"""The order of files: what takes minutes comes first, and another process does the rest meanwhile. What many need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastlayer.mounts.table import entries
from tests.buildroot import make_root
from tests.containers import CHANGES, Command

if TYPE_CHECKING:
    from tests.integration.test_build import Builder

LONGEST = ("test_devicemapper", "test_build_corpus", "test_quota", "test_running", "test_bad_input")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def box_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the image ``box``."""
    place = tmp_path_factory.mktemp("box")
    command = Command(place / "store")
    words = [word for change in CHANGES for word in ("-c", change)]
    command.out("import", "-q", *words, make_root(place / "root"), "box")
    command.out("save", "-o", place / "box.tar", "box")
    return place / "box.tar"


@pytest.fixture
def command(box_archive: Path, tmp_path: Path, engine: object) -> Iterator[Command]:
    """The command with a store of its own that has the image ``box``; its containers go in the end."""
    found = Command(tmp_path / "store", FASTLAYER_DRIVER="overlay2")
    found.out("load", "-q", "-i", box_archive)
    yield found
    found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with busybox."""
    return make_root(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture
def made(tmp_path: Path, root: Path) -> Iterator[Builder]:
    """A store with the image ``busybox``, and a context; nothing of it stays mounted."""
    from tests.integration.test_build import Builder

    yield Builder(tmp_path, root)
    assert not [entry for entry in entries() if entry.target.startswith(os.fsencode(tmp_path))]
