"""``fastlayer attach``."""

from __future__ import annotations

import sys
from typing import Any

from fastlayer.cli import stores
from fastlayer.cli.line import declare


@declare.command("attach")
@declare.argument("name", metavar="CONTAINER")
@declare.option("--no-stdin", is_flag=True, help="Do not pass standard input on.")
@declare.option("--sig-proxy", type=declare.BOOL, default=True, help="Pass signals on (default: true).")
@declare.option("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave it running.")
@stores.store_options
def command(**given: Any) -> int:
    """Be with a running container: its output from now on, its exit status."""
    from fastlayer.container import attach, client, containers

    with stores.open_store(given) as store:
        row = containers.find(store, given["name"])
        config = containers.config_of(store, row)["Config"]
        directory = containers.directory_of(store, row.id)
    with client.connect(directory, row.name) as connection:
        client.subscribe(connection)
        outcome = attach.foreground(
            connection,
            stdin=bool(config["OpenStdin"]) and not given["no_stdin"],
            tty=bool(config["Tty"]),
            proxy=given["sig_proxy"],
            keys=given["detach_keys"],
        )
    if outcome.lost:
        print("fastlayer: the monitor of the container has gone", file=sys.stderr)
        return 1
    return outcome.ended.status if outcome.ended is not None else 0
