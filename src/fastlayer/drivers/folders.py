"""The folder per snapshot that most drivers keep below their root: naming, listing, removing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fastlayer.errors import NoSpaceError, StorageError
from fastlayer.layer.target import empty

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FULL = (errno.ENOSPC, errno.EDQUOT)


def storage_error(exc: OSError, op: str, path: str | bytes | os.PathLike[str]) -> StorageError:
    """The system's refusal as ours; a full file system or quota as ``NoSpaceError``."""
    kind = NoSpaceError if exc.errno in FULL else StorageError
    return kind(exc.errno or 0, op, os.fspath(path))


def make(path: Path, mode: int = 0o755) -> None:
    """A new directory of exactly that mode. Raises ``StorageError``."""
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, mode)
    except OSError as exc:
        raise storage_error(exc, "mkdir", path) from exc


def numbers(root: Path) -> set[int]:
    """The folders of ``root`` that are named by a number."""
    try:
        return {int(name) for name in os.listdir(root) if name.isascii() and name.isdecimal()}
    except FileNotFoundError:
        return set()


def remove(path: Path) -> None:
    """Removes a folder and all below it: any depth, no link followed. Nothing there is no error."""
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise storage_error(exc, "remove", path) from exc
    try:
        empty(fd)
    finally:
        os.close(fd)
    try:
        os.rmdir(path)
    except OSError as exc:
        raise storage_error(exc, "rmdir", path) from exc
