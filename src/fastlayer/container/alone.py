"""Who works with a writable layer that must not be mounted meanwhile: an advisory lock for each (flock(2))."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.errors import InUseError
from fastlayer.store.locks import attempt

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_PATIENCE = 5.0  # seconds: a mount is made in milliseconds


@contextmanager
def alone(store: Store, name: str, *, shared: bool = False) -> Iterator[None]:
    """The lock of the layer ``name`` for the block; ``shared``: with others who only read it.

    The kernel drops it when the process ends. Raises ``InUseError`` when others do not come to an end. In a store that
    cannot be written nobody works.
    """
    if store.read_only:
        yield
        return
    path = _place(store, name)
    end = time.monotonic() + _PATIENCE
    while (fd := attempt(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)) is None:
        if time.monotonic() >= end:
            raise InUseError(f"{name}: another fastlayer is at work on it: try again when that is done")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(fd)


def forget(store: Store, name: str) -> None:
    """The layer is gone; whoever has its lock takes the file away, too."""
    _place(store, name).unlink(missing_ok=True)


def sweep(store: Store, names: Callable[[], set[str]]) -> None:
    """Locks of layers that are none of ``names``: who has removed those was killed before it took the files away."""
    try:
        left = [name for name in os.listdir(store.root / "locks") if not name.startswith(".")]
    except FileNotFoundError:
        return
    known = names() if left else set()
    for name in left:
        if name not in known and (fd := attempt(_place(store, name))) is not None:
            try:
                if name not in names():
                    forget(store, name)
            finally:
                os.close(fd)


def _place(store: Store, name: str) -> Path:
    return store.root / "locks" / name
