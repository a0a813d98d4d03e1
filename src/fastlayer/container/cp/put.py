"""Copies, complete beside their place before anything there is changed, and then moved into it.

Directories are merged: files take the place of files and links, directories get the attributes of those that come.
A file in the place of a directory, or the other way round, is refused before anything has been moved.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress

from fastlayer import _backend
from fastlayer.container.cp.behind import Sides
from fastlayer.container.cp.spot import Spot, opened_directory
from fastlayer.container.cp.staging import staging
from fastlayer.errors import OperandError, show_path
from fastlayer.layer.clone import copy_tree
from fastlayer.layer.mounts import is_mount_point, same_mount
from fastlayer.layer.progress import ProgressCallback
from fastlayer.layer.target import names_in

Owner = tuple[int, int]  # uid, gid
_CAPABILITY = b"security.capability"


def put_file(source: Spot, parent: int, name: bytes, owner: Owner | None, sides: Sides) -> None:
    """Copies what is no directory; a file, link or device of that name goes, but for a file that is mounted there."""
    with opened_directory(source.parent) as place, opened_directory(parent) as target:
        _check_mounted(place, source.name, target, name, sides.dest.shown)
        _put_file(place, source.name, target, name, owner, sides)


def _put_file(place: int, source: bytes, target: int, name: bytes, owner: Owner | None, sides: Sides) -> None:
    with (
        staging(target) as stage,
        _made(stage, b"work") as work,
        _made(stage, b"file") as made,
        sides.behind(place, work) as behind,
    ):
        copier = _backend.engine().clone.PathCopier(place, made, work, source, behind=behind)
        try:
            while copier.step():
                pass
        finally:
            copier.abort()
        if owner is not None:
            _own_entry(made, source, owner)
        _move(made, source, target, name)


def put_tree(
    source: int,
    target: int,
    owner: Owner | None,
    sides: Sides | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[str, ...]:
    """Copies what the directory ``source`` has into the directory ``target``, and its attributes; returns warnings."""

    def copy(place: int) -> tuple[str, ...]:
        with nullcontext() if sides is None else sides.behind(source, place) as behind:
            warnings = copy_tree(source, place, live=True, progress=progress, behind=behind).warnings
        if owner is not None:
            own(place, owner)
        return warnings

    return fill(target, copy)


def fill(target: int, make: Callable[[int], tuple[str, ...]]) -> tuple[str, ...]:
    """``make`` fills an empty directory, which is then poured into the directory ``target``."""
    with staging(target) as stage, _made(stage, b"tree") as tree:
        warnings = make(tree)
        _check(tree, target, b"")
        _pour(tree, target)
        return warnings


def own(directory: int, owner: Owner) -> None:
    """Everything in it, and itself, belongs to ``owner``; modes and capabilities stay."""
    for _, directories, files, here in os.fwalk(b".", dir_fd=directory, follow_symlinks=False):
        for name in (*directories, *files):
            _own_entry(here, name, owner)
    os.fchown(directory, *owner)


def _own_entry(directory: int, name: bytes, owner: Owner) -> None:
    """chown(2) takes set-id bits and capabilities away."""
    status = os.lstat(name, dir_fd=directory)
    if (status.st_uid, status.st_gid) == owner:
        return
    path = f"/proc/self/fd/{directory}/{os.fsdecode(name)}"
    kept = None
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
        with suppress(OSError):
            kept = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
    os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o6000:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=directory)
    if kept is not None:
        os.setxattr(path, _CAPABILITY, kept, follow_symlinks=False)


@contextmanager
def _made(stage: int, name: bytes) -> Iterator[int]:
    os.mkdir(name, 0o700, dir_fd=stage)
    with opened_directory(stage, name) as fd:
        yield fd


# ---- merging ---------------------------------------------------------------------------------------


def _check(tree: int, target: int, above: bytes) -> None:
    """Raises ``OperandError`` when a directory meets what is none, or a mount point what cannot be written to it."""
    for raw in names_in(tree):
        there = _status(target, raw)
        if there is None:
            continue
        is_directory = stat.S_ISDIR(os.lstat(raw, dir_fd=tree).st_mode)
        path = above + b"/" + raw
        if is_directory and stat.S_ISDIR(there.st_mode):
            with opened_directory(tree, raw) as inner, opened_directory(target, raw) as outer:
                _check(inner, outer, path)
        elif is_directory or stat.S_ISDIR(there.st_mode):
            first, second = ("directory", "a file") if is_directory else ("file", "a directory")
            raise OperandError(f"{show_path(path)}: a {first} does not replace {second}: remove that first")
        else:
            _check_mounted(tree, raw, target, raw, show_path(path))


def _check_mounted(tree: int, name: bytes, target: int, new: bytes, shown: str) -> None:
    """What is mounted by itself stays mounted: all that can be done to it is to write a file's bytes to it."""
    there = _status(target, new)
    if there is None or not is_mount_point(target, new):
        return
    if not (stat.S_ISREG(os.lstat(name, dir_fd=tree).st_mode) and stat.S_ISREG(there.st_mode)):
        raise OperandError(f"{shown}: is mounted there: only a file can be copied to a file that is")


def _pour(tree: int, target: int) -> None:
    """Moves everything that is in ``tree``; nothing is left of it but directories."""
    if not same_mount(tree, target):  # something is mounted there: nothing can be moved across
        put_tree(tree, target, None)
        return
    status = os.fstat(tree)  # before things are moved out of it
    for raw in names_in(tree):
        there = _status(target, raw)
        if there is not None and stat.S_ISDIR(there.st_mode):
            with opened_directory(tree, raw) as inner, opened_directory(target, raw) as outer:
                _pour(inner, outer)
        else:
            _move(tree, raw, target, raw)
    _take_attributes(tree, status, target)


def _move(source: int, name: bytes, target: int, new: bytes) -> None:
    """A file that is a mount point, as /etc/hosts of a container, is written over: to rename something to its name is
    refused where it is one for us, and takes the mount away where it is one for others (rename(2), mount namespaces).
    """
    if is_mount_point(target, new):
        _write_over(source, name, target, new)
        return
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except OSError as exc:
        if exc.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _write_over(source, name, target, new)


def _write_over(source: int, name: bytes, target: int, new: bytes) -> None:
    with (
        open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source), "rb") as old,
        open(os.open(new, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target), "wb") as file,
    ):
        shutil.copyfileobj(old, file, 1 << 20)
        status = os.fstat(old.fileno())
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
    os.unlink(name, dir_fd=source)


def _take_attributes(source: int, status: os.stat_result, target: int) -> None:
    before = os.fstat(target)
    if (status.st_uid, status.st_gid) != (before.st_uid, before.st_gid):
        with suppress(PermissionError):
            os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        with suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _status(directory: int, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None
