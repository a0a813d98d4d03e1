"""``fastlayer volume``: making, listing and removing volumes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, options, output, rows, stores
from fastlayer.cli.line import declare
from fastlayer.cli.plain import Labels
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.volume.books import Volume
    from fastlayer.volume.trees import Copied
    from fastlayer.volume.volumes import Details, Volumes

_VERBS = {
    "create": ("volume:create", "Create a volume."),
    "ls": ("volume:ls", "List volumes."),
    "inspect": ("volume:inspect", "Show everything about volumes, as JSON."),
    "rm": ("volume:rm", "Remove volumes."),
    "prune": ("volume:prune", "Remove volumes that nobody uses."),
    "clone": ("volume_copies:clone", "Copy a volume, sharing its data where the file system can."),
    "snapshot": ("volume_copies:snapshot", "Give what a volume holds now a name."),
    "snapshots": ("volume_copies:snapshots", "List and remove snapshots of a volume."),
    "restore": ("volume_copies:restore", "Put a volume back to a snapshot."),
    "export": ("volume_copies:export", "Write the files of a volume as a tar or an OCI artifact."),
    "import": ("volume_copies:import_", "Make a volume of a tar or an OCI artifact."),
}
COLUMNS = (("DRIVER", "Driver"), ("VOLUME NAME", "Name"))
SIZED = (*COLUMNS, ("LINKS", "Links"), ("SIZE", "Size"))


command = declare.Group("volume", "Data that outlives containers.", {"Verbs": _VERBS})


root_option = declare.option(
    "--root",
    metavar="DIR",
    type=options.WORD,
    help="The store (default: FASTLAYER_ROOT, /var/lib/fastlayer, or your data directory).",
)
storage_driver_option = declare.option(
    "--storage-driver", metavar="NAME", help="Of volumes made of images (default: as for mount)."
)
label_option = declare.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="Metadata; repeatable.")


def volumes_of(given: dict[str, Any], *, create: bool = False, unused: bool = False) -> Any:
    """The volumes of the store that was asked for; a context manager.

    ``unused``: those that containers have no more, but could not give back, are given back first.
    """
    from contextlib import contextmanager

    from fastlayer.volume.volumes import Volumes

    @contextmanager
    def opened() -> Any:
        as_root(given)
        with stores.open_store({"root": given["root"], "driver": given.get("storage_driver")}, create=create) as store:
            if unused:
                from fastlayer.container import lifecycle

                lifecycle.recover(store)
            yield Volumes(store)

    return opened()


def labels_of(given: dict[str, Any]) -> dict[str, str]:
    """``KEY`` alone has an empty value; the last of several wins, as in Docker."""
    found = {}
    for word in given["labels"]:
        key, _, value = word.partition("=")
        if not key:
            raise declare.LineError(f"--label {word!a}: give KEY=VALUE")
        found[key] = value
    return found


def tell_copied(copied: Copied | None) -> None:
    """On stderr, what a copy could not do as well as it might."""
    if copied is None:
        return
    notes = list(copied.warnings)
    if copied.changed:
        files = "file was" if copied.changed == 1 else "files were"
        notes.append(f"{copied.changed} {files} written to meanwhile, and taken as read")
    if copied.copied_bytes:
        notes.append(
            f"{output.human(copied.copied_bytes)} were copied, as this file system cannot share them: "
            "XFS, btrfs and others do"
        )
    output.warn(notes)


# ---- create ------------------------------------------------------------------------------------------

CREATE = """\b
Options of the driver local (-o):
  size=10g                                at most so much (XFS or ext4 with prjquota, btrfs, tmpfs)
  type=tmpfs,device=tmpfs,o=...           each of the three as an -o of its own, as in Docker
  type=none, device=/srv/data, o=bind     a directory of this machine
  type=nfs, device=:/export, o=addr=10.0.0.1,rw
  image=NAME                              the tree of an image, to be written to
  clone=VOLUME, snapshot=VOLUME@SNAPSHOT  a copy
