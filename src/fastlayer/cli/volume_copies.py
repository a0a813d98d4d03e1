"""``fastlayer volume``: copies, snapshots, archives."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, rows, stores
from fastlayer.cli.line import declare
from fastlayer.cli.volume import label_option, labels_of, root_option, tell_copied, volumes_of

if TYPE_CHECKING:
    from fastlayer.volume.books import Snapshot

_SNAPSHOTS = {
    "ls": ("volume_copies:snapshots_ls", "List the snapshots of a volume."),
    "rm": ("volume_copies:snapshots_rm", "Remove snapshots of a volume."),
}
COLUMNS = (("NAME", "Name"), ("CREATED", "CreatedSince"))
CLONED = """\b
Examples:
  fastlayer volume clone data data-test
  fastlayer volume clone data@before-upgrade data-old     what a snapshot holds
"""


@declare.command("clone", epilog=CLONED)
@declare.argument("source")
@declare.argument("name")
@label_option
@root_option
def clone(**given: Any) -> int:
    """Make the volume NAME with all that SOURCE holds now, or held at a snapshot (VOLUME@SNAPSHOT).

    By reflink, instantly, on XFS, btrfs and others; elsewhere by copying, with a warning. Of a volume that is written
    to meanwhile a copy is of one moment on btrfs; elsewhere every file is taken as it is when it is read.
    """
    labels = labels_of(given) or None
    with volumes_of(given) as volumes:
        if "@" in given["source"]:
            made = volumes.create(given["name"], options={"snapshot": given["source"]}, labels=labels or {})
        else:
            made = volumes.clone(given["source"], given["name"], labels=labels)
        tell_copied(volumes.copied)
    print(made.name)
    return 0


@declare.command("snapshot", epilog="\b\nExample:\n  fastlayer volume snapshot data before-upgrade\n")
@declare.argument("name", metavar="VOLUME")
@declare.argument("snapshot", metavar="SNAPSHOT")
@root_option
def snapshot(**given: Any) -> int:
    """Give what a volume holds now a name, to restore or clone it later. Made as `volume clone` makes copies."""
    with volumes_of(given) as volumes:
        tell_copied(volumes.snapshot(given["name"], given["snapshot"]))
    print(given["snapshot"])
    return 0


snapshots = declare.Group("snapshots", "Snapshots of a volume.", {"Verbs": _SNAPSHOTS})


@declare.command("ls")
@declare.argument("name", metavar="VOLUME")
@declare.option("-q", "--quiet", is_flag=True, help="Only the names.")
@rows.format_option
@root_option
def snapshots_ls(**given: Any) -> int:
    """List the snapshots of a volume, oldest first."""
    with volumes_of(given) as volumes:
        found = [_row(state) for state in volumes.snapshots(given["name"])]
    if given["quiet"]:
        output.write_lines(row["Name"].encode() for row in found)
    else:
        rows.show(given["format_"], COLUMNS, found)
    return 0


def _row(state: Snapshot) -> rows.Row:
    return {
        "Name": state.name,
        "Volume": state.volume,
        "CreatedAt": state.created_ns,
        "CreatedSince": stores.elapsed(time.time() - state.created_ns / 1e9) + " ago",
    }


@declare.command("rm", epilog="\b\nExample:\n  fastlayer volume snapshots rm data monday tuesday\n")
@declare.argument("name", metavar="VOLUME")
@declare.argument("snapshots", nargs=-1, required=True, metavar="SNAPSHOT...")
@root_option
def snapshots_rm(**given: Any) -> int:
    """Remove snapshots of a volume. What was cloned from them stays."""
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    with volumes_of(given) as volumes:
        for name in given["snapshots"]:
            try:
                volumes.remove_snapshot(given["name"], name)
                print(name)
            except FastlayerError as exc:
                failed.append(exc)
    return stores.all_failed(failed)


@declare.command("restore", epilog="\b\nExample:\n  fastlayer volume restore data before-upgrade\n")
@declare.argument("name", metavar="VOLUME")
@declare.argument("snapshot", metavar="SNAPSHOT")
@root_option
def restore(**given: Any) -> int:
    """Put a volume back to a snapshot: what was written since is gone. Nobody may be working with its files."""
    with volumes_of(given, unused=True) as volumes:
        tell_copied(volumes.restore(given["name"], given["snapshot"]))
    print(given["name"])
    return 0


EXPORTED = """\b
Examples:
  fastlayer volume export data -o data.tar.zst
  fastlayer volume export data | ssh host fastlayer volume import data -
  fastlayer volume export data -o oci:backups:monday && skopeo copy oci:backups:monday docker://registry/data:monday
"""


@declare.command("export", epilog=EXPORTED)
@declare.argument("name", metavar="VOLUME")
@declare.option(
    "-o", "--output", "out", default="-", metavar="FILE|-|oci:DIR[:TAG]", help="Where to (default: stdout)."
)
@declare.option("--compression", type=declare.Choice(["none", "gzip", "zstd"]), help="Default: by the name; oci: gzip.")
@root_option
def export(**given: Any) -> int:
    """Write the files of a volume as a tar, compressed as its name says, or as an artifact in an OCI layout.

    Of a volume that is in use a clone is written.
    """
    if given["out"] == "-" and sys.stdout.isatty():
        raise declare.LineError("a tar is nothing for a terminal: give -o FILE, or redirect the output")
    with volumes_of(given) as volumes:
        target = sys.stdout.fileno() if given["out"] == "-" else given["out"]
        layer = volumes.export(given["name"], target, compression=given["compression"])
        output.warn(layer.warnings)
    return 0


@declare.command("import", epilog="\b\nExample:\n  fastlayer volume import --label from=backup data data.tar.zst\n")
@declare.argument("name", metavar="VOLUME")
@declare.argument("source", metavar="FILE|-|oci:DIR[:TAG]")
@declare.option("-o", "--opt", "opts", multiple=True, metavar="size=SIZE", help="A limit for the volume.")
@label_option
@root_option
def import_(**given: Any) -> int:
    """Make a volume of a tar (compressed or not) or of an artifact that `volume export` has made."""
    source = sys.stdin.fileno() if given["source"] == "-" else given["source"]
    with volumes_of(given, create=True) as volumes:
        made = volumes.import_archive(
            given["name"], source, options=options.pairs("-o", given["opts"]), labels=labels_of(given) or None
        )
        tell_copied(volumes.copied)
    print(made.name)
    return 0
