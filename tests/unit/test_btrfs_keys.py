"""What of the btrfs driver needs no btrfs."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer.drivers.btrfs import Btrfs, generation, subvolumes
from fastlayer.errors import StorageError
from fastlayer.layer.differing import normal
from tests.pairs import directory


@pytest.mark.parametrize(
    "keys,wanted",
    [
        (set(), [b""]),
        ({b"a/b/c"}, [b"", b"a", b"a/b", b"a/b/c"]),
        ({b"a/", b"a/b/c", b"a-b"}, [b"", b"a", b"a-b", b"a/"]),
        ({b"a/b/", b"a/", b"a/b/c/d/"}, [b"", b"a", b"a/"]),
        ({b"a", b"ab/", b"a b"}, [b"", b"a", b"a b", b"ab", b"ab/"]),
    ],
)
def test_keys_are_completed_and_sorted(keys: set[bytes], wanted: list[bytes]) -> None:
    assert normal(keys) == wanted


class Names:
    """Inode references as a subvolume has them."""

    def __init__(self, names: dict[int, list[tuple[int, bytes]]]) -> None:
        self._names = names

    def names(self, fd: int, ino: int) -> list[tuple[int, bytes]]:
        return self._names.get(ino, [])


def places(names: dict[int, list[tuple[int, bytes]]]) -> generation.Places:
    found = generation.Places(-1)
    found._engine = Names(names)
    return found


def test_paths_of_inodes() -> None:
    found = places({300: [(256, b"a")], 301: [(300, b"b")], 400: [(301, b"f"), (256, b"g")], 500: []})
    assert found.directory(256) == b""
    assert found.directory(301) == b"a/b"
    assert found.names(400) == [b"a/b/f", b"g"]
    assert found.names(500) == []


def test_a_removed_directory_has_no_path() -> None:
    found = places({301: [(300, b"b")], 400: [(301, b"f")]})
    assert found.directory(300) is None
    assert found.directory(301) is None
    assert found.names(400) == []


def test_other_file_systems_are_refused(engine: _backend.Engine, tmp_path: Path) -> None:
    found = Btrfs.probe(tmp_path)
    if found.works:
        pytest.skip("temporary files are on btrfs")
    assert "not on btrfs" in found.why and found.remedy
    with pytest.raises(StorageError) as info:
        Btrfs(tmp_path).create(1, [], "active")
    assert info.value.errno in (errno.ENOTTY, errno.EOPNOTSUPP) and "subvolumes/1" in str(info.value)


def test_a_name_that_is_too_long(engine: _backend.Engine, tmp_path: Path) -> None:
    with directory(tmp_path) as fd:
        for call in (engine.subvolume.create, engine.subvolume.destroy):
            with pytest.raises(StorageError) as info:
                call(fd, b"x" * 5000)
            assert info.value.errno == errno.ENAMETOOLONG


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    driver = Btrfs(tmp_path)
    driver.remove(7)
    assert driver.numbers() == set()
    (tmp_path / "subvolumes/8/d").mkdir(parents=True)  # no subvolume: someone restored a copy of the store
    driver.remove(8)
    assert driver.numbers() == set() and not subvolumes.is_subvolume(tmp_path / "subvolumes/8")
