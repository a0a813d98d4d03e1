"""Removing trees: without recursion, without following links, at any depth, with three descriptors at most.

The way back up is ``..``, accepted only when it is the very directory that was left. What is mounted somewhere in the
tree is not the tree's: it is never entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from fastlayer._baseline.nodes import Node
from fastlayer._baseline.paths import DIRECTORY, Handle, identity, overrides_permissions, proc_path
from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError

_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Spared = Callable[[int, Node], None]  # a directory that stays only for what is below it: its descriptor and place


class _Level(NamedTuple):
    name: bytes
    node: Node | None  # where the layer has been; None: nowhere below
    identity: tuple[int, int]
    subdirs: list[bytes]

    def child(self, name: bytes) -> Node | None:
        return None if self.node is None else self.node.find(name)


def remove(parent: int, name: bytes, node: Node | None, spared: Spared) -> None:
    """Removes ``name`` in the directory ``parent`` and all below it, but for what the layer made there and the
    directories above that: ``node`` is its place, None when everything goes. Nothing there is no error."""
    mount = mount_id(parent)
    try:
        fd = _open(name, parent, mount)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if not _is_kept(node):
            os.unlink(name, dir_fd=parent)
        return
    with Handle(fd):
        remove_children(fd, node, spared)
        _remove_directory(parent, name, fd, node, spared)


def remove_children(root: int, node: Node | None, spared: Spared) -> None:
    """Everything below the directory ``root``, whose place is ``node``; the directory itself stays."""
    mount = mount_id(root)
    with Handle(_open(b".", root, mount)) as here:
        stack = [_enter(here.fd, b"", node)]
        while True:
            level = stack[-1]
            if level.subdirs:
                name = level.subdirs.pop()
                here.move(_open(name, here.fd, mount))
                stack.append(_enter(here.fd, name, level.child(name)))
                continue
            stack.pop()
            if not stack:
                return
            with Handle(os.open("..", _LISTING, dir_fd=here.fd)) as above:
                if identity(above.fd) != stack[-1].identity:
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # moved away under our feet
                _remove_directory(above.fd, level.name, here.fd, level.node, spared)
                here.move(above.release())


def mount_id(fd: int) -> int:
    """Of the mount that the open file is reached through: a bind mount has the device number of its origin."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        for line in info:
            key, _, value = line.partition(b":")
            if key == b"mnt_id":
                return int(value)
    return -1  # before Linux 3.15


def _open(name: bytes, parent: int, mount: int) -> int:
    """Opens a directory to be emptied; its owner, when not root, may have to take the permission first."""
    with Handle(os.open(name, DIRECTORY, dir_fd=parent)) as found:
        if mount_id(found.fd) != mount:
            raise StorageError(errno.EBUSY, "remove a mount point", name)
        status = os.fstat(found.fd)
        if status.st_mode & 0o700 != 0o700 and status.st_uid == os.geteuid() and not overrides_permissions():
            os.chmod(proc_path(found.fd), stat.S_IMODE(status.st_mode) | 0o700)
        return os.open(".", _LISTING, dir_fd=found.fd)


def _is_kept(node: Node | None) -> bool:
    return node is not None and node.made


def _enter(fd: int, name: bytes, node: Node | None) -> _Level:
    """Unlinks what is not a directory and lists what is."""
    with os.scandir(fd) as listing:
        children = [(os.fsencode(child.name), child.is_dir(follow_symlinks=False)) for child in listing]
    level = _Level(name, node, identity(fd), [child for child, is_directory in children if is_directory])
    for child, is_directory in children:
        if not is_directory and not _is_kept(level.child(child)):
            os.unlink(child, dir_fd=fd)
    return level


def _remove_directory(parent: int, name: bytes, fd: int, node: Node | None, spared: Spared) -> None:
    if _is_kept(node):
        return
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as exc:
        if node is None or exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        spared(fd, node)
    else:
        if node is not None and node.above is not None:
            node.above.forget(name)
