"""``fastlayer exec``: one more program in a running container."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.cli import container_options, stores
from fastlayer.cli.line import declare
from fastlayer.cli.starting import CANNOT

EPILOG = """\b
Examples:
  fastlayer exec web ps
  fastlayer exec -it web sh
  fastlayer exec -u nobody -w /tmp -e X=1 web env
Exit status: the program's; 126 and 127 when it cannot be executed or is not there, 1 when the container does not run.
"""


@declare.command("exec", epilog=EPILOG, switches=True, program=True)
@declare.argument("name", metavar="CONTAINER")
@declare.argument("words", nargs=-1, required=True, metavar="COMMAND [ARG]...")
@declare.option("-d", "--detach", is_flag=True, help="In the background.")
@declare.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@declare.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@declare.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="A variable; without a value: ours.")
@declare.option("--env-file", multiple=True, metavar="FILE", help="A file of such lines.")
@declare.option("-w", "--workdir", default="", metavar="DIR", help="The working directory.")
@declare.option("-u", "--user", default="", metavar="NAME|UID[:GROUP]", help="Who runs it.")
@declare.option("--privileged", is_flag=True, help="With all capabilities, without a filter.")
@declare.option("--detach-keys", default="ctrl-p,ctrl-q", metavar="KEYS", help="Keys that leave it running.")
@stores.store_options
def command(**given: Any) -> int:
    """Run a program in a running container."""
    from fastlayer.container import attach, client, containers
    from fastlayer.container.execute import ExecOptions, execute
    from fastlayer.errors import RunError

    if given["tty"] and given["interactive"] and not given["detach"] and not os.isatty(0):
        raise declare.LineError("the input device is not a TTY: leave out -t, or give a terminal")
    env = container_options.environment(given["env"], given["env_file"])
    options = ExecOptions(given["user"], given["workdir"], env, given["tty"], given["interactive"], given["privileged"])
    ours, theirs = client.pair()
    with ours:
        with theirs, stores.open_store(given) as store:
            row = containers.find(store, given["name"])
            size = attach.size_of(1) if given["tty"] else (0, 0)
            attached = None if given["detach"] else theirs
            os.close(execute(store, row, given["words"], options, attached=attached, size=size).news)
        if given["detach"]:
            return 0
        outcome = attach.foreground(
            ours, stdin=given["interactive"], tty=given["tty"], proxy=False, keys=given["detach_keys"]
        )
    if outcome.lost:
        error = RunError("the monitor of the program was killed: look whether memory ran out (dmesg)")
        error.exit_code = CANNOT
        raise error
    return outcome.ended.status if outcome.ended is not None else 0
