"""btrfs: subvolumes, quota groups, searches by generation. The contract is csrc/fl_btrfs.h; names are ``bytes``.

Descriptors are directories on btrfs open for reading. Raises ``StorageError``: ENOTTY where there is no btrfs, EPERM
where a search lacks CAP_SYS_ADMIN.
"""

from typing import NamedTuple

IN_A: int
IN_B: int
DIRECTORY: int

class Info(NamedTuple):
    """``generation`` is that of the root node, ``changed`` the transaction that changed an inode last, ``created`` the
    one it was made in, ``created_sec`` when that was (seconds since 1970); ``parent_uuid`` is what it is a snapshot of,
    or zeros."""

    id: int
    generation: int
    changed: int
    created: int
    created_sec: int
    readonly: bool
    uuid: bytes
    parent_uuid: bytes

def create(dir_fd: int, name: bytes) -> None: ...
def snapshot(dir_fd: int, name: bytes, source_fd: int, *, readonly: bool = False) -> None: ...
def destroy(dir_fd: int, name: bytes) -> None: ...
def set_readonly(fd: int, readonly: bool) -> None: ...
def info(fd: int) -> Info: ...
def sync(fd: int) -> None: ...
def quota_enable(fd: int) -> None: ...
def qgroup_create(fd: int, id: int) -> None: ...
def qgroup_remove(fd: int, id: int) -> None: ...
def qgroup_limit(fd: int, id: int, exclusive: int | None) -> None:
    """``exclusive``: most bytes that only this subvolume refers to; None: any number."""

def qgroup_usage(fd: int, id: int) -> tuple[int, int] | None:
    """(referenced, exclusive) bytes; None where quotas are off."""

def changed(fd: int, parent_fd: int, transid: int, sec: int) -> list[tuple[int, bool]]:
    """(inode, is a directory) of all that were there in that transaction, at ``sec``, and were not only read since.
    ``parent_fd``: the subvolume as it was then."""

def names(fd: int, ino: int) -> list[tuple[int, bytes]]:
    """(inode of the directory, name) of each name of an inode."""

def compare_names(a_fd: int, b_fd: int, ino: int) -> list[tuple[int, bytes]]:
    """(``IN_A`` or ``IN_B``, with ``DIRECTORY`` where it is one, name) of the entries that are not the same in both."""

def nested(fd: int, id: int) -> list[tuple[int, int, bytes]]:
    """(id, inode of the directory, name) of each subvolume right in subvolume ``id``."""

def usage(fd: int, transid: int) -> tuple[int, int, int]:
    """(bytes, inodes, shared bytes) that were made since: ``struct fl_btrfs_usage``."""
