"""``fastlayer rm``: writable layers go, with everything that was written to them."""

from __future__ import annotations

from typing import Any

import click

from fastlayer.cli import stores


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-f", "--force", is_flag=True, help="Unmount them first.")
@stores.store_options
def command(**given: Any) -> int:
    """Remove writable layers: all changes that were made in them, and nothing else."""
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts
    from fastlayer.container.mounting import unmount
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    with stores.open_store(given) as store:
        for name in given["names"]:
            try:
                if given["force"] and any(found.writable == name for found in all_mounts(store)):
                    unmount(store, name, detach=True)
                writable.remove(store, name)
                print(name)
            except FastlayerError as exc:
                failed.append(exc)
    return stores.all_failed(failed)
