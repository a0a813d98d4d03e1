"""Who ``USER`` means: names and numbers looked up in the root file system, as Docker does (passwd(5), group(5)).

The files are whoever made the image's: lines that make no sense are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError, UsageError

_MAX_ID = (1 << 31) - 1  # runc's limit, which is Docker's
_MAX_LINE = 1 << 16
_MAX_GROUPS = 65536  # NGROUPS_MAX

Read = Callable[[str], bytes | None]


class Ids(NamedTuple):
    """``home`` is ``/`` and ``name`` empty for a number without an entry."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    name: str


def resolve(user: str, read: Read) -> Ids:
    """``user``: ``name``, ``uid``, ``user:group``, or empty for root.

    A number is never taken for a name. With a group given there are no supplementary groups. ``read`` gives a file of
    the root file system (links resolved inside it), None when there is none.
    Raises ``NotFoundError`` for a name that nobody has, ``UsageError`` for a number that is none.
    """
    wanted, _, group = user.partition(":")
    entry = _find_user(wanted, read)
    found = Ids(_as_id(wanted, "user") or 0, 0, (), "/", "") if entry is None else entry
    if group:
        return found._replace(gid=_find_group(group, read), groups=())
    return found._replace(groups=_groups_of(found.name, read)) if found.name else found


def _find_user(wanted: str, read: Read) -> Ids | None:
    """None: a number without an entry."""
    number = _as_id(wanted, "user") if wanted else 0
    for fields in _lines(read("/etc/passwd")):
        if len(fields) < 4 or not (_is_number(fields[2]) and _is_number(fields[3])):
            continue
        uid, gid = int(fields[2]), int(fields[3])
        if max(uid, gid) <= _MAX_ID and (uid == number if number is not None else fields[0] == wanted):
            home = fields[5] if len(fields) > 5 and fields[5].startswith("/") else "/"
            return Ids(uid, gid, (), home, fields[0])
    if number is None:
        raise NotFoundError(f"unable to find user {wanted}: no matching entries in passwd file")
    return None


def _find_group(wanted: str, read: Read) -> int:
    number = _as_id(wanted, "group")
    if number is not None:
        return number
    for name, gid, _ in _group_lines(read):
        if name == wanted:
            return gid
    raise NotFoundError(f"unable to find group {wanted}: no matching entries in group file")


def _groups_of(name: str, read: Read) -> tuple[int, ...]:
    found = dict.fromkeys(gid for _, gid, members in _group_lines(read) if name in members)
    if len(found) > _MAX_GROUPS:
        raise UsageError(f"user {name} is in {len(found)} groups: the kernel takes {_MAX_GROUPS}")
    return tuple(found)


def _group_lines(read: Read) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(read("/etc/group")):
        if len(fields) >= 3 and _is_number(fields[2]) and int(fields[2]) <= _MAX_ID:
            yield fields[0], int(fields[2]), fields[3].split(",") if len(fields) > 3 else []


def _lines(data: bytes | None) -> Iterator[list[str]]:
    """Fields."""
    start = 0
    while data and start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        if 0 < end - start <= _MAX_LINE:
            yield data[start:end].decode("utf-8", "surrogateescape").strip().split(":")
        start = end + 1


def _is_number(text: str) -> bool:
    """Of ASCII digits, ten at most: Python refuses to read thousands of them."""
    return len(text) <= 10 and text.isascii() and text.isdecimal()


def _as_id(text: str, what: str) -> int | None:
    if not (text.isascii() and text.lstrip("+-").isdecimal()):
        return None
    if text[0] in "+-" or len(text) > 10 or int(text) > _MAX_ID:
        raise UsageError(f"{what} {text}: uids and gids must be in range 0-{_MAX_ID}")
    return int(text)
