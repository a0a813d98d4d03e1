"""btrfs subvolumes: the contract is csrc/fl_btrfs.h."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    fl_btrfs_changed, fl_btrfs_compare_names, fl_btrfs_create, fl_btrfs_destroy, fl_btrfs_get_info, fl_btrfs_get_usage,
    fl_btrfs_info, fl_btrfs_inode, fl_btrfs_names, fl_btrfs_nested, fl_btrfs_qgroup_create, fl_btrfs_qgroup_limit,
    fl_btrfs_qgroup_usage, fl_btrfs_quota_enable, fl_btrfs_set_readonly, fl_btrfs_snapshot, fl_btrfs_sync,
    fl_btrfs_usage, fl_buf, fl_buf_free, fl_error,
)

from typing import NamedTuple

IN_A, IN_B, DIRECTORY = 1, 2, 4

cdef uint64_t _NO_LIMIT = 0xFFFFFFFFFFFFFFFF


class Info(NamedTuple):
    id: int
    generation: int
    changed: int
    created: int
    created_sec: int
    readonly: bool
    uuid: bytes
    parent_uuid: bytes


def create(int dir_fd, bytes name):
    cdef fl_error err
    cdef const char *text = name
    cdef int r
    with nogil:
        r = fl_btrfs_create(dir_fd, text, &err)
    if r < 0:
        raise_error(&err)


def snapshot(int dir_fd, bytes name, int source_fd, *, bint readonly=False):
    cdef fl_error err
    cdef const char *text = name
    cdef int r
    with nogil:
        r = fl_btrfs_snapshot(dir_fd, text, source_fd, readonly, &err)
    if r < 0:
        raise_error(&err)


def destroy(int dir_fd, bytes name):
    cdef fl_error err
    cdef const char *text = name
    cdef int r
    with nogil:
        r = fl_btrfs_destroy(dir_fd, text, &err)
    if r < 0:
        raise_error(&err)


def set_readonly(int fd, bint readonly):
    cdef fl_error err
    cdef int r
    with nogil:
        r = fl_btrfs_set_readonly(fd, readonly, &err)
    if r < 0:
        raise_error(&err)


def info(int fd):
    cdef fl_error err
    cdef fl_btrfs_info found
    if fl_btrfs_get_info(fd, &found, &err) < 0:
        raise_error(&err)
    return Info(found.id, found.generation, found.changed, found.created, found.created_sec,
                bool(found.readonly), (<char *>found.uuid)[:16], (<char *>found.parent_uuid)[:16])


def sync(int fd):
    cdef fl_error err
    cdef int r
    with nogil:
        r = fl_btrfs_sync(fd, &err)
    if r < 0:
        raise_error(&err)


def quota_enable(int fd):
    cdef fl_error err
    cdef int r
    with nogil:
        r = fl_btrfs_quota_enable(fd, &err)
    if r < 0:
        raise_error(&err)


def qgroup_create(int fd, uint64_t id):
    cdef fl_error err
    if fl_btrfs_qgroup_create(fd, id, True, &err) < 0:
        raise_error(&err)


def qgroup_remove(int fd, uint64_t id):
    cdef fl_error err
    if fl_btrfs_qgroup_create(fd, id, False, &err) < 0:
        raise_error(&err)


def qgroup_limit(int fd, uint64_t id, exclusive):
    cdef fl_error err
    cdef uint64_t most = _NO_LIMIT if exclusive is None else exclusive
    if fl_btrfs_qgroup_limit(fd, id, most, &err) < 0:
        raise_error(&err)


def qgroup_usage(int fd, uint64_t id):
    cdef fl_error err
    cdef uint64_t referenced = 0, exclusive = 0
    cdef int r
    with nogil:
        r = fl_btrfs_qgroup_usage(fd, id, &referenced, &exclusive, &err)
    if r < 0:
        raise_error(&err)
    return (referenced, exclusive) if r else None


cdef class _Answer:
    """Scope of the records of a search, which are taken one field after another."""

    cdef fl_buf buf
    cdef size_t at

    def __cinit__(self):
        memset(&self.buf, 0, sizeof(self.buf))

    def __dealloc__(self):
        fl_buf_free(&self.buf)

    cdef bint more(self):
        return self.at < self.buf.len

    cdef uint8_t u8(self):
        self.at += 1
        return self.buf.data[self.at - 1]

    cdef uint64_t u64(self):
        cdef uint64_t value
        memcpy(&value, self.buf.data + self.at, 8)
        self.at += 8
        return value

    cdef bytes name(self):
        cdef uint16_t length
        memcpy(&length, self.buf.data + self.at, 2)
        self.at += 2 + length
        return (<char *>self.buf.data)[self.at - length:self.at]


def changed(int fd, int parent_fd, uint64_t transid, int64_t sec):
    cdef fl_error err
    cdef _Answer answer = _Answer()
    cdef fl_btrfs_inode inode
    cdef list found = []
    cdef int r
    with nogil:
        r = fl_btrfs_changed(fd, parent_fd, transid, sec, &answer.buf, &err)
    if r < 0:
        raise_error(&err)
    while answer.more():
        memcpy(&inode, answer.buf.data + answer.at, sizeof(inode))
        answer.at += sizeof(inode)
        found.append((inode.ino, inode.mode & 0o170000 == 0o040000))
    return found


def names(int fd, uint64_t ino):
    cdef fl_error err
    cdef _Answer answer = _Answer()
    cdef list found = []
    cdef int r
    with nogil:
        r = fl_btrfs_names(fd, ino, &answer.buf, &err)
    if r < 0:
        raise_error(&err)
    while answer.more():
        parent = answer.u64()
        found.append((parent, answer.name()))
    return found


def compare_names(int a_fd, int b_fd, uint64_t ino):
    cdef fl_error err
    cdef _Answer answer = _Answer()
    cdef list found = []
    cdef int r
    with nogil:
        r = fl_btrfs_compare_names(a_fd, b_fd, ino, &answer.buf, &err)
    if r < 0:
        raise_error(&err)
    while answer.more():
        flags = answer.u8()
        found.append((flags, answer.name()))
    return found


def nested(int fd, uint64_t id):
    cdef fl_error err
    cdef _Answer answer = _Answer()
    cdef list found = []
    cdef int r
    with nogil:
        r = fl_btrfs_nested(fd, id, &answer.buf, &err)
    if r < 0:
        raise_error(&err)
    while answer.more():
        number = answer.u64()
        directory = answer.u64()
        found.append((number, directory, answer.name()))
    return found


def usage(int fd, uint64_t transid):
    cdef fl_error err
    cdef fl_btrfs_usage found
    cdef int r
    with nogil:
        r = fl_btrfs_get_usage(fd, transid, &found, &err)
    if r < 0:
        raise_error(&err)
    return found.bytes, found.inodes, found.shared
