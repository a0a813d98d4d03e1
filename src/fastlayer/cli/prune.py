"""Pruning: what nobody uses goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from fastlayer.cli import output, stores
from fastlayer.errors import InUseError, NotFoundError

if TYPE_CHECKING:
    from fastlayer.store.collect import Collected
    from fastlayer.store.store import Store


@click.command("prune")
@click.option("-a", "--all", "all_", is_flag=True, help="Also images that no writable layer or mount is made of.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@stores.store_options
def image_prune(**given: Any) -> int:
    """Remove what no image uses any more: layers and blobs without a name; with --all also unused images."""
    with stores.open_store(given) as store:
        what = "all images without a writable layer or mount" if given["all_"] else "everything that no image uses"
        _confirm(given, what)
        _untag(store, given["dry_run"], everything=given["all_"])
        return _collect(store, given["dry_run"])


@click.command("prune")
@click.option("-a", "--all", "all_", is_flag=True, help="Also images that no writable layer or mount is made of.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@stores.store_options
def system_prune(**given: Any) -> int:
    """Remove writable layers that are not mounted, and everything that no image uses."""
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts

    with stores.open_store(given) as store:
        _confirm(given, "all writable layers that are not mounted, with what was written to them, and unused images")
        mounted = {found.writable for found in all_mounts(store)}
        for layer in writable.all_of(store):
            if layer.name not in mounted:
                with _unless_taken():
                    if not given["dry_run"]:
                        writable.remove(store, layer.name)
                    print(f"Removed: {layer.name}")
        _untag(store, given["dry_run"], everything=given["all_"])
        return _collect(store, given["dry_run"])


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@stores.store_options
def collect_garbage(**given: Any) -> int:
    """Remove what nobody can reach, and what killed processes left behind. Safe while others work in the store."""
    with stores.open_store(given) as store:
        return _collect(store, given["dry_run"])


def _confirm(given: dict[str, Any], what: str) -> None:
    """Asks on a terminal; elsewhere --force has to be given."""
    if given["force"] or given["dry_run"]:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked: give --force, or --dry-run to see what would go")
    print(f"This removes {what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise click.exceptions.Exit(1)


def _untag(store: Store, dry_run: bool, *, everything: bool) -> None:
    """Images without a name; with ``everything`` all that no writable layer or mount is made of."""
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts
    from fastlayer.image.images import Images

    images = Images(store)
    used = {layer.manifest for layer in writable.all_of(store)}
    mounted = {found.image for found in all_mounts(store)}
    for image in images.all():
        if image.manifest in used or mounted & {*image.names, str(image.id)}:
            continue
        for name in image.names if everything else ():
            with _unless_taken():
                if not dry_run:
                    images.untag(name)
                print(f"Untagged: {stores.shown(name)}")
        if not image.names:
            with _unless_taken():
                if not dry_run:
                    images.untag(str(image.target.digest))
                print(f"Removed: {stores.short(image.id)}")


@contextmanager
def _unless_taken() -> Iterator[None]:
    """What another process removes or begins to use meanwhile is passed over."""
    try:
        yield
    except (NotFoundError, InUseError):
        pass


def _collect(store: Store, dry_run: bool) -> int:
    from fastlayer.store.collect import collect

    gone: Collected = collect(store, dry_run=dry_run)
    for digest in gone.blobs:
        print(f"Deleted: {digest}")
    word = "could be" if dry_run else "were"
    blobs, snapshots = _counted(len(gone.blobs), "blob"), _counted(gone.snapshots, "snapshot")
    print(f"{blobs} ({output.human(gone.bytes)}) and {snapshots} {word} removed")
    return 0


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
