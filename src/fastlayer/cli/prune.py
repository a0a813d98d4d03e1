"""Pruning: what nobody uses goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, output, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.store.collect import Collected

EPILOG = """\b
Examples:
  fastlayer image prune -a --filter until=240h --filter 'label!=keep'
"""


@declare.command("prune", epilog=EPILOG)
@declare.option("-a", "--all", "all_", is_flag=True, help="Also images that no writable layer or mount is made of.")
@declare.option("-f", "--force", is_flag=True, help="Do not ask.")
@declare.option("--dry-run", is_flag=True, help="Only tell what would go.")
@filters.filter_option("until", "label", "label!")
@stores.store_options
def image_prune(**given: Any) -> int:
    """Remove what no image uses any more: layers and blobs without a name; with --all also unused images.

    With --filter only images that fit: made before `until` (24h, or a time), with a label, without one (`label!=`).
    """
    what = "all images without a writable layer or mount" if given["all_"] else "everything that no image uses"
    return _prune(given, what, layers=False)


@declare.command("prune")
@declare.option("-a", "--all", "all_", is_flag=True, help="Also images that no writable layer or mount is made of.")
@declare.option("-f", "--force", is_flag=True, help="Do not ask.")
@declare.option("--volumes", is_flag=True, help="Also anonymous volumes that nobody has.")
@declare.option("--dry-run", is_flag=True, help="Only tell what would go.")
@stores.store_options
def system_prune(**given: Any) -> int:
    """Remove containers that do not run, layers that are not mounted, and everything that no image uses."""
    more = ", anonymous volumes that nobody has" if given["volumes"] else ""
    what = f"stopped containers and layers that are not mounted, with what was written to them{more}, and unused images"
    return _prune(given, what, layers=True)


def _prune(given: dict[str, Any], what: str, *, layers: bool) -> int:
    from fastlayer.image.images import Images
    from fastlayer.maintenance.prune import prune
    from fastlayer.store import downloads
    from fastlayer.volume.volumes import Volumes

    dry_run = given["dry_run"]
    with stores.open_as_root(given) as store:
        confirm(given, what)
        meant = filters.ImageFilter(Images(store), given.get("filters", {}))
        volumes = Volumes(store).prune(dry_run=dry_run) if given.get("volumes") else []
        gone = prune(store, layers=layers, named=given["all_"], dry_run=dry_run, meant=meant)
        begun = (0, 0) if dry_run or not layers else downloads.sweep(store.root, older_than=0)
    removed, untagged = ("Would remove", "Would untag") if dry_run else ("Removed", "Untagged")
    for volume, _ in volumes:
        print(f"{removed}: volume {volume.name}")
    if begun[0]:
        print(f"{removed}: {_counted(begun[0], 'layer')} that had come in part ({output.human(begun[1])})")
    for name in gone.layers:
        print(f"{removed}: {name}")
    for name in gone.names:
        print(f"{untagged}: {stores.shown(name)}")
    for image in gone.images:
        print(f"{removed}: {stores.short(image)}")
    return _tell(gone.collected, dry_run)


@declare.command("gc")
@declare.option("--dry-run", is_flag=True, help="Only tell what would go.")
@stores.store_options
def collect_garbage(**given: Any) -> int:
    """Remove what nobody can reach, and what killed processes left behind. Safe while others work in the store."""
    from fastlayer.container import lifecycle
    from fastlayer.container.mounted import all_mounts
    from fastlayer.store.collect import collect
    from fastlayer.volume.volumes import clear_dead

    with stores.open_as_root(given) as store:
        if not given["dry_run"]:
            clear_dead(store)
            lifecycle.recover(store)
        all_mounts(store)  # forgets those that are gone, and what only they kept
        gone = collect(store, dry_run=given["dry_run"])
    return _tell(gone, given["dry_run"])


def confirm(given: dict[str, Any], what: str) -> None:
    """Asks on a terminal; elsewhere --force has to be given."""
    if given["force"] or given["dry_run"]:
        return
    if not sys.stdin.isatty():
        raise declare.LineError("nobody can be asked: give --force, or --dry-run to see what would go")
    print(f"This removes {what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SystemExit(1)


def _tell(gone: Collected, dry_run: bool) -> int:
    for digest in gone.blobs:
        print(f"{'Would delete' if dry_run else 'Deleted'}: {digest}")
    word = "could be" if dry_run else "were"
    blobs, snapshots = _counted(len(gone.blobs), "blob"), _counted(gone.snapshots, "snapshot")
    print(f"{blobs} ({output.human(gone.bytes)}) and {snapshots} {word} removed")
    return stores.all_failed(list(gone.failed))


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
