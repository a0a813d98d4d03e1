"""``fastlayer umount``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.store.store import Store


@declare.command("umount")
@declare.argument("targets", nargs=-1, metavar="TARGET|NAME...", type=options.WORD)
@declare.option("-a", "--all", "all_", is_flag=True, help="Everything of the store that is mounted here.")
@declare.option("-l", "--lazy", is_flag=True, help="Also when it is in use: it goes away with its last user.")
@declare.option("--rm", is_flag=True, help="Remove the writable layer, too.")
@stores.store_options
def command(**given: Any) -> int:
    """Unmount TARGETs, or what is mounted of the writable layers NAMEd. The layers stay, unless --rm."""
    from fastlayer.container.mounting import unmount
    from fastlayer.errors import FastlayerError

    if bool(given["targets"]) == given["all_"]:
        raise declare.LineError("name what is to be unmounted, or give --all")
    failed: list[FastlayerError] = []
    with stores.open_as_root(given) if given["rm"] else stores.open_store(given) as store:
        tried: set[str] = set()
        names = _here(store) if given["all_"] else given["targets"]
        while names:
            for name in names:
                try:
                    gone = unmount(store, name, detach=given["lazy"], remove=given["rm"])
                    print(output.display_name(gone.target))
                except FastlayerError as exc:
                    failed.append(exc)
            tried.update(names)
            names = [name for name in _here(store) if name not in tried] if given["all_"] else []  # copies of them
    return stores.all_failed(failed)


def _here(store: Store) -> list[str]:
    """The targets, those within others first."""
    from fastlayer.container.mounted import all_mounts

    return sorted((found.target for found in all_mounts(store) if found.here), reverse=True)
