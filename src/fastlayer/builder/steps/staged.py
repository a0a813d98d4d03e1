"""Copies of what contexts and stages hold, for mounts that leave something out or may be written to."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.running.idmaps import give

if TYPE_CHECKING:
    from fastlayer.builder.steps.origins import Origin
    from fastlayer.builder.workshop import Workshop


def copy_out(shop: Workshop, origin: Origin, path: bytes) -> str:
    """The path of a copy that ends with the build: of a directory with all below it, or of a file.

    ``path``: without links. The directory's mode and owner are those of the original: what keeps others out is above.
    """
    place = shop.directory()
    fill(shop, origin, path, place)
    entry = origin.tree().find(path)
    if entry is None or not stat.S_ISDIR(entry.mode):
        return os.fspath(place / "file")
    if os.geteuid() == 0:
        give(place, entry.uid, entry.gid)
    place.chmod(stat.S_IMODE(entry.mode))
    return os.fspath(place)


def fill(shop: Workshop, origin: Origin, path: bytes, place: Path) -> None:
    """Copies what is in a directory into the empty directory ``place``; of a file: as ``file`` in it."""
    from fastlayer import _backend
    from fastlayer.builder.copying.gather import everything
    from fastlayer.layer.placing import place as put

    rows = everything(origin.tree(), path, keep_owner=origin.keep_owner)
    builder = _backend.engine().changes.TableBuilder()
    for batch in rows:
        shop.check()
        builder.add(batch)
    put(builder.finish(), [origin.tree().fd], place, ignore_chown=os.geteuid() != 0)
