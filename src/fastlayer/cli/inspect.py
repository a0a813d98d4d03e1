"""``fastlayer inspect``: everything that is known of a thing, as a JSON array, or through a template."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rows import Fields

if TYPE_CHECKING:
    from fastlayer.cli.template import Template
    from fastlayer.container.mounted import Mounted
    from fastlayer.container.writable import Writable
    from fastlayer.errors import FastlayerError
    from fastlayer.image.images import Image, Images
    from fastlayer.store.store import Store

EPILOG = """\b
Examples:
  fastlayer inspect debian:12
  fastlayer inspect -f '{{.Id}}' debian:12
  fastlayer inspect -f '{{json .Config.Cmd}} {{index .RepoTags 0}}' debian:12
  fastlayer inspect --type mount -f '{{.Image}}' /mnt
"""
# What a template finds where the image says nothing, as in Docker; the JSON leaves it out.
_EMPTY_CONFIG: dict[str, Any] = {
    **dict.fromkeys(("User", "WorkingDir", "StopSignal"), ""),
    **dict.fromkeys(("Env", "Entrypoint", "Cmd", "Shell", "OnBuild"), ()),
    **{key: {} for key in ("ExposedPorts", "Volumes", "Labels", "Healthcheck")},
}
# The same of containers.
_EMPTY_CONTAINER: dict[str, dict[str, Any]] = {
    "Config": {
        "StopSignal": "",
        "MacAddress": "",
        "StopTimeout": None,
        "Healthcheck": None,
        "Shell": (),
        "ExposedPorts": {},
        "NetworkDisabled": False,
        "ArgsEscaped": False,
    },
    "HostConfig": {"Sysctls": {}, "Annotations": {}},
    "State": {"Health": None},
}
_EMPTY_MOUNT: dict[str, Any] = {"Name": "", "Driver": ""}
_NO_SNAPSHOT: dict[str, Any] = {"Name": "", "Snapshot": "", "Mounts": ()}


@declare.command("inspect", epilog=EPILOG)
@declare.argument("names", nargs=-1, required=True, metavar="NAME...")
@declare.option("-f", "--format", "format_", default="json", metavar="TEMPLATE", help="Go-style; a line for each NAME.")
@declare.option(
    "--type",
    "type_",
    type=declare.Choice(["image", "container", "mount", "volume"]),
    help="Look among these only (default: all).",
)
@declare.option("-s", "--size", is_flag=True, help="Of containers: SizeRw and SizeRootFs, too.")
@stores.platform_option()
@stores.store_options
def command(**given: Any) -> int:
    """Show images, containers, writable layers, mounts (by their target) or volumes: a JSON array, an object for each
    NAME."""
    template = template_of(given["format_"])
    opened = stores.open_as_root if given["size"] else stores.open_store
    with opened(given) as store:
        return show(given["names"], template, lambda name: _inspect(store, name, given))


def show(names: Sequence[str], template: Template | None, look: Callable[[str], dict[str, Any]]) -> int:
    """The things of these names as one JSON array, or as the template has each; the exit code. ``look`` gives one."""
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    found: list[dict[str, Any]] = []
    lines: list[str] = []
    for name in names:
        try:
            thing = look(name)
            if template is None:
                found.append(thing)
            else:
                lines.append(filled(template, name, thing))
        except FastlayerError as exc:
            failed.append(exc)
    if template is None:
        print(json.dumps(found, indent=4))
    else:
        output.write_lines(line.encode("utf-8", "surrogateescape") for line in lines)
    return stores.all_failed(failed)


def template_of(text: str) -> Template | None:
    """None for JSON. Raises ``declare.LineError`` for what is no template."""
    from fastlayer.cli.plain import printable
    from fastlayer.cli.template import TemplateSyntaxError, compile_template

    if text in ("", "json"):
        return None
    try:
        return compile_template(text)
    except TemplateSyntaxError as exc:
        raise declare.LineError(f"--format {printable(text[:200])}: {exc}") from None


def filled(template: Template, name: str, thing: dict[str, Any]) -> str:
    """The line of one thing. Raises ``NotFoundError`` for what it has not got."""
    from fastlayer.cli.template import TemplateValueError
    from fastlayer.errors import NotFoundError, show_path

    try:
        return template.render(thing)
    except TemplateValueError as exc:
        raise NotFoundError(f"{show_path(name)}: {exc}") from None


def _inspect(store: Store, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The first thing of that name: a container or writable layer, an image, a mount, a volume. Else what was said of
    an image, or of the kind that was asked for."""
    from fastlayer.errors import NotFoundError

    said: list[FastlayerError] = []
    for look in _kinds(given["type_"]):
        try:
            return look(store, name, given)
        except NotFoundError as exc:
            said.append(exc)
    raise said[0] if given["type_"] else said[1]


