"""Mounts a ``Mount`` value where everybody sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer.mounts.mount import Mount
from fastlayer.mounts.mounting import mount, umount


@contextmanager
def attached(value: Mount, target: Path) -> Iterator[Path]:
    """Unmounted at the end of the block. ``target`` is made."""
    attach(value, target)
    try:
        yield target
    finally:
        detach(target)


def attach(value: Mount, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    mount([value], target)


def detach(target: Path) -> None:
    umount(target)
