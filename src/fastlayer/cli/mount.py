"""``fastlayer mount``: an image as a directory, read-only or with a writable layer on top."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.store.store import Store

EPILOG = """\b
Examples:
  fastlayer mount debian /mnt                      read-only
  fastlayer mount --rw --name work debian /mnt     with a writable layer `work` on top
  fastlayer mount --rw --name work /mnt            the same layer again, with what was written to it
  fastlayer mount --rw --size 2g debian /mnt       not more than 2 GB may be written (where the driver can limit)
  fastlayer mount --rw --no-mount --name w debian  without any right: prints the directory of the layer (vfs, btrfs)
  fastlayer mount --rw --storage-opt volatile=on debian /mnt     nothing is synced (overlay2)
"""


@declare.command("mount", epilog=EPILOG)
@declare.argument("words", nargs=-1, metavar="[IMAGE] TARGET", type=options.WORD)
@declare.option("--rw", is_flag=True, help="With a writable layer.")
@declare.option(
    "--name",
    metavar="NAME",
    type=options.WORD,
    help="Of the writable layer (made with --rw); one that exists is used again.",
)
@declare.option("--size", metavar="SIZE", help="Bytes the new writable layer may take (k, m, g).")
@declare.option(
    "--storage-opt",
    "storage_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the new writable layer, for each mount of it; overlay2: metacopy, redirect_dir, volatile, id_map.",
)
@declare.option("--no-mount", is_flag=True, help="Only make the writable layer; print its directory (vfs, btrfs).")
@declare.option("--json", "as_json", is_flag=True, help="Print the mount as JSON.")
@stores.platform_option()
@stores.store_options
def command(**given: Any) -> int:
    """Mount IMAGE (a name, id, digest, or the chain id of layers) at TARGET, an existing directory."""
    from fastlayer.container import mounting, writable
    from fastlayer.image.images import Images

    if given["no_mount"]:
        return _in_place(given)
    image, target = _words(given)
    chosen = options.pairs("--storage-opt", given["storage_options"])
    if "size" in chosen:
        raise declare.LineError("--storage-opt size: give --size instead")
    size = options.size(given["size"])
    if size is not None and not given["rw"]:
        raise declare.LineError("--size is of the writable layer that --rw makes: give --rw, or leave out --size")
    if chosen and given["name"] and not given["rw"]:
        raise declare.LineError("--storage-opt is for a layer that --rw makes: give --rw, or leave it out")
    warnings: list[str] = []
    with stores.open_store(given) as store:
        if given["rw"] or given["name"]:
            if not given["rw"]:
                _known(store, given["name"])
            platform = stores.platform(given)
            found = mounting.mount_layer(
                store,
                image,
                given["name"],
                target,
                size=size,
                storage_options=chosen,
                platform=platform,
                warnings=warnings,
            )
        else:
            assert image is not None
            stack = Images(store).find_stack(image, stores.platform(given))
            found = mounting.mount_image(store, stack, target, storage_options=chosen, warnings=warnings)
        used = writable.storage_options(store, found)
    output.warn(warnings)
    if given["as_json"]:
        print(output.json_line({"schema": 1, **found._asdict(), "storage_options": used}).decode())
    else:
        print(found.writable or output.display_name(found.target))
    return 0


def _in_place(given: dict[str, Any]) -> int:
    """Nothing is mounted: who has no right to works in the layer's own directory."""
    from fastlayer.container import mounting

    words = list(given["words"])
    if not given["rw"] or len(words) > 1 or not (words or given["name"]):
        raise declare.LineError("--no-mount makes a writable layer: give --rw, an image or --name, and no target")
    chosen = options.pairs("--storage-opt", given["storage_options"])
    warnings: list[str] = []
    with stores.open_as_root(given) as store:
        layer, place = mounting.layer_in_place(
            store,
            words[0] if words else None,
            given["name"],
            size=options.size(given["size"]),
            storage_options=chosen,
            platform=stores.platform(given),
            warnings=warnings,
        )
    output.warn(warnings)
    if given["as_json"]:
        print(output.json_line({"schema": 1, "directory": str(place), **layer._asdict()}).decode())
    else:
        print(output.display_name(str(place)))
    return 0


def _known(store: Store, name: str) -> None:
    """Only --rw makes a layer; one that exists may be mounted again without."""
    from fastlayer.container import writable
    from fastlayer.errors import NotFoundError, UsageError

    try:
        writable.find(store, name)
    except NotFoundError:
        raise UsageError(f"{name}: no writable layer of that name: give --rw to make it") from None


def _words(given: dict[str, Any]) -> tuple[str | None, str]:
    words = list(given["words"])
    if len(words) == 2:
        return words[0], words[1]
    if len(words) == 1 and given["name"]:
        return None, words[0]
    raise declare.LineError("an image and a target are needed (the image may be left out with the --name of a layer)")
