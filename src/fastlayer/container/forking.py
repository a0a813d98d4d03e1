"""``fork``: a container like another one, with all that was written to that, in an instant.

It has the configuration of the other, the same binds and named volumes, and its own copies of the anonymous ones; it
does not run. Ids of ``--userns auto`` are the other's, too, since what is in the layer belongs to them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastlayer.container import checkpoints, containers, names, volumes, writable
from fastlayer.container.create import establish, refuse_taken
from fastlayer.container.mountoptions import MountOption, of_record, to_record
from fastlayer.container.state import timestamp
from fastlayer.image.images import Images
from fastlayer.volume.books import LOCAL

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
    from fastlayer.container.create import Note
    from fastlayer.store.store import Store


def fork(
    store: Store,
    container: Container,
    new: str,
    *,
    checkpoint: str | None = None,
    warnings: list[str] | None = None,
) -> Container:
    """The container ``new``. ``checkpoint``: what the other held then, instead of now. It may be running.

    Raises ``AlreadyExistsError`` for the name, ``NotFoundError`` for the checkpoint, ``UsageError`` for a name that is
    none and for a container without a writable layer.
    """
    name = new.removeprefix("/")
    writable.check_name(name)
    refuse_taken(store, name)
    layer = writable.of_container(store, container.id)
    writable.refuse_readonly(store, layer)
    made = container._replace(id=names.new_id(), name=name, created_ns=time.time_ns())
    record = _record(store, container, made)
    mounts = [of_record(row) for row in record["MountOptions"]]
    held = volumes.prepare(store, Images(store).of_manifest(layer.manifest), made.id, map(_asked, mounts))
    record["MountOptions"] = [to_record(_noted(was, now)) for was, now in zip(mounts, held, strict=True)]

    def copy(note: Note) -> None:
        key = containers.layer_key(made.id)
        checkpoints.fork(store, layer, name, checkpoint=checkpoint, warnings=warnings, key=key, note=note)

    with volumes.given_back_on_failure(store, made.id, held):
        establish(store, made, record, (layer.driver, layer.image, layer.manifest), copy)
    return made


def _record(store: Store, container: Container, made: Container) -> dict[str, Any]:
    """What was asked for, for another one: its id, and a host name that was made of the id."""
    record = containers.config_of(store, container)
    config = record["Config"]
    if config.get("Hostname") == container.short_id:
        config["Hostname"] = made.short_id
    record["HostConfig"]["ContainerIDFile"] = ""
    return {**record, "Id": made.id, "Created": timestamp(made.created_ns)}


def _asked(mount: MountOption) -> MountOption:
    """A named volume as it is; an anonymous one as a copy, which nothing of the image is put into."""
    if mount.kind != "volume":
        return mount
    if not mount.anonymous:
        return mount._replace(driver="", options={})
    return mount._replace(source="", driver=LOCAL, options={"clone": mount.source}, nocopy=True)


def _noted(was: MountOption, now: MountOption) -> MountOption:
    """As the other has it noted, but for the name of its volume."""
    return was._replace(source=now.source)