\b
Examples:
  fastlayer volume create data
  fastlayer volume create --label team=db -o size=20g pgdata
  fastlayer volume create -o type=tmpfs -o device=tmpfs -o o=size=64m,uid=1000 scratch
  fastlayer volume create -o image=node:22 modules
  fastlayer volume create -d sshfs -o sshcmd=me@host:/srv remote     a Docker volume plugin
"""


@declare.command("create", epilog=CREATE)
@declare.argument("name", required=False)
@declare.option("-d", "--driver", default="local", show_default=True, metavar="NAME", help="The volume driver.")
@declare.option("-o", "--opt", "opts", multiple=True, metavar="KEY=VALUE", help="An option of the driver; repeatable.")
@label_option
@declare.option("--name", "old_name", metavar="NAME", hidden=True)
@storage_driver_option
@root_option
def create(**given: Any) -> int:
    """Create a volume and print its name; without NAME, 64 hexadecimal digits.

    Drivers are local, those that Python packages bring along, and Docker's volume plugins on this machine.
    """
    if given["name"] is not None and given["old_name"] is not None:
        raise declare.LineError("the name is given twice: leave out --name")
    name = given["name"] if given["name"] is not None else given["old_name"]
    opts, labels = options.pairs("-o", given["opts"]), labels_of(given)
    with volumes_of(given, create=True) as volumes:
        made = volumes.create(name, driver=given["driver"], options=opts, labels=labels)
        tell_copied(volumes.copied)
    print(made.name)
    return 0


# ---- ls, inspect ---------------------------------------------------------------------------------------


LISTED = """\b
Examples:
  fastlayer volume ls -s
  fastlayer volume ls -q --filter dangling=true --filter label=team=db
  fastlayer volume ls --format '{{.Name}} {{.Mountpoint}}'
"""
INSPECTED = """\b
Examples:
  fastlayer volume inspect data
  fastlayer volume inspect -f '{{.Mountpoint}} {{index .Labels "team"}}' data
"""


@declare.command("ls", epilog=LISTED)
@declare.option("-q", "--quiet", is_flag=True, help="Only the names.")
@declare.option("-s", "--size", is_flag=True, help="Measure them, and count who has them.")
@filters.filter_option("dangling", "driver", "label", "name", short=True)
@rows.format_option
@root_option
def ls(**given: Any) -> int:
    """List volumes. `dangling=true`: those that nobody has; `name=`: a part of the name."""
    found: list[rows.Row] = []
    if given["size"]:
        as_root(given)
    with stores.store_if_any({**given, "driver": None}) as store:
        if store is not None:
            from fastlayer.volume.volumes import Volumes

            volumes = Volumes(store)
            meant = filters.VolumeFilter(volumes.in_use(), given["filters"])
            found = [_row(volumes, volume, measured=given["size"]) for volume in volumes.all() if meant(volume)]
    if given["quiet"]:
        output.write_lines(row["Name"].encode() for row in found)
        return 0
    rows.show(given["format_"], SIZED if given["size"] else COLUMNS, found, frozenset({"Size", "Links"}))
    return 0


def _row(volumes: Volumes, volume: Volume, *, measured: bool) -> rows.Row:
    """Docker's fields. Other drivers are not asked: one that hangs would keep the list."""
    from fastlayer.volume import books

    local = volume.driver == books.LOCAL
    row = {
        "Driver": volume.driver,
        "Labels": Labels(volume.labels),
        "Links": "N/A",
        "Mountpoint": str(volumes.path(volume) or "") if local else "",
        "Name": volume.name,
        "Scope": "local" if local else "",
        "Size": "N/A",
    }
    if measured:
        size = volumes.size(volume)
        row["Links"] = str(len(books.users_of(volumes.store, volume.name)))
        row["Size"] = "N/A" if size is None else output.human(size)
    return row


