"""``fastlayer run``."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.cli import container_options, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root
from fastlayer.cli.starting import CANNOT, begin, created, finished

EPILOG = """\b
Examples:
  fastlayer run --rm debian ls /                     one program, and nothing stays
  fastlayer run --rm -it debian                      a shell; ctrl-p ctrl-q leaves it running
  fastlayer run -d --name db -e PASSWORD=x postgres  in the background; then logs, exec, stop, rm
  fastlayer run --rm -v $PWD:/src -w /src gcc make   in a directory of ours
  fastlayer run --memory 512m --cpus 1.5 --pids-limit 100 debian ./job
  fastlayer run --rm --network none --read-only --cap-drop ALL --user nobody debian ./untrusted
Exit status: the program's; 125 when fastlayer has failed, 126 and 127 when the program cannot be executed or is
not there, 128 + n when signal n has ended it.
"""


@declare.command("run", epilog=EPILOG, switches=True, program=True)
@declare.argument("image")
@declare.argument("words", nargs=-1, metavar="[COMMAND] [ARG]...")
@declare.option("-d", "--detach", is_flag=True, help="In the background; prints the id.")
@declare.option(
    "-a", "--attach", "streams", multiple=True, type=declare.Choice(["stdin", "stdout", "stderr"]), hidden=True
)
@declare.option("--sig-proxy", type=declare.BOOL, default=True, help="Pass signals on (default: true).")
@declare.option("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave it running.")
@declare.option("-q", "--quiet", is_flag=True, help="No warnings.")
@container_options.container_options
def command(**given: Any) -> int:
    """Run a program in a new container of IMAGE."""
    from fastlayer.errors import FastlayerError

    try:
        return _run(given)
    except FastlayerError as exc:
        exc.exit_code = _status_of(exc)
        raise


def _status_of(exc: Exception) -> int:
    return getattr(exc, "status", None) or CANNOT


def _run(given: dict[str, Any]) -> int:
    from fastlayer.container import attach, lifecycle

    if given["tty"] and given["interactive"] and not given["detach"] and not os.isatty(0):
        raise declare.LineError("the input device is not a TTY: leave out -t, or give a terminal")
    attach.parse_keys(given["detach_keys"])
    as_root(given)
    asked = container_options.wanted(given, detach=given["detach"])
    with stores.open_store(given, create=given["pull"] != "never") as store:
        row = created(store, given, asked)
        try:
            outcome = begin(store, row, given)
        except BaseException:
            if given["auto_remove"]:
                lifecycle.remove(store, row, force=True)
            raise
        finally:
            if given["detach"]:  # as Docker: also of one that cannot be started, and is left to be looked at
                print(row.id)
        return finished(store, row, outcome)
