"""Root without being root: a process moves into a user namespace of its own (user_namespaces(7)).

There it may mount, own what it makes and run steps, as far as the kernel lets anybody. With ranges in /etc/subuid and
/etc/subgid, and newuidmap and newgidmap installed, files may belong to any user; else all belong to one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastlayer.errors import RunError
from fastlayer.running import idmaps

_USER_VARIABLE = "_CONTAINERS_ROOTLESS_UID"  # of containers/storage: the user's id outside
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000


def become_root() -> bool:
    """Moves this process, which has one thread, into a user namespace in which it is root. False: the machine does not
    let it; nothing has changed then.

    Raises ``RunError`` when ids that were granted cannot be mapped.
    """
    maps, known = idmaps.own(), _known(os.environ)
    ready, go = os.pipe2(os.O_CLOEXEC)
    helper = os.fork()
    if helper == 0:
        _help(ready, go, os.getppid(), maps)
    os.close(ready)
    try:
        moved = _unshare()
        if moved:
            os.write(go, b"1")
    finally:
        os.close(go)
    _, how = os.waitpid(helper, 0)
    if not moved:
        return False
    if how != 0:
        raise RunError(f"cannot map ids for a user namespace: {idmaps.REMEDY}")
    os.environ.update(known)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return True


def _known(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for what is found by the id of a user, which will be root's: home directory, logins of a session."""
    home = environ.get("HOME") or os.path.expanduser("~")
    return {_USER_VARIABLE: str(os.getuid()), **({"HOME": home} if home != "~" else {})}


def _help(ready: int, go: int, process: int, maps: idmaps.IdMaps) -> None:
    """In a child that stays outside: maps may be written from there only."""
    code = 1
    try:
        os.close(go)
        if os.read(ready, 1):
            idmaps.write(process, maps)
        code = 0
    except Exception:
        code = 1
    finally:
        os._exit(code)


def _unshare() -> bool:
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == 0)
