"""``create``: a writable layer on an image, with a configuration. Nothing runs yet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.container import containers, inherited, kept, names, options, userns, volumes, writable
from fastlayer.container.alone import alone
from fastlayer.container.containers import Container
from fastlayer.container.mountoptions import to_record
from fastlayer.container.state import timestamp, write_json
from fastlayer.errors import AlreadyExistsError, StorageError, UsageError
from fastlayer.image.images import Images

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.container.options import Options
    from fastlayer.image.images import Image
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store

    Note = Callable[[sqlite3.Connection], None]  # what becomes true in the transaction that makes a layer exist


def create(
    store: Store,
    image: str,
    command: Sequence[str] = (),
    asked: Options | None = None,
    *,
    name: str | None = None,
    platform: Platform | None = None,
    warnings: list[str] | None = None,
) -> Container:
    """A container of the image. ``command``: instead of the image's; ``name``: made up when it is not given.

    Raises ``NotFoundError`` for the image, ``AlreadyExistsError`` for the name, ``UsageError`` for options that cannot
    be.
    """
    asked = asked or options.Options()
    options.check(asked)
    if asked.userns == "auto":
        with alone(store, userns.LOCK):  # nobody else chooses the same ids
            given = {**asked.storage_options, **userns.options_of(store)}
            return _create(store, image, command, asked._replace(storage_options=given), name, platform, warnings)
    return _create(store, image, command, asked, name, platform, warnings)


def _create(
    store: Store,
    image: str,
    command: Sequence[str],
    asked: Options,
    name: str | None,
    platform: Platform | None,
    warnings: list[str] | None,
) -> Container:
    found = Images(store).find(image, platform)
    identity = names.new_id()
    every = inherited.all_mounts(store, found, asked)
    now = time.time_ns()
    record = _record(store, identity, image, found, command, asked, now)
    wanted = name
    if name is None:
        name = names.new_name(containers.names(store))
    else:
        name = name.removeprefix("/")
        writable.check_name(name)
        refuse_taken(store, name)
    container = Container(
        identity,
        name,
        image,
        str(found.id),
        (record["Path"], *record["Args"]),
        record["Config"]["Labels"],
        asked.auto_remove,
        now,
    )
    with _CidFile(asked.cidfile) as cidfile:
        mounts = volumes.prepare(store, found, identity, every)
        record["MountOptions"] = [to_record(mount) for mount in mounts]
        with volumes.given_back_on_failure(store, identity, mounts):
            container = _make_under_a_name(store, found, container, record, asked, warnings, given=wanted is not None)
        cidfile.write(identity)
    return container


def _make_under_a_name(
    store: Store,
    image: Image,
    container: Container,
    record: dict[str, Any],
    asked: Options,
    warnings: list[str] | None,
    *,
    given: bool,
) -> Container:
    """A name that was made up may be taken meanwhile: then it is another one."""
    while True:
        try:
            _make(store, image, container, record, asked, warnings)
            return container
        except AlreadyExistsError:
            if given:
                raise
            container = container._replace(name=names.new_name(containers.names(store)))


def refuse_taken(store: Store, name: str) -> None:
    """Raises ``AlreadyExistsError`` when a container has that name."""
    with store.database.read() as db:
        row = db.execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
    if row is not None:
        raise AlreadyExistsError(
            f'Conflict. The container name "/{name}" is already in use by container {row["id"][:12]}: '
            f"`fastlayer rm {name}` or `fastlayer rename` it, or give another name"
        )


def _record(
    store: Store, identity: str, name: str, image: Image, command: Sequence[str], asked: Options, now: int
) -> dict[str, Any]:
    for mount in asked.mounts:
        if mount.kind == "image":
            Images(store).find(mount.source)
        elif mount.kind == "bind" and not mount.make and not os.path.exists(mount.source):
            raise UsageError(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}: make it first'
            )
    targets = [mount.target for mount in asked.mounts]
    if len(set(targets)) != len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise UsageError(f"Duplicate mount point: {twice}: give it once")
    run = Images(store).config(image).run
    config = options.config(identity, name, run, command, asked)
    words = [*(config["Entrypoint"] or ()), *(config["Cmd"] or ())]
    return {
        "Id": identity,
        "Created": timestamp(now),
        "Path": words[0],
        "Args": words[1:],
        "Image": str(image.id),
        "Config": config,
        "HostConfig": options.host_config(asked),
        "MountOptions": [],
    }


def _make(
    store: Store,
    image: Image,
    container: Container,
    record: dict[str, Any],
    asked: Options,
    warnings: list[str] | None,
) -> None:
    def layer(note: Note) -> None:
        writable.create(
            store,
            image,
            container.name,
            size=asked.size,
            storage_options=asked.storage_options,
            warnings=warnings,
            key=containers.layer_key(container.id),
            readonly=asked.readonly_image,
            note=note,
        )

    establish(store, container, record, (store.snapshotter.driver.name, image.name, image.manifest), layer)


def establish(
    store: Store,
    container: Container,
    record: dict[str, Any],
    below: tuple[str, str, Digest],
    layer: Callable[[Note], None],
) -> None:
    """The container as a whole, or nothing of it. ``below``: driver, name and manifest of the image.

    ``layer`` makes the layer, and calls what it is given in the transaction that makes it exist.
    """
    final = containers.directory_of(store, container.id)
    fresh = final.with_name(f".new-{container.id}")

    def note(db: sqlite3.Connection) -> None:
        containers.insert(db, container)
        kept.note(db, fresh, container, *below)
        volumes.keep(db, container.id)
        os.rename(fresh, final)

    try:
        fresh.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(fresh / "config.json", record)
        layer(note)
    except BaseException as exc:
        import shutil

        for place in (fresh, final):
            shutil.rmtree(place, ignore_errors=True)
        if isinstance(exc, OSError) and not isinstance(exc, StorageError):
            raise StorageError(exc.errno or 0, "cannot make the container", os.fspath(final)) from exc
        raise


class _CidFile:
    """``--cidfile``: made before the container is, and gone again when that fails."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None

    def __enter__(self) -> _CidFile:
        if self._path is not None:
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            except FileExistsError:
                raise UsageError(
                    f"Container ID file found, make sure the other container isn't running or delete {self._path}"
                ) from None
            except OSError as exc:
                raise StorageError(exc.errno or 0, "cannot write the id", os.fspath(self._path)) from exc
        return self

    def write(self, identity: str) -> None:
        if self._path is not None:
            self._path.write_text(identity)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._path is not None:
            with suppress(OSError):
                self._path.unlink()
