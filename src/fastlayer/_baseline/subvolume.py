"""btrfs subvolumes: the contract is csrc/fl_btrfs.h, the numbers and layouts are those of linux/btrfs.h and
linux/btrfs_tree.h."""

from __future__ import annotations

import errno
import fcntl
import stat
import struct
from collections.abc import Iterator

from fastlayer._baseline.search import (
    DIR_INDEX,
    EXTENT_DATA,
    INODE_EXTREF,
    INODE_ITEM,
    INODE_REF,
    QGROUP_INFO,
    ROOT_REF,
    Item,
    damaged,
    search,
    whole_tree,
)
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError

IN_A, IN_B, DIRECTORY = 1, 2, 4

_ROOT_TREE, _QUOTA_TREE = 1, 8
_READONLY = 2  # BTRFS_SUBVOL_RDONLY
_NAME_MAX, _OLD_NAME_MAX = 4039, 4087
_NO_LIMIT = (1 << 64) - 1


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | 0x94 << 8 | number


_NAMED = struct.Struct(f"=qQQ32x{_NAME_MAX + 1}s")  # btrfs_ioctl_vol_args_v2
_OLD_NAMED = struct.Struct(f"=q{_OLD_NAME_MAX + 1}s")  # btrfs_ioctl_vol_args
_INFO = struct.Struct("=Q256sQQQQ16s16s16sQQQQ16xq40x64x")  # btrfs_ioctl_get_subvol_info_args
_LIMIT = struct.Struct("=QQQQQQ")
_PAIR = struct.Struct("=QQ")
_WRITE, _READ = 1, 2
_CREATE = _request(_WRITE, 24, _NAMED.size)
_SNAPSHOT = _request(_WRITE, 23, _NAMED.size)
_DESTROY = _request(_WRITE, 15, _OLD_NAMED.size)
_GET_FLAGS = _request(_READ, 25, 8)
_SET_FLAGS = _request(_WRITE, 26, 8)
_GET_INFO = _request(_READ, 60, _INFO.size)
_SYNC = _request(0, 8, 0)
_QUOTA_CTL = _request(_READ | _WRITE, 40, _PAIR.size)
_RESCAN_WAIT = _request(0, 46, 0)
_QGROUP_CREATE = _request(_WRITE, 42, _PAIR.size)
_QGROUP_LIMIT = _request(_READ, 43, _LIMIT.size)

# generation, transid, size, nbytes, block group, nlink, uid, gid, mode, rdev, flags, sequence, reserved, atime, ctime
_INODE = struct.Struct("<QQQQQIIIIQQQ32x12xqI")
_DIR_ITEM = struct.Struct("<17sQHHB")  # location, transid, data_len, name_len, type
_ROOT_REF = struct.Struct("<QQH")
_EXTENT_HEAD = struct.Struct("<QQBBHB")  # generation, ram_bytes, compression, encryption, other, type
_EXTENT = struct.Struct("<QQQQ")  # disk_bytenr, disk_num_bytes, offset, num_bytes
_INLINE = 0
_FT_DIR = 2


class Info(NamedTuple):
    """A subvolume."""

    id: int
    generation: int
    changed: int
    created: int
    created_sec: int
    readonly: bool
    uuid: bytes
    parent_uuid: bytes


def _call(fd: int, request: int, argument: bytearray | int, op: str) -> None:
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as exc:
        raise StorageError(exc.errno or errno.EIO, op) from exc


def _check_name(name: bytes, longest: int, op: str) -> None:
    if len(name) > longest:
        raise StorageError(errno.ENAMETOOLONG, op)


# ---- subvolumes -------------------------------------------------------------------------------


def create(dir_fd: int, name: bytes) -> None:
    _check_name(name, _NAME_MAX, "create subvolume")
    _call(dir_fd, _CREATE, bytearray(_NAMED.pack(0, 0, 0, name)), "create subvolume")


def snapshot(dir_fd: int, name: bytes, source_fd: int, *, readonly: bool = False) -> None:
    _check_name(name, _NAME_MAX, "snapshot")
    flags = _READONLY if readonly else 0
    _call(dir_fd, _SNAPSHOT, bytearray(_NAMED.pack(source_fd, 0, flags, name)), "snapshot")


