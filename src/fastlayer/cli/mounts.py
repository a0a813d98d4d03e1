"""``fastlayer mounts``: what is mounted, and the writable layers, mounted or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, output, rows, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.container.mounted import Mounted
    from fastlayer.container.writable import Writable
    from fastlayer.store.store import Store

COLUMNS = (
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("MODE", "Mode"),
    ("DRIVER", "Driver"),
    ("CREATED", "CreatedSince"),
    ("TARGET", "Target"),
)
USAGE = (("COPIED UP", "Changes"), ("SIZE", "Size"), ("SHARED", "Shared"))
EPILOG = """\b
Examples:
  fastlayer mounts
  fastlayer mounts --filter image=debian:12 --filter writable=true
  fastlayer mounts --usage         how much was copied up, and how much of it is shared with the image
"""


@declare.command("mounts", epilog=EPILOG)
@declare.option("-q", "--quiet", is_flag=True, help="Only the targets.")
@declare.option("--usage", is_flag=True, help="Measure the writable layers: files copied up or added, bytes on disk.")
@filters.filter_option("name", "image", "driver", "writable")
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """List mounts and writable layers. A layer that is mounted nowhere has no target."""
    from fastlayer.errors import show_path

    if given["usage"]:
        as_root(given)
    with stores.store_if_any(given) as store:
        found = [] if store is None else _found(store, given["filters"], usage=given["usage"])
    if given["quiet"]:
        output.write_lines(
            show_path(row["Target"]).encode("utf-8", "surrogateescape") for row in found if row["Target"]
        )
        return 0
    columns = (*COLUMNS, *USAGE) if given["usage"] else COLUMNS
    blank = {field: "" for _, field in USAGE}
    rows.show(given["format_"], columns, [{**blank, **row} for row in found], frozenset({"Changes", "Size", "Shared"}))
    return 0


def _found(store: Store, wanted: filters.Filters, *, usage: bool) -> list[rows.Row]:
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts

    mounted = all_mounts(store)
    places = {mount.writable: mount for mount in mounted if mount.writable}
    meant = filters.MountFilter(store, wanted)
    found = [_row(store, None, mount) for mount in mounted if not mount.writable and meant(mount)]
    for layer in writable.all_of(store):
        if meant(layer):
            row = _row(store, layer, places.get(layer.name))
            found.append({**row, **(_usage(store, layer) if usage else {})})
    return found


def _row(store: Store, layer: Writable | None, mount: Mounted | None) -> rows.Row:
    from fastlayer.container import writable

    thing = layer or mount
    assert thing is not None
    return {
        "Name": layer.name if layer else "",
        "Image": stores.shown(thing.image),
        "Mode": "rw" if layer else "ro",
        "Driver": thing.driver,
        "CreatedSince": stores.elapsed(time.time() - thing.created_ns / 1e9) + " ago",
        "CreatedAt": thing.created_ns,
        "Target": mount.target if mount else "",
        "Here": bool(mount and mount.here),
        "Process": mount.process if mount else 0,
        "StorageOptions": writable.storage_options(store, thing),
    }


def _usage(store: Store, layer: Writable) -> rows.Row:
    from fastlayer.container import writable

    with writable.changes(store, layer) as changes:
        files = sum(change.kind != "D" and change.type != "dir" for change in changes)
    usage = writable.usage(store, layer)
    return {"Changes": files, "Size": output.human(usage.bytes), "Shared": output.human(usage.shared)}
