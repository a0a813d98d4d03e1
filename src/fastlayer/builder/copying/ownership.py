"""``--chown`` and ``--chmod`` (Dockerfile reference, "COPY --chown --chmod"; modes as chmod(1) reads them)."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from fastlayer._values import NamedTuple
from fastlayer.errors import DockerfileError

Read = Callable[[str], bytes | None]  # a file of the root file system, links resolved inside it; None: not there
_MAX_ID = (1 << 32) - 2
_UMASK = 0o022  # for the clauses of a mode that name nobody
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": 0o6777}
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_CLAUSE = r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)"
_ACTION = r"([-+=])([rwxXstugo]*)"


class Owner(NamedTuple):
    """Numbers of a user and a group."""

    uid: int
    gid: int


ROOT = Owner(0, 0)


def resolve_owner(text: str, read: Read) -> Owner:
    """``user``, ``user:group`` or ``:group``, each a name or a number.

    A number alone is the group's, too; of a name the group is that in ``/etc/passwd``. Names are looked up in the root
    file system through ``read``. Raises ``DockerfileError`` for names that are not there.
    """
    user, colon, group = text.partition(":")
    if not user and not group:
        raise DockerfileError(f"--chown={text}: names nobody: use user, user:group or numbers")
    uid = gid = 0
    if user:
        uid, gid = _user(user, text, read, needs_group=not group)
    if colon and group:
        gid = _group(group, text, read)
    return Owner(uid, gid)


def _user(name: str, text: str, read: Read, *, needs_group: bool) -> tuple[int, int]:
    if (number := _number(name, text)) is not None:
        return number, number
    fields = _entry(read("/etc/passwd"), name, 4)
    if fields is None:
        raise DockerfileError(f"--chown={text}: no user {name!r} in /etc/passwd of the image: use its number")
    uid, gid = _number(fields[2], text), _number(fields[3], text)
    if uid is None or (gid is None and needs_group):
        raise DockerfileError(f"--chown={text}: user {name!r} has no number in /etc/passwd of the image")
    return uid, gid or 0


def _group(name: str, text: str, read: Read) -> int:
    if (number := _number(name, text)) is not None:
        return number
    fields = _entry(read("/etc/group"), name, 3)
    number = None if fields is None else _number(fields[2], text)
    if number is None:
        raise DockerfileError(f"--chown={text}: no group {name!r} in /etc/group of the image: use its number")
    return number


def _number(text: str, given: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    if len(text) > 12 or int(text) > _MAX_ID:
        raise DockerfileError(f"--chown={given}: {text[:20]} is not the number of a user or group")
    return int(text)


def _entry(data: bytes | None, name: str, least: int) -> list[str] | None:
    """The fields of the first line that begins with the name."""
    wanted = name.encode("utf-8", "surrogateescape")
    for line in (data or b"").split(b"\n"):
        fields = line.strip().split(b":")
        if fields[0] == wanted and len(fields) >= least:
            return [field.decode("utf-8", "surrogateescape").strip() for field in fields]
    return None


class Mode:
    """A change of permissions: octal, up to 7777, or clauses such as ``u=rwX,go=rX``.

    Raises ``DockerfileError`` for text that is neither.
    """

    def __init__(self, text: str) -> None:
        self.octal: int | None = None
        self._clauses: list[tuple[str, list[tuple[str, str]]]] = []
        if re.fullmatch("[0-7]+", text) and len(text) < 12 and int(text, 8) <= 0o7777:
            self.octal = int(text, 8)
            return
        for clause in text.split(","):
            found = re.fullmatch(_CLAUSE, clause)
            if found is None:
                raise DockerfileError(f"--chmod={text}: use an octal number up to 7777, or clauses as u=rwX,go=rX")
            actions = [(action[1], action[2]) for action in re.finditer(_ACTION, found[2])]
            self._clauses.append((found[1], actions))

    def apply(self, mode: int) -> int:
        """The mode with its type, changed; links keep theirs."""
        if stat.S_ISLNK(mode):
            return mode
        if self.octal is not None:
            return stat.S_IFMT(mode) | self.octal
        bits = mode & 0o7777
        searchable = stat.S_ISDIR(mode) or bool(mode & 0o111)
        for who, actions in self._clauses:
            for sign, what in actions:
                bits = _changed(bits, who, sign, what, searchable=searchable)
        return stat.S_IFMT(mode) | bits


def _changed(bits: int, who: str, sign: str, what: str, *, searchable: bool) -> int:
    allowed = 0
    for letter in who:
        allowed |= _WHO[letter]
    new = _wanted(bits, who, what, searchable=searchable)
    if sign == "=":
        bits &= ~(allowed or _WHO["a"])
        sign = "+"
    new &= (allowed | (new & 0o1000)) if who else ~_UMASK
    return bits | new if sign == "+" else bits & ~new


def _wanted(bits: int, who: str, what: str, *, searchable: bool) -> int:
    """The bits the letters stand for; those of ``s`` and ``t`` not when only others are named."""
    wanted = 0
    for letter in what:
        if letter in _SHIFTS:
            wanted |= (bits >> _SHIFTS[letter] & 7) * 0o111
        elif letter == "X":
            wanted |= 0o111 if searchable else 0
        elif letter in _BITS:
            wanted |= _BITS[letter]
        elif set(who) != {"o"}:
            wanted |= 0o6000 if letter == "s" else 0o1000
    return wanted
