"""Real file systems for tests: loop-mounted images and overlay mounts. Root only; everything is undone at the end.

with loop_fs("xfs") as path: ...
with overlay(lower, upper, work) as merged: ...
"""

from __future__ import annotations

import gc
import os
import subprocess
import tempfile
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
MINIMUM = 320 << 20  # the smallest XFS that mkfs.xfs makes today


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")


def _run(*command: str | os.PathLike[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr.strip()}")


def _unmount(where: Path) -> None:
    """A cycle of dead objects may still hold a file open; a busy file system is told with what is open there."""
    gc.collect()
    try:
        _run("umount", where)
    except RuntimeError as exc:
        _run("umount", "-l", where)
        raise RuntimeError(f"{exc}; open here: {list(_open_below(where))}") from None


def _open_below(where: Path) -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            name = os.readlink(f"/proc/self/fd/{fd}")
            if name.startswith(str(where)):
                yield name


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