def destroy(dir_fd: int, name: bytes) -> None:
    _check_name(name, _OLD_NAME_MAX, "delete subvolume")
    _call(dir_fd, _DESTROY, bytearray(_OLD_NAMED.pack(0, name)), "delete subvolume")


def set_readonly(fd: int, readonly: bool) -> None:
    buffer = bytearray(8)
    _call(fd, _GET_FLAGS, buffer, "subvolume flags")
    flags = int.from_bytes(buffer, "little")
    if bool(flags & _READONLY) != readonly:
        _call(fd, _SET_FLAGS, bytearray((flags ^ _READONLY).to_bytes(8, "little")), "subvolume flags")


def info(fd: int) -> Info:
    buffer = bytearray(_INFO.size)
    _call(fd, _GET_INFO, buffer, "subvolume info")
    number, _, _, _, generation, flags, uuid, parent, _, changed_in, created_in, _, _, sec = _INFO.unpack(buffer)
    return Info(number, generation, changed_in, created_in, sec, bool(flags & 1), uuid, parent)


def sync(fd: int) -> None:
    _call(fd, _SYNC, 0, "sync")


# ---- quota groups -----------------------------------------------------------------------------


def quota_enable(fd: int) -> None:
    _call(fd, _QUOTA_CTL, bytearray(_PAIR.pack(1, 0)), "enable quotas")
    _call(fd, _RESCAN_WAIT, 0, "quota rescan")


def qgroup_create(fd: int, id: int) -> None:
    _call(fd, _QGROUP_CREATE, bytearray(_PAIR.pack(1, id)), "quota group")


def qgroup_remove(fd: int, id: int) -> None:
    _call(fd, _QGROUP_CREATE, bytearray(_PAIR.pack(0, id)), "quota group")


def qgroup_limit(fd: int, id: int, exclusive: int | None) -> None:
    most = _NO_LIMIT if exclusive is None else exclusive
    _call(fd, _QGROUP_LIMIT, bytearray(_LIMIT.pack(id, 2, 0, most, 0, 0)), "limit quota group")


def qgroup_usage(fd: int, id: int) -> tuple[int, int] | None:
    try:
        for item in search(fd, _QUOTA_TREE, (0, QGROUP_INFO, id), (0, QGROUP_INFO, id)):
            _, referenced, _, exclusive, _ = struct.unpack_from("<QQQQQ", item.data)
            return referenced, exclusive
    except StorageError as exc:
        if exc.errno != errno.ENOENT:  # there is no quota tree
            raise
    return None


# ---- searches ---------------------------------------------------------------------------------


class _Inode(NamedTuple):
    ino: int
    generation: int
    transid: int
    mode: int
    ctime: tuple[int, int]  # seconds, nanoseconds


def _inode(item: Item) -> _Inode:
    if len(item.data) < _INODE.size:
        raise damaged(item)
    generation, transid, _, _, _, _, _, _, mode, _, _, _, sec, nsec = _INODE.unpack_from(item.data)
    return _Inode(item.objectid, generation, transid, mode, (sec, nsec))


def changed(fd: int, parent_fd: int, transid: int, sec: int) -> list[tuple[int, bool]]:
    inodes = (_inode(item) for item in whole_tree(fd, transid) if item.type == INODE_ITEM)
    old = (inode for inode in inodes if inode.transid > transid >= inode.generation)
    return [(inode.ino, stat.S_ISDIR(inode.mode)) for inode in old if not _only_read(inode, parent_fd, sec)]


def _only_read(inode: _Inode, parent_fd: int, sec: int) -> bool:
    if inode.ctime[0] >= sec - 1:
        return False
    key = (inode.ino, INODE_ITEM, 0)
    return any(_inode(item).ctime == inode.ctime for item in search(parent_fd, 0, key, key))


