"""``fastlayer system df``: what takes how much of the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, rows, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.maintenance.disk import DiskUsage, Line

COLUMNS = (
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
)
IMAGES = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
)
LAYERS = (
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("DRIVER", "Driver"),
    ("SIZE", "Size"),
    ("SHARED", "Shared"),
    ("MOUNTED", "Mounted"),
)
VOLUMES = (("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size"))
_SIZES = frozenset(
    {"Size", "Reclaimable", "SharedSize", "UniqueSize", "Shared", "TotalCount", "Active", "Containers", "Links"}
)


@declare.command("df")
@declare.option("-v", "--verbose", is_flag=True, help="Every image, writable layer and volume.")
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """Show what images, writable layers and volumes take on disk, and what of it could go.

    What several images share - layers, and blocks by reflink or hard link - counts once in the totals.
    """
    from fastlayer.maintenance.disk import disk_usage

    with stores.open_as_root(given) as store:
        usage = disk_usage(store)
    if not given["verbose"]:
        rows.show(given["format_"], COLUMNS, map(_line, usage.lines), _SIZES)
        return 0
    _verbose(usage, given["format_"])
    return 0


def _line(line: Line) -> rows.Row:
    percent = f" ({100 * line.reclaimable // line.size}%)" if line.size else ""
    return {
        "Type": line.type,
        "TotalCount": line.total,
        "Active": line.active,
        "Size": output.human(line.size),
        "Reclaimable": output.human(line.reclaimable) + percent,
        "Bytes": line.size,
    }


def _verbose(usage: DiskUsage, format_: str) -> None:
    for title, columns, found in (
        ("Images space usage:", IMAGES, _images(usage)),
        ("Containers space usage:", LAYERS, _layers(usage)),
        ("Local Volumes space usage:", VOLUMES, _volumes(usage)),
    ):
        if format_ == "table":
            print(f"{title}\n")
        rows.show(format_, columns, found, _SIZES)
        if format_ == "table":
            print()


def _images(usage: DiskUsage) -> list[rows.Row]:
    return [
        {
            "Repository": repository,
            "Tag": tag,
            "ID": stores.short(row.image.id),
            "CreatedSince": stores.ago(row.image.created),
            "Size": output.human(row.size),
            "SharedSize": output.human(row.shared),
            "UniqueSize": output.human(row.unique),
            "Containers": row.users,
        }
        for row in usage.images
        for repository, tag in map(stores.familiar, row.image.names or [str(row.image.id)])
    ]


def _layers(usage: DiskUsage) -> list[rows.Row]:
    return [
        {
            "Name": row.layer.name,
            "Image": stores.shown(row.layer.image),
            "Driver": row.layer.driver,
            "Size": output.human(row.size),
            "Shared": output.human(row.shared),
            "Mounted": "yes" if row.mounted else "no",
        }
        for row in usage.writable
    ]


def _volumes(usage: DiskUsage) -> list[rows.Row]:
    return [
        {"Name": row.volume.name, "Links": row.links, "Size": "N/A" if row.size is None else output.human(row.size)}
        for row in usage.volumes
    ]
