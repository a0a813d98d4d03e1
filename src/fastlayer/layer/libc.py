"""Functions of the C library that ``os`` lacks. ctypes is imported only when one is called."""

from __future__ import annotations

import errno
import os
from typing import Any

_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syncfs(fd: int) -> None:
    """Everything written to the file system of fd is on its disk when this returns (syncfs(2))."""
    _check(_libc().syncfs(fd))


def rename_new(old_dir: int, old: bytes, new_dir: int, new: bytes) -> None:
    """Renames a directory to a name that must be free (renameat2(2), RENAME_NOREPLACE).

    Where libc or the file system lacks it, a plain rename: it never replaces more than an empty directory.
    """
    try:
        _check(_libc().renameat2(old_dir, old, new_dir, new, _RENAME_NOREPLACE))
    except AttributeError:
        os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)


def exchange(directory: int, one: bytes, other: bytes) -> None:
    """Two names of a directory change places at once (renameat2(2), RENAME_EXCHANGE)."""
    _check(_libc().renameat2(directory, one, directory, other, _RENAME_EXCHANGE))
