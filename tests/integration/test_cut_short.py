"""A process that is killed while it unpacks a layer: the next one writes none of the files again that are whole."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastlayer.image.unpack import LayerSource, unpack
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.store.store import Store, open_store
from tests.conftest import needs_root
from tests.integration.command import wait_for

pytestmark = needs_root

FILES = 300
ENOUGH = 20  # files that a killed process has made, at least
SCRIPT = """
import sys
from tests.integration.test_cut_short import killed_at
killed_at(*sys.argv[1:])
"""


class Fed(io.BytesIO):
    """A blob on its way, that stands for the same bytes each time; ``cut``: the process dies there."""

    identity = "one and the same"
    cut = -1
    root = Path()

    def readinto(self, buffer: Any) -> int:
        if 0 <= self.cut <= self.tell():
            wait_for(lambda: len(list(self.root.glob("overlay2/*/diff/f*"))) >= ENOUGH)
            os.kill(os.getpid(), 9)
        view = memoryview(buffer)
        return super().readinto(view[: min(len(view), 64 << 10)])


def layer(*, twice: bool = False) -> bytes:
    """Files of 64 KiB; ``twice``: the first has another entry, after a link to it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        names = [f"f{number:03}" for number in range(FILES)]
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode, entry.uid = 64 << 10, number, 0o640 + number % 8, number
            tar.addfile(entry, io.BytesIO(bytes([number % 256]) * entry.size))
            if twice and number in (1, 2):
                entry = tarfile.TarInfo(("linked", "f000")[number - 1])
                entry.type, entry.linkname, entry.size = ((tarfile.LNKTYPE, "f000", 0), (b"0", "", 64 << 10))[
                    number - 1
                ]
                tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return out.getvalue()


def source(data: bytes, root: Path, *, cut: int = -1, identity: str = Fed.identity) -> LayerSource:
    @contextmanager
    def opened() -> Iterator[Fed]:
        fed = Fed(data)
        fed.cut, fed.identity, fed.root = cut, identity, root
        yield fed

    digest = digest_of(data)
    return LayerSource(digest, digest, len(data), opened)


def unpacked(root: Path, data: bytes, **how: Any) -> Path:
    """Unpacks it as the only layer; its tree."""
    with open_store(root, driver="overlay2") as store, store.lease("test") as lease:
        given = source(data, root, **how)
        unpack(store, lease, [given])
        return tree(store, str(chain_ids([given.diff_id])[0]))


def tree(store: Store, name: str) -> Path:
    return Path(store.root) / "overlay2" / str(store.snapshotter.number(name)[0]) / "diff"


def killed_at(root: str, cut: str, twice: str) -> None:
    unpacked(Path(root), layer(twice=bool(twice)), cut=int(cut))


def kill(root: Path, cut: int, *, twice: bool = False) -> dict[str, int]:
    """Name -> inode of what the killed process leaves."""
    line = [sys.executable, "-c", SCRIPT, root, str(cut), "1" if twice else ""]
    assert subprocess.run(line, check=False).returncode == -9
    return {path.name: path.stat().st_ino for path in root.glob("overlay2/*/diff/f*")}


def seen(place: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for path in sorted(place.iterdir()):
        status = path.stat()
        inode = (status.st_mode, status.st_uid, status.st_mtime, status.st_nlink)
        found[path.name] = (*inode, path.read_bytes()[:1], len(path.read_bytes()))
    return found


@pytest.fixture
def straight(tmp_path: Path) -> Path:
    return unpacked(tmp_path / "straight", layer())


def test_files_that_are_whole_are_taken(tmp_path: Path, straight: Path) -> None:
    root = tmp_path / "store"
    before = kill(root, 250 * (64 << 10))
    place = unpacked(root, layer())
    same = [name for name, inode in before.items() if (place / name).stat().st_ino == inode]
    assert len(before) >= ENOUGH and len(same) >= len(before) - 1
    assert seen(place) == seen(straight)
    assert len(list(root.glob("overlay2/[0-9]*"))) == 1


def test_killed_again_and_again(tmp_path: Path, straight: Path) -> None:
    root = tmp_path / "store"
    for part in (100, 200, 290):
        kill(root, part * (64 << 10))
    place = unpacked(root, layer())
    assert seen(place) == seen(straight)


def test_other_bytes_take_nothing(tmp_path: Path, straight: Path) -> None:
    root = tmp_path / "store"
    before = kill(root, 250 * (64 << 10))
    place = unpacked(root, layer(), identity="another")
    assert not [name for name, inode in before.items() if (place / name).stat().st_ino == inode]
    assert seen(place) == seen(straight)


def test_a_layer_with_two_entries_of_a_name_is_written_again(tmp_path: Path) -> None:
    root, data = tmp_path / "store", layer(twice=True)
    kill(root, 250 * (64 << 10), twice=True)
    assert seen(unpacked(root, data)) == seen(unpacked(tmp_path / "straight", data))


def test_a_complete_layer_is_known_by_its_digest(tmp_path: Path) -> None:
    """It was verified, and then its process was killed before the layers below it were complete."""
    root, data = tmp_path / "store", layer()
    line = "import os\nfrom fastlayer.snapshot.snapshotter import Snapshotter\n"
    line += "Snapshotter.commit = lambda *_, **__: os.kill(os.getpid(), 9)\n" + SCRIPT
    assert subprocess.run([sys.executable, "-c", line, root, "-1", ""], check=False).returncode == -9
    before = {path.name: path.stat().st_ino for path in root.glob("overlay2/*/diff/f*")}
    with open_store(root, driver="overlay2") as store, store.lease("test") as lease:
        store.content.put(data, lease.id)
        digest = Digest(digest_of(data))
        from fastlayer.image.unpack import of_blob

        unpack(store, lease, [of_blob(store, digest, digest, len(data))])
        place = tree(store, str(chain_ids([digest])[0]))
    assert {name: (place / name).stat().st_ino for name in before} == before and len(before) == FILES
