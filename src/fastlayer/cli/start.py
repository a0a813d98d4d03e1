"""``fastlayer start``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root
from fastlayer.cli.starting import finished

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
    from fastlayer.store.store import Store


@declare.command("start")
@declare.argument("names", nargs=-1, required=True, metavar="CONTAINER...")
@declare.option("-a", "--attach", "attached", is_flag=True, help="Stay with it: its output, its exit status.")
@declare.option("-i", "--interactive", is_flag=True, help="Pass standard input on, too.")
@declare.option("--sig-proxy", type=declare.BOOL, default=True, help="Pass signals on (default: true).")
@declare.option("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave it running.")
@stores.store_options
def command(**given: Any) -> int:
    """Start containers that were made, or have ended."""
    from fastlayer.container import containers, launch
    from fastlayer.errors import FastlayerError

    if (given["attached"] or given["interactive"]) and len(given["names"]) > 1:
        raise declare.LineError("you cannot start and attach multiple containers at once: name one")
    as_root(given)
    failed: list[FastlayerError] = []
    with stores.open_store(given) as store:
        for name in given["names"]:
            try:
                row = containers.find(store, name)
                if given["attached"] or given["interactive"]:
                    return _started(store, row, given)
                if not _runs(store, row):
                    warnings: list[str] = []
                    os.close(launch.start(store, row, warnings=warnings).news)
                    output.warn(warnings, False)
                print(name)
            except FastlayerError as exc:
                failed.append(exc)
    return stores.all_failed(failed)


def _runs(store: Store, row: Container) -> bool:
    from fastlayer.container import lifecycle

    return lifecycle.state_of(store, row).running


def _started(store: Store, row: Container, given: dict[str, Any]) -> int:
    from fastlayer.container import attach, client, containers, launch

    tty = bool(containers.config_of(store, row)["Config"]["Tty"])
    ours, theirs = client.pair()
    with ours:
        with theirs:
            os.close(launch.start(store, row, attached=theirs, size=attach.size_of(1)).news)
        outcome = attach.foreground(
            ours, stdin=given["interactive"], tty=tty, proxy=given["sig_proxy"], keys=given["detach_keys"]
        )
    return finished(store, row, outcome)
