"""Extraction that was cut short: the next process takes what the killed one had written, instead of writing it again.

The snapshot that a layer is extracted into says what it is fed with: a name that stands for certain bytes, of a blob
that is on its way (``identity`` of what a ``LayerSource`` opens), and when all of it was verified the digest. Whoever
is fed with the same takes its files over (``donor`` of ``fastlayer.apply``), and hashes every byte again.

Only of the same boot: what a crash of the machine has left of files nobody can say.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fastlayer.errors import StorageError

if TYPE_CHECKING:
    from fastlayer.metadata.leases import Lease
    from fastlayer.snapshot.snapshotter import Snapshotter

_LABEL = "unpack.source"


def note(snapshotter: Snapshotter, key: str, source: str) -> None:
    """What the snapshot ``key`` is fed with, or was, when that was verified."""
    snapshotter.label(key, _LABEL, _now(source))


@contextmanager
def inherited(snapshotter: Snapshotter, lease: Lease, key: str, sources: Collection[str]) -> Iterator[int | None]:
    """What the dead have left that was fed with one of these, as a directory for the block; then it goes.

    ``key``: what it is called meanwhile.
    """
    if not snapshotter.inherit(key, _LABEL, [_now(source) for source in sources], lease):
        yield None
        return
    try:
        with ExitStack() as stack:
            yield _opened(snapshotter, key, stack)
    finally:
        snapshotter.remove(key)


def _opened(snapshotter: Snapshotter, key: str, stack: ExitStack) -> int | None:
    """None where it has no directory: the disk was full before there was one."""
    try:
        place = stack.enter_context(snapshotter.driver.layer_target(*snapshotter.number(key)))
        fd = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, StorageError):
        return None
    stack.callback(os.close, fd)
    return fd


def _now(source: str) -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{source} {file.read().strip()}"
