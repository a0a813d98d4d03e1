"""Directories as nodes of a Merkle tree: what counts of an entry, and the bytes that are hashed.

A node is its children in the order of their names, each as::

    u32 mode, uid, gid, major, minor; u16 length of name, of link; u32 of xattrs; name, link, xattrs
    and, of a regular file or a directory, 32 bytes: the blake3 of its content, or of its node

The digest of a path is that of a node with one child without a name. Numbers are little-endian. Times are nowhere in
it, nor which names are hard links of each other. With ``GIT`` rules, modes are what git keeps of them (100755 with the
owner's executable bit, else 100644; directories 40755), so a umask makes no difference, and everything is root's.
"""

from __future__ import annotations

import stat
import struct
import sys
from collections.abc import Iterator

from fastlayer._values import NamedTuple
from fastlayer.builder.context.table import Table, unpack_xattrs
from fastlayer.errors import CorruptStoreError

HEAD = struct.Struct("<IIIIIHHI")
KEY = 32  # bytes
_KEYED = (stat.S_IFREG, stat.S_IFDIR)


class Rules(NamedTuple):
    """What counts of an entry. ``owners``: who owns it; ``git``: see above."""

    owners: bool = True
    git: bool = False

    def attributes(self, mode: int, uid: int, gid: int) -> tuple[int, int, int]:
        """Mode, uid and gid as they count."""
        if self.git:
            return git_mode(mode), 0, 0
        return (mode, uid, gid) if self.owners else (mode, 0, 0)


def git_mode(mode: int) -> int:
    """A mode as git would keep it."""
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return mode
    executable = kind == stat.S_IFDIR or (kind == stat.S_IFREG and mode & stat.S_IXUSR)
    return kind | (0o755 if executable else 0o644)


class Child(NamedTuple):
    """One entry of a node. ``key`` is empty for what has no content."""

    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: tuple[int, int]
    link: bytes
    xattrs: bytes
    key: bytes


def encode(table: Table, row: int, name: bytes, key: bytes, rules: Rules) -> bytes:
    """An entry as a part of its directory's node. ``key``: of files and directories."""
    fields = table.fields(row)
    mode, uid, gid = rules.attributes(fields[8], fields[9], fields[10])
    kind = mode & 0o170000
    if kind in _KEYED and not fields[16]:
        return HEAD.pack(mode, uid, gid, 0, 0, len(name), 0, 0) + name + key
    link, xattrs = table.rest(row, fields)
    head = HEAD.pack(mode, uid, gid, fields[12], fields[13], len(name), len(link), len(xattrs))
    return b"".join((head, name, link, _portable(xattrs), key if kind in _KEYED else b""))


def _portable(xattrs: bytes) -> bytes:
    """Numbers in the blob are in the order of the machine."""
    if not xattrs or sys.byteorder == "little":
        return xattrs
    return b"".join(struct.pack("<HI", len(n), len(v)) + n + v for n, v in unpack_xattrs(xattrs))


def decode(data: bytes) -> Iterator[Child]:
    """The entries of a node. Raises ``CorruptStoreError``."""
    at = 0
    while at < len(data):
        try:
            mode, uid, gid, major, minor, name, link, xattrs = HEAD.unpack_from(data, at)
        except struct.error:
            raise _damaged() from None
        at += HEAD.size
        parts = []
        for length in (name, link, xattrs, KEY if stat.S_IFMT(mode) in _KEYED else 0):
            parts.append(data[at : at + length])
            at += length
        if at > len(data):
            raise _damaged()
        yield Child(parts[0], mode, uid, gid, (major, minor), parts[1], parts[2], parts[3])


def _damaged() -> CorruptStoreError:
    return CorruptStoreError(
        "a directory that the build cache remembers is damaged: `fastlayer cache prune` forgets it"
    )
