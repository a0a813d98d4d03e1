"""Id maps of mounts: what is owned by ``inside`` on disk appears as ``outside`` (mount_setattr(2), "ID-mapped mounts")."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastlayer import _backend
from fastlayer.errors import UsageError

_MAX_ID = (1 << 32) - 2


@contextmanager
def user_namespace(ranges: Sequence[tuple[int, int, int]]) -> Iterator[int]:
    """A descriptor of a user namespace that maps users and groups by ``(inside, outside, count)``, for the block.

    Raises ``UsageError`` for ranges that mean nothing, ``StorageError`` when the kernel refuses them.
    """
    lines = []
    for inside, outside, count in ranges:
        if count < 1 or min(inside, outside) < 0 or max(inside, outside) + count - 1 > _MAX_ID:
            raise UsageError(f"id map {inside}:{outside}:{count} is not a range of ids")
        lines.append(b"%d %d %d\n" % (inside, outside, count))
    text = b"".join(lines)
    fd = _backend.engine().mountapi.user_namespace(text, text)
    try:
        yield fd
    finally:
        os.close(fd)
