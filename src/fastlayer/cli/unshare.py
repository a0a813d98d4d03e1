"""``fastlayer unshare``: a command in a user namespace as the other verbs of plain users have it."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.cli.line import declare
from fastlayer.cli.rootless import move

EPILOG = """\b
Examples:
  fastlayer unshare sh -c 'fastlayer mount debian:12 mnt && ls -l mnt/etc && fastlayer umount mnt'
  fastlayer unshare                    a shell
Exit status: the command's; 126 and 127 when it cannot be executed or is not there.
"""


@declare.command("unshare", epilog=EPILOG, program=True)
@declare.argument("words", nargs=-1, metavar="[COMMAND] [ARG]...")
def command(words: tuple[str, ...]) -> None:
    """Run a command as root of a user namespace, with a mount namespace of its own: there a plain user may mount, and
    sees the files of images with their owners. The namespace is the one in which `pull`, `build`, `run` and the others
    work for plain users; what the command mounts is seen by it and its children only.
    """
    from fastlayer.errors import RunError
    from fastlayer.running import capabilities, idmaps

    if words and not words[0]:
        raise declare.LineError("the name of the command is empty")
    if capabilities.effective() & capabilities.SYS_ADMIN:
        raise declare.LineError("who may mount needs no namespace: run the command as it is")
    if not move():
        raise RunError("this user may not have a user namespace", remedy=idmaps.REMEDY)
    _execute(words or (os.environ.get("SHELL") or "/bin/sh",))


def _execute(words: tuple[Any, ...]) -> None:
    from fastlayer.errors import RunError, show_path

    try:
        os.execvp(words[0], words)
    except OSError as exc:
        missing = isinstance(exc, FileNotFoundError)
        error = RunError(f"{show_path(os.fsencode(words[0]))}: {exc.strerror}: name a program that can be executed")
        error.exit_code = 127 if missing else 126
        raise error from exc
