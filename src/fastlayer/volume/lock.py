"""Who works on a volume now: an advisory lock for each (flock(2)), in ``<root>/volumes/.locks``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import InUseError
from fastlayer.store.locks import attempt
from fastlayer.volume.names import check_name, check_state_name

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_PATIENCE = 120.0  # seconds: a plugin may take its time to mount
_PAUSE = 0.005


@contextmanager
def alone(store: Store, name: str, *, state: str = "") -> Iterator[None]:
    """The lock of the volume, or of a snapshot of it, for the block; the kernel drops it when the process ends.

    What takes long is done without the volume's. Who needs both takes the volume's first.

    Raises ``InUseError`` when others do not come to an end, ``UsageError`` for what cannot be the name of a volume.
    """
    path = _place(store, check_name(name), check_state_name(state) if state else "")
    end = time.monotonic() + _PATIENCE
    while (fd := attempt(path)) is None:
        if time.monotonic() >= end:
            raise InUseError(f"volume {name}: another fastlayer is at work on it: try again when that is done")
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def alone_if_free(store: Store, name: str) -> Iterator[bool]:
    """Whether the lock of the volume could be had at once, for the block."""
    fd = attempt(_place(store, name))
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def forget(store: Store, name: str) -> None:
    """The volume is gone; whoever has its lock takes the files away, too."""
    place = _place(store, name)
    for path in (place, *place.parent.glob(f"{name}@*")):
        path.unlink(missing_ok=True)


def names(store: Store) -> set[str]:
    """Whatever somebody has had a lock of, be it a volume or not."""
    try:
        return {found.partition("@")[0] for found in os.listdir(store.root / "volumes" / ".locks")}
    except FileNotFoundError:
        return set()


def _place(store: Store, name: str, state: str = "") -> Path:
    return store.root / "volumes" / ".locks" / (f"{name}@{state}" if state else name)
