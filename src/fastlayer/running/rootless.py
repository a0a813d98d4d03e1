"""Root without being root: a process moves into a user namespace of its own (user_namespaces(7)).

There it may mount, own what it makes and run steps, as far as the kernel lets anybody. With ranges in /etc/subuid and
/etc/subgid, and newuidmap and newgidmap installed, files may belong to any user; else all belong to one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastlayer.errors import RunError
from fastlayer.running import idmaps

_UID, _GID = "_CONTAINERS_ROOTLESS_UID", "_CONTAINERS_ROOTLESS_GID"  # of containers/storage: the ids outside
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_FAILED, _ALONE = 1, 2  # exit codes of the child that writes maps


def become_root(warnings: list[str] | None = None) -> bool:
    """Moves this process, which has one thread, into a user namespace in which it is root. False: the machine does not
    let it; nothing has changed then.

    Ids that were granted and cannot be had (a user inside a container, say, who has more of them than it has) are told
    in ``warnings``; all belongs to the user then. Raises ``RunError`` when not even that can be mapped.
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
    code = os.waitstatus_to_exitcode(how)
    if code not in (0, _ALONE):
        reason = f"{idmaps.REFUSED}: check both files" if maps.helped else idmaps.REMEDY
        raise RunError(f"cannot map ids for a user namespace: {reason}")
    if code == _ALONE and warnings is not None:
        warnings.append(f"{idmaps.REFUSED}: all files are this user's; check both files, and those programs' rights")
    os.environ.update(known)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return True


def _known(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for what is found by the id of a user, which will be root's: home directory, logins of a session."""
    home = environ.get("HOME") or os.path.expanduser("~")
    if home == "~":
        home = "/"  # as login(1) for who has none
    return {"HOME": home, _UID: str(os.getuid()), _GID: str(os.getgid())}


def _help(ready: int, go: int, process: int, maps: idmaps.IdMaps) -> None:
    """In a child that stays outside: maps may be written from there only."""
    code = _FAILED
    try:
        os.close(go)
        code = _write(process, maps) if os.read(ready, 1) else 0
    except Exception:
        code = _FAILED
    finally:
        os._exit(code)


def _write(process: int, maps: idmaps.IdMaps) -> int:
    try:
        idmaps.write(process, maps)
    except RunError:
        if not maps.helped:
            raise
        idmaps.write(process, idmaps.alone())
        return _ALONE
    return 0


def _unshare() -> bool:
    import ctypes

    return bool(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNS) == 0)
