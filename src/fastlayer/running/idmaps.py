"""Ids in a user namespace of our own (user_namespaces(7), subuid(5))."""

from __future__ import annotations

import errno
import os

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError

_MAX_FILE = 1 << 20


class Range(NamedTuple):
    inside: int
    outside: int
    length: int


class IdMaps(NamedTuple):
    """What is mapped: ourselves to root, and what /etc/subuid and /etc/subgid give us, from 1 on.

    ``helped``: newuidmap and newgidmap write it. Else only ourselves are mapped: all else belongs to nobody.
    ``by_root``: who writes it may map any ids, and programs may set groups.
    """

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    helped: bool
    by_root: bool = False

    def has_group(self, gid: int) -> bool:
        return _has(self.gids, gid)

    def has_user(self, uid: int) -> bool:
        return _has(self.uids, uid)


def _has(ranges: tuple[Range, ...], number: int) -> bool:
    return any(entry.inside <= number < entry.inside + entry.length for entry in ranges)


def check_mapped(maps: IdMaps, uid: int, gid: int) -> None:
    """Raises ``RunError`` for a user or group that a program cannot become there; without /proc nobody knows."""
    if maps.uids and maps.gids and not (maps.has_user(uid) and maps.has_group(gid)):
        raise not_mapped(uid, gid)


def not_mapped(uid: int, gid: int, errnum: int = 0) -> RunError:
    """The error of a program that cannot become that user."""
    message = f"the user {uid}:{gid} is not among the ids of this user namespace"
    return RunError(message, remedy=f"{RANGES}, or run as root", errnum=errnum)


def give(place: int | str | os.PathLike[str], uid: int, gid: int) -> None:
    """Changes an owner, as root (of a user namespace). An id that is not mapped there leaves it root's.

    Raises ``OSError``.
    """
    try:
        os.chown(place, uid, gid)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise


def own() -> IdMaps:
    """For this process's user."""
    uid, gid = os.geteuid(), os.getegid()
    name = _name_of(uid)
    uids, gids = (_granted(path, name, uid) for path in ("/etc/subuid", "/etc/subgid"))
    if uids and gids and find("newuidmap") and find("newgidmap") and not _no_new_privileges():
        return IdMaps(_stacked(uid, uids), _stacked(gid, gids), True)
    return alone()


def alone() -> IdMaps:
    """This process's user as root, and nobody else."""
    return IdMaps((Range(0, os.geteuid(), 1),), (Range(0, os.getegid(), 1),), False)


def _no_new_privileges() -> bool:
    """Whether newuidmap would have none either (PR_SET_NO_NEW_PRIVS(2const))."""
    return "NoNewPrivs:\t1\n" in _read("/proc/self/status")


def granted(name: str) -> list[tuple[int, int]]:
    """(first, count) of the ids that /etc/subuid and /etc/subgid both give a user."""
    uids, gids = (_granted(path, name, -1) for path in ("/etc/subuid", "/etc/subgid"))
    both = [(max(a, c), min(a + b, c + d)) for a, b in uids for c, d in gids]
    return [(start, end - start) for start, end in both if end > start]


def current() -> IdMaps:
    """Those of the user namespace this process is in."""
    return IdMaps(_read_map("uid_map"), _read_map("gid_map"), False)


def is_initial() -> bool:
    """Whether this is the user namespace of the machine: all ids are themselves."""
    return current().uids == (Range(0, 0, 4294967295),)


def may_set_groups() -> bool:
    """A user namespace that somebody without rights has made does not let anyone (user_namespaces(7))."""
    return _read("/proc/self/setgroups").strip() in ("allow", "")


def write(pid: int, maps: IdMaps) -> None:
    """Gives the process's new user namespace its maps. Raises ``RunError``."""
    if maps.helped:
        _help("newuidmap", pid, maps.uids)
        _help("newgidmap", pid, maps.gids)
        return
    try:
        denied = () if maps.by_root else (("setgroups", b"deny"),)
        for name, text in (*denied, ("uid_map", _text(maps.uids)), ("gid_map", _text(maps.gids))):
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(text)
    except OSError as exc:
        raise RunError(f"cannot map ids for a user namespace: {exc.strerror}: {REMEDY}") from exc


REFUSED = "newuidmap or newgidmap refused the ids of /etc/subuid and /etc/subgid"
REMEDY = "allow unprivileged user namespaces (sysctl user.max_user_namespaces, apparmor), or run as root"


RANGES = "give this user ranges in /etc/subuid and /etc/subgid, with newuidmap and newgidmap installed"


def find(program: str) -> str | None:
    """Where it is, in PATH and where administrators' programs are."""
    places = [*os.environ.get("PATH", "").split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"]
    for place in filter(None, places):
        path = os.path.join(place, program)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _text(ranges: tuple[Range, ...]) -> bytes:
    return b"".join(b"%d %d %d\n" % entry for entry in ranges)


def _stacked(own_id: int, granted: list[tuple[int, int]]) -> tuple[Range, ...]:
    ranges, inside = [Range(0, own_id, 1)], 1
    for start, count in granted:
        ranges.append(Range(inside, start, count))
        inside += count
    return tuple(ranges)


def _granted(path: str, name: str, number: int) -> list[tuple[int, int]]:
    """(first id, count)."""
    found = []
    for line in _read(path).splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (name, str(number)) and fields[1].isdecimal() and fields[2].isdecimal():
            found.append((int(fields[1]), int(fields[2])))
    return [entry for entry in found if entry[1] > 0]


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_FILE).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _read_map(name: str) -> tuple[Range, ...]:
    lines = (line.split() for line in _read(f"/proc/self/{name}").splitlines())
    return tuple(Range(*map(int, fields)) for fields in lines if len(fields) == 3)


def _help(program: str, pid: int, ranges: tuple[Range, ...]) -> None:
    path = find(program) or program
    words = [program, str(pid), *(str(number) for entry in ranges for number in entry)]
    null = (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)
    helper = os.posix_spawn(path, words, dict(os.environ), file_actions=[null])
    _, how = os.waitpid(helper, 0)
    if how != 0:
        raise RunError(f"{program} refused the ids of /etc/subuid and /etc/subgid: check both files, or run as root")
