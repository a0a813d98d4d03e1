"""Opening what strangers named: links and ``..`` are followed inside a directory and never out of it, as in chroot."""

from __future__ import annotations

import errno
import os

_MAX_LINKS = 40  # as the kernel
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_beneath(root: int, path: str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a path below the directory ``root``. Raises OSError."""
    walk = [os.open(".", _STEP, dir_fd=root)]
    todo = os.fsencode(path).split(b"/")[::-1]
    links = 0
    try:
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                _leave(walk, 1)
                continue
            target = _link(part, walk[-1])
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    _leave(walk, len(walk))
                todo += target.split(b"/")[::-1]
            elif any(rest not in (b"", b".") for rest in todo):
                walk.append(os.open(part, _STEP, dir_fd=walk[-1]))
            else:
                return os.open(part, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=walk[-1])
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=walk[-1])
    finally:
        for fd in walk:
            os.close(fd)


def _leave(walk: list[int], levels: int) -> None:
    """Goes up; above the root is the root."""
    for _ in range(min(levels, len(walk) - 1)):
        os.close(walk.pop())


def _link(name: bytes, directory: int) -> bytes | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # no link
            return None
        raise
