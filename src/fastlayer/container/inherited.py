"""All that is mounted in a container: what was asked for, what ``--volumes-from`` names, and ``VOLUME`` of the image.

As in Docker: what is asked for at a place wins, then the last container that has something there, then the image.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlayer.container import containers
from fastlayer.container.mountoptions import MountOption, of_record
from fastlayer.errors import UsageError
from fastlayer.image.images import Images

if TYPE_CHECKING:
    from fastlayer.container.options import Options
    from fastlayer.image.images import Image
    from fastlayer.store.store import Store

_MODES = ("ro", "rw", "z", "Z")


def all_mounts(store: Store, image: Image, asked: Options) -> tuple[MountOption, ...]:
    """Raises ``UsageError``, ``NotFoundError`` for a container that is not there."""
    given = [_with_driver(mount, asked) for mount in asked.mounts]
    found = {mount.target: mount for text in asked.volumes_from for mount in _of_container(store, text)}
    found |= {mount.target: mount for mount in given}
    for path in Images(store).config(image).run.volumes:
        place = os.path.normpath(f"/{path.lstrip('/')}")
        if place not in (*found, "/"):
            volume = MountOption("volume", place, short=True)
            found[place] = _with_driver(volume, asked)
    return tuple(found.values())


def _with_driver(mount: MountOption, asked: Options) -> MountOption:
    is_short_volume = mount.kind == "volume" and mount.short
    return mount._replace(driver=asked.volume_driver) if is_short_volume and asked.volume_driver else mount


def _of_container(store: Store, text: str) -> list[MountOption]:
    """Its volumes are taken as they are: nothing is made or filled for this one."""
    name, _, mode = text.partition(":")
    words = mode.split(",") if mode else []
    if not name or any(word not in _MODES for word in words) or len({"ro", "rw"} & set(words)) > 1:
        raise UsageError(f"invalid volumes-from specification: {text!r}: give CONTAINER, or CONTAINER:ro")
    container = containers.find(store, name)
    mounts = [of_record(row) for row in containers.config_of(store, container)["MountOptions"]]
    return [
        mount._replace(
            readonly=mount.readonly or "ro" in words,
            nocopy=True,
            driver="",
            options={},
            labels={},
        )
        for mount in mounts
        if not (mount.kind == "tmpfs" and mount.short)
    ]
