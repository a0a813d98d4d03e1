"""Searching the trees of a btrfs (BTRFS_IOC_TREE_SEARCH_V2)."""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, StorageError

# linux/btrfs_tree.h: types of items
INODE_ITEM, INODE_REF, INODE_EXTREF, DIR_INDEX, EXTENT_DATA, ROOT_REF, QGROUP_INFO = 1, 12, 13, 96, 108, 156, 242

Key = tuple[int, int, int]  # object, type, offset

_FIRST_FREE, _LAST_FREE = 256, (1 << 64) - 256
_ANY = (1 << 64) - 1
_ROOM = 65536
_ARGS = struct.Struct("=QQQQQQQIIII32xQ")  # btrfs_ioctl_search_key, buf_size
_HEADER = struct.Struct("=QQQII")  # transid, objectid, offset, type, len
_SEARCH = 3 << 30 | _ARGS.size << 16 | 0x94 << 8 | 17


class Item(NamedTuple):
    """An item of a tree."""

    objectid: int
    type: int
    offset: int
    data: bytes


def whole_tree(fd: int, transid: int) -> Iterator[Item]:
    """All items of a subvolume in leaves that were written since."""
    return search(fd, 0, (_FIRST_FREE, INODE_ITEM, 0), (_LAST_FREE, 255, _ANY), min_transid=transid + 1)


def search(fd: int, tree: int, first: Key, last: Key, *, min_transid: int = 0) -> Iterator[Item]:
    """All items from the first to the last key. ``tree`` 0 is that of the subvolume of ``fd``."""
    while True:
        buffer = bytearray(_ARGS.size + _ROOM)
        _ARGS.pack_into(
            buffer, 0, tree, first[0], last[0], first[2], last[2], min_transid, _ANY, first[1], last[1], 0xFFFFFFFF, 0,
            _ROOM,
        )  # fmt: skip
        try:
            fcntl.ioctl(fd, _SEARCH, buffer)
        except OSError as exc:
            raise StorageError(exc.errno or errno.EIO, "search tree") from exc
        count = _ARGS.unpack_from(buffer)[9]
        if not count:
            return
        at = _ARGS.size
        for _ in range(count):
            _, objectid, offset, type_, length = _HEADER.unpack_from(buffer, at)
            at += _HEADER.size
            yield Item(objectid, type_, offset, bytes(buffer[at : at + length]))
            at += length
        first = _behind((objectid, type_, offset))


def _behind(key: Key) -> Key:
    objectid, type_, offset = key
    if offset < _ANY:
        return objectid, type_, offset + 1
    return (objectid, type_ + 1, 0) if type_ < 255 else (objectid + 1, 0, 0)


def damaged(item: Item) -> LayerFormatError:
    return LayerFormatError(f"item ({item.objectid} {item.type}) of a btrfs tree is malformed")
