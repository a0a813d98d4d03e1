"""Volumes for tests."""

from __future__ import annotations

from pathlib import Path

from fastlayer.volume.volumes import Volumes
from tests.stores import tree


def filled(volumes: Volumes, name: str = "data") -> Path:
    """A volume with files."""
    volumes.create(name)
    place = volumes.acquire(name, "filler")
    tree(place, {"a": "1", "dir/b": "22", "dir/sub/c": "333"})
    volumes.release("filler")
    return place


def content(place: Path) -> dict[str, str]:
    """The plain files below a directory, byte by byte as text."""
    files = [path for path in sorted(place.rglob("*")) if path.is_file()]
    return {str(path.relative_to(place)): path.read_text("latin-1") for path in files}
