"""Whose logins these are: in the user namespace of a plain user's command, not root's but those of the user outside.

``_CONTAINERS_ROOTLESS_UID`` and ``_GID`` tell, as containers/storage's pkg/unshare has it (``podman unshare``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_VARIABLES = ("_CONTAINERS_ROOTLESS_UID", "_CONTAINERS_ROOTLESS_GID")

# A namespace in the one of the command, in which root is the user again: helpers that talk to services of the session
# say who they are, and D-Bus compares that with what the kernel tells it.
_TURN_BACK = """
import ctypes, os, sys
uid, gid, program = sys.argv[1:4]
if ctypes.CDLL(None).unshare(0x10000000) == 0:
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} 0 1"), ("gid_map", f"{gid} 0 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass
os.execv(program, sys.argv[3:])
"""


def ids(environ: Mapping[str, str]) -> tuple[int, int]:
    """(user, group) of the session."""
    uid, gid = (_number(environ.get(name, "")) for name in _VARIABLES)
    if os.getuid() != 0 or uid is None:
        return os.getuid(), os.getgid()
    return uid, gid or 0


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def words_for(program: str, verb: str, environ: Mapping[str, str]) -> list[str]:
    """How a program is run as the user of the session."""
    uid, gid = ids(environ)
    back = [sys.executable, "-IS", "-c", _TURN_BACK, str(uid), str(gid)] if uid != os.getuid() else []
    return [*back, program, verb]