def names(fd: int, ino: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for item in search(fd, 0, (ino, INODE_REF, 0), (ino, INODE_EXTREF, _NO_LIMIT)):
        found += _references(item)
    return found


def _references(item: Item) -> Iterator[tuple[int, bytes]]:
    head = struct.Struct("<QQH" if item.type == INODE_EXTREF else "<QH")
    at = 0
    while at < len(item.data):
        if at + head.size > len(item.data):
            raise damaged(item)
        parent, *_, length = head.unpack_from(item.data, at)
        at += head.size
        if at + length > len(item.data):
            raise damaged(item)
        yield parent if item.type == INODE_EXTREF else item.offset, item.data[at : at + length]
        at += length


def compare_names(a_fd: int, b_fd: int, ino: int) -> list[tuple[int, bytes]]:
    a, b = _directory(a_fd, ino), _directory(b_fd, ino)
    found = []
    for index in sorted(a.keys() | b.keys()):
        if a.get(index) == b.get(index):
            continue
        for side, entries in ((IN_A, a), (IN_B, b)):
            if index in entries:
                name, _, type_ = entries[index]
                found.append((side | (DIRECTORY if type_ == _FT_DIR else 0), name))
    return found


def _directory(fd: int, ino: int) -> dict[int, tuple[bytes, bytes, int]]:
    """index -> name, location, type."""
    found = {}
    for item in search(fd, 0, (ino, DIR_INDEX, 0), (ino, DIR_INDEX, _NO_LIMIT)):
        if len(item.data) < _DIR_ITEM.size:
            raise damaged(item)
        location, _, _, length, type_ = _DIR_ITEM.unpack_from(item.data)
        if len(item.data) < _DIR_ITEM.size + length:
            raise damaged(item)
        found[item.offset] = (item.data[_DIR_ITEM.size : _DIR_ITEM.size + length], location, type_)
    return found


def nested(fd: int, id: int) -> list[tuple[int, int, bytes]]:
    found = []
    for item in search(fd, _ROOT_TREE, (id, ROOT_REF, 0), (id, ROOT_REF, _NO_LIMIT)):
        if len(item.data) < _ROOT_REF.size:
            raise damaged(item)
        directory, _, length = _ROOT_REF.unpack_from(item.data)
        if len(item.data) < _ROOT_REF.size + length:
            raise damaged(item)
        found.append((item.offset, directory, item.data[_ROOT_REF.size : _ROOT_REF.size + length]))
    return found


# ---- usage ------------------------------------------------------------------------------------


class _Reference(NamedTuple):
    """A file refers to an extent: where that begins, its size on disk, the bytes the file shows of it here."""

    ino: int
    extent: int
    size: int
    part: int
    own: bool


def usage(fd: int, transid: int) -> tuple[int, int, int]:
    total = inodes = 0
    last = _Inode(0, 0, 0, 0, (0, 0))
    extents: dict[int, list[_Reference]] = {}
    for item in whole_tree(fd, transid):
        if item.type == INODE_ITEM and (inode := _inode(item)).transid > transid:
            last = inode
            inodes += inode.generation > transid
        if item.type == EXTENT_DATA and item.objectid == last.ino:
            found = _extent(item, transid)
            if isinstance(found, int):
                total += found
            elif found.extent and (found.own or last.generation > transid):
                extents.setdefault(found.extent, []).append(found)
    shared = 0
    for references in extents.values():
        first = references[0]
        total += first.size if first.own else 0
        if not first.own or any(reference.ino != first.ino for reference in references):
            shared += sum(reference.part for reference in references)
    return total, inodes, shared


def _extent(item: Item, transid: int) -> _Reference | int:
    """The reference, or the bytes that are in the item itself."""
    if len(item.data) < _EXTENT_HEAD.size:
        raise damaged(item)
    generation, _, _, _, _, type_ = _EXTENT_HEAD.unpack_from(item.data)
    if type_ == _INLINE:
        return len(item.data) - _EXTENT_HEAD.size if generation > transid else 0
    if len(item.data) < _EXTENT_HEAD.size + _EXTENT.size:
        raise damaged(item)
    extent, size, _, part = _EXTENT.unpack_from(item.data, _EXTENT_HEAD.size)
    return _Reference(item.objectid, extent, size, part, generation > transid)