@declare.command("inspect", epilog=INSPECTED)
@declare.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@declare.option(
    "-f", "--format", "format_", default="json", metavar="TEMPLATE", help="Go-style; a line for each VOLUME."
)
@declare.option("-s", "--size", is_flag=True, help="Measure them: UsageData.")
@storage_driver_option
@root_option
def inspect(**given: Any) -> int:
    """Show volumes as JSON: Docker's fields, and who has them (Users)."""
    from fastlayer.cli.inspect import show, template_of

    template = template_of(given["format_"])
    with volumes_of(given) as volumes:
        return show(
            given["names"],
            template,
            lambda name: inspected(volumes, volumes.details(name), measured=given["size"]),
        )


def inspected(volumes: Volumes, details: Details, *, measured: bool) -> dict[str, Any]:
    """Docker's fields, and who has it; ``measured``: with what it takes."""
    volume = details.volume
    created = datetime.fromtimestamp(volume.created_ns // 10**9, UTC)
    found: dict[str, Any] = {
        "CreatedAt": created.isoformat().replace("+00:00", "Z"),
        "Driver": volume.driver,
        "Labels": dict(volume.labels),
        "Mountpoint": str(details.path or ""),
        "Name": volume.name,
        "Options": dict(volume.options),
        "Scope": details.scope,
        "Users": [{"User": user.user, "Mounted": user.mounted} for user in details.users],
    }
    if details.status:
        found["Status"] = dict(details.status)
    if measured:
        size = volumes.size(volume)
        found["UsageData"] = {"RefCount": len(details.users), "Size": -1 if size is None else size}
    return found


# ---- rm, prune -------------------------------------------------------------------------------------------


PRUNED = """\b
Examples:
  fastlayer volume prune
  fastlayer volume prune -a --filter 'label!=keep'
"""


@declare.command("rm", epilog="\b\nExample:\n  fastlayer volume rm data scratch\n")
@declare.argument("names", nargs=-1, required=True, metavar="VOLUME...")
@declare.option("-f", "--force", is_flag=True, help="No error for one that is not there, or whose driver fails.")
@root_option
def rm(**given: Any) -> int:
    """Remove volumes with all that is in them, and their snapshots. One that is in use stays, also with --force."""
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    with volumes_of(given, create=given["force"], unused=True) as volumes:
        for name in given["names"]:
            try:
                volumes.remove(name, force=given["force"])
                print(name)
            except FastlayerError as exc:
                failed.append(exc)
    return stores.all_failed(failed)


@declare.command("prune", epilog=PRUNED)
@declare.option("-a", "--all", "all_", is_flag=True, help="Also volumes with a name.")
@declare.option("-f", "--force", is_flag=True, help="Do not ask.")
@declare.option("--dry-run", is_flag=True, help="Only tell what would go.")
@filters.filter_option("label", "label!", "all")
@root_option
def prune(**given: Any) -> int:
    """Remove anonymous volumes that nobody has; with --all every volume that nobody has."""
    from fastlayer.cli.prune import confirm

    named = given["all_"] or True in filters.truth(given["filters"], "all")
    with volumes_of(given, unused=True) as volumes:
        confirm(given, "all volumes that nobody has" if named else "all anonymous volumes that nobody has")
        meant = filters.VolumeFilter(set(), given["filters"])
        gone = volumes.prune(named=named, dry_run=given["dry_run"], meant=meant)
    tell_pruned(gone, dry_run=given["dry_run"])
    return 0


def tell_pruned(gone: list[tuple[Volume, int]], *, dry_run: bool) -> None:
    """What went, as Docker says it."""
    for volume, _ in gone:
        print(f"{'Would remove' if dry_run else 'Removed'}: {volume.name}")
    total = output.human(sum(size for _, size in gone))
    print(f"Total {'that would be ' if dry_run else ''}reclaimed space: {total}")
    sys.stdout.flush()
