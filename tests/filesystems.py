"""Real file systems for tests: loop-mounted images and overlay mounts. Root only; everything is undone at the end.

with loop_fs("xfs") as path: ...
with overlay(lower, upper, work) as merged: ...
"""

from __future__ import annotations

import fcntl
import gc
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import require

_MKFS = {
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "ext4": ["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "ea_inode"],  # else the xattrs of a file share 4 KiB
}
_MEMORY = Path("/dev/shm")
_PATIENCE = 10.0  # seconds a file system may stay busy
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQ40s")  # linux/fiemap.h; flag 1: write out first
MINIMUM = 320 << 20  # the smallest XFS that mkfs.xfs makes today


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")


def _run(*command: str | os.PathLike[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def _unmount(where: Path) -> None:
    """What has ended may hold a file system for a moment more (cycles of dead objects, the kernel's deferred closing).

    One that stays busy is told with who holds what there.
    """
    gc.collect()
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _run("umount", where)
        except RuntimeError as exc:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            held = list(_held_below(where))
            _run("umount", "-l", where)
            raise RuntimeError(f"{exc}; held: {held}") from None


def _held_below(where: Path) -> Iterator[str]:
    """Open files, working directories, roots, mapped files and mounts below ``where``, of every process."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            links = [process / "cwd", process / "root", *(process / "fd").iterdir(), *(process / "map_files").iterdir()]
            for link in links:
                with suppress(OSError):
                    if (name := os.readlink(link)).startswith(str(where)):
                        yield f"{process.name} {link.name} -> {name}"
            for line in (process / "mountinfo").read_text().splitlines():
                if line.split()[4].startswith(str(where)):
                    yield f"{process.name} mount {line.split()[4]}"


@contextmanager
def loop_fs(kind: str, size: int = MINIMUM, *, features: Sequence[str] = (), options: str = "") -> Iterator[Path]:
    """A fresh, empty file system of ``kind`` (xfs, btrfs, ext4) in an image of ``size`` bytes, kept in memory.

    ``features``: further arguments of mkfs; ``options``: further options of mount.
    """
    need_root()
    require(_MKFS[kind][0])
    base = Path(tempfile.mkdtemp(prefix="fastlayer-fs-", dir=_MEMORY if _MEMORY.is_dir() else None))
    image, where = base / "image", base / "mnt"
    try:
        where.mkdir()
        with open(image, "wb") as file:
            file.truncate(size)
        _run(*_MKFS[kind], *features, image)
        _run("mount", "-o", f"loop,{options}".rstrip(","), image, where)
        try:
            lost = where / "lost+found"
            if lost.is_dir():
                lost.rmdir()
            yield where
        finally:
            _unmount(where)
    finally:
        image.unlink(missing_ok=True)
        where.rmdir()
        base.rmdir()


@contextmanager
def overlay(
    lower: Path | Sequence[Path], upper: Path | None = None, work: Path | None = None, *options: str
) -> Iterator[Path]:
    """An overlay mount; several lower directories top first, without ``upper`` read-only."""
    need_root()
    lowers = [lower] if isinstance(lower, Path) else list(lower)
    given = ["lowerdir=" + ":".join(map(str, lowers)), *options]
    if upper is not None:
        given += [f"upperdir={upper}", f"workdir={work}"]
    where = Path(tempfile.mkdtemp(prefix="fastlayer-overlay-"))
    try:
        _run("mount", "-t", "overlay", "overlay", "-o", ",".join(given), where)
        try:
            yield where
        finally:
            _run("umount", where)
    finally:
        where.rmdir()


def extents(path: Path) -> list[tuple[int, int, int]]:
    """(offset, place on the disk, length) of a file's data, in bytes, once it is there: FIEMAP. At most 256."""
    space = bytearray(_FIEMAP.pack(0, 1 << 62, 1, 0, 256, 0) + bytes(256 * _EXTENT.size))
    with open(path, "rb") as file:
        fcntl.ioctl(file, _FS_IOC_FIEMAP, space)
    count = _FIEMAP.unpack_from(space)[3]
    found = [_EXTENT.unpack_from(space, _FIEMAP.size + number * _EXTENT.size) for number in range(count)]
    return [(offset, place, length) for offset, place, length, _ in found]