def _kinds(type_: str | None) -> Iterator[Callable[[Store, str, dict[str, Any]], dict[str, Any]]]:
    for kind, look in (("container", _layer_of), ("image", _image_of), ("mount", _mount_of), ("volume", _volume_of)):
        if type_ in (None, kind):
            yield look


def _image_of(store: Store, name: str, given: dict[str, Any]) -> dict[str, Any]:
    from fastlayer.errors import NotFoundError, ReferenceFormatError
    from fastlayer.image.images import Images

    images = Images(store)
    try:
        return _image(images, images.find(name, stores.platform(given)))
    except ReferenceFormatError:
        if given["type_"] is None and name.startswith(("/", "./", "../")):
            raise NotFoundError(f"{name}: no image, and nothing of ours is mounted there") from None
        raise


def _layer_of(store: Store, name: str, given: dict[str, Any]) -> dict[str, Any]:
    from fastlayer.container import containers, inspecting, writable
    from fastlayer.errors import NotFoundError

    try:
        container = containers.find(store, name)
    except NotFoundError:
        container = None
    if container is not None:
        return _container(inspecting.inspect(store, container, size=given["size"]))
    return _writable(store, writable.find(store, name))


def _container(found: dict[str, Any]) -> dict[str, Any]:
    parts = {name: Fields(found[name], empty) for name, empty in _EMPTY_CONTAINER.items()}
    mounts = [Fields(mount, _EMPTY_MOUNT) for mount in found["Mounts"]]
    hidden = {"ID": found["Id"], "SizeRw": None, "SizeRootFs": None}
    return Fields({**found, **parts, "Mounts": mounts}, hidden)


def _mount_of(store: Store, name: str, _given: dict[str, Any]) -> dict[str, Any]:
    from fastlayer.container import mounted

    return _mount(store, mounted.find(store, name))


def _volume_of(store: Store, name: str, _given: dict[str, Any]) -> dict[str, Any]:
    from fastlayer.cli.volume import inspected
    from fastlayer.volume.volumes import Volumes

    volumes = Volumes(store)
    return inspected(volumes, volumes.details(name), measured=False)


def _image(images: Images, image: Image) -> dict[str, Any]:
    """Docker's names where Docker has the thing."""
    config = images.config(image)
    shown = {
        "Id": image.id,
        "RepoTags": [":".join(stores.familiar(name)) for name in image.names],
        "RepoDigests": sorted({f"{stores.familiar(name)[0]}@{image.target.digest}" for name in image.names}),
        "Digest": image.target.digest,
        "MediaType": image.target.media_type,
        "Manifest": image.manifest,
        "Created": config.created,
        "Author": config.author,
        "Os": config.platform.os,
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Config": Fields(config.run.to_dict(), _EMPTY_CONFIG),
        "Size": image.size,
        "ChainId": image.chain_id,
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Layers": [
            {
                "Digest": layer.digest,
                "DiffId": layer.diff_id,
                "MediaType": layer.media_type,
                "Size": layer.size,
                "TarSize": layer.tar_size,
                "FileBytes": layer.payload,
                "Present": layer.present,
            }
            for layer in image.layers
        ],
        "GraphDriver": Fields(_snapshots(images.store, image), _NO_SNAPSHOT),
    }
    return Fields(shown, {"ID": image.id})  # Docker's templates know both


def _snapshots(store: Store, image: Image) -> dict[str, Any]:
    if image.chain_id is None:
        return {}
    for driver in store.drivers_in_use():
        snapshotter = store.snapshotter_of(driver)
        if snapshotter.exists(image.chain_id):
            return {
                "Name": driver,
                "Snapshot": image.chain_id,
                "Mounts": [mount.to_dict() for mount in snapshotter.mounts(image.chain_id)],
            }
    return {}


def _writable(store: Store, layer: Writable) -> dict[str, Any]:
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts

    snapshotter = writable.snapshotter_of(store, layer)
    return {
        "Name": layer.name,
        "Image": layer.image,
        "Manifest": layer.manifest,
        "CreatedNs": layer.created_ns,
        "StorageOptions": writable.storage_options(store, layer),
        "MountedAt": [found.target for found in all_mounts(store) if found.writable == layer.name],
        "GraphDriver": {
            "Name": layer.driver,
            "Snapshot": layer.key,
            "Mounts": [mount.to_dict() for mount in snapshotter.mounts(layer.key)],
        },
    }


def _mount(store: Store, found: Mounted) -> dict[str, Any]:
    """``Name``: of the writable layer, if it is one."""
    from fastlayer.container import writable

    return {
        "Target": found.target,
        "Name": found.writable or "",
        "Image": found.image,
        "Mode": "rw" if found.writable else "ro",
        "CreatedNs": found.created_ns,
        "Here": found.here,
        "StorageOptions": writable.storage_options(store, found),
        "GraphDriver": {"Name": found.driver, "Snapshot": found.key},
    }
