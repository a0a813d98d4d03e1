"""Other mount namespaces: what is mounted in them, and whether they are still there (mount_namespaces(7))."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fastlayer._values import NamedTuple
from fastlayer.errors import StorageError
from fastlayer.mounts import table

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO: all processes can be seen

Root = tuple[int, int, int] | None  # device, inode and mount; None when it cannot be told


def current() -> int:
    """The mount namespace this process is in."""
    return os.stat("/proc/self/ns/mnt").st_ino


class View(NamedTuple):
    """What a process sees mounted. ``process``: its id; 0: the one that asks.

    One that was put into a directory (chroot(2)) sees what lies below it, and names it from there.
    """

    namespace: int
    process: int
    entries: list[table.Entry]


def view_of(namespace: int) -> View | None:
    """The mounts of the namespace; none when it is gone for certain; None when that cannot be told."""
    if namespace == current():
        return View(namespace, 0, list(table.entries()))
    wanted, sure = f"mnt:[{namespace}]", _sees_all()
    for task in _tasks():
        found = _link(f"{task}/ns/mnt")
        if found == wanted:
            try:
                return View(namespace, _process(task), list(table.entries(f"{task}/mountinfo")))
            except (StorageError, OSError):
                sure = False
        sure = sure and found is not None
    return View(namespace, 0, []) if sure and not _kept(wanted) else None


def others() -> Iterator[View]:
    """What other processes see: one of each mount namespace, and of each root directory in it, as far as may be read.

    Of ours, too: we may see less of it. Processes may end and start others meanwhile: it is looked again until nothing
    new is found.
    """
    seen: set[tuple[str, Root]] = set()
    fresh = True
    while fresh:
        fresh = False
        for task in _tasks():
            namespace = _link(f"{task}/ns/mnt") or ""
            if not namespace.startswith("mnt:["):
                continue
            sight = namespace, _root(task)
            if sight in seen:
                continue
            try:
                found = list(table.entries(f"{task}/mountinfo"))
            except (StorageError, OSError):
                continue  # another of its kind may tell
            seen.add(sight)
            fresh = True
            yield View(int(namespace[5:-1]), _process(task), found)


def _root(task: str) -> Root:
    """The root directory of a task. Its name would not tell: seen from a directory we were put into, all are ``/``."""
    try:
        opened = os.open(f"{task}/root", os.O_PATH)
    except OSError:
        return None
    try:
        about, mount = os.stat(opened), table.identity(opened)
        return about.st_dev, about.st_ino, mount.number if mount else 0
    finally:
        os.close(opened)


def _process(task: str) -> int:
    return int(task.split("/")[2])


def _sees_all() -> bool:
    return os.geteuid() == 0 and _link("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


def _tasks() -> Iterator[str]:
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield from (f"/proc/{process}/task/{task}" for task in os.listdir(f"/proc/{process}/task"))
        except OSError:
            continue  # it has just ended


def _link(path: str) -> str | None:
    """What it points to; empty when the process has ended; None when it may not be read."""
    try:
        return os.readlink(path)
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return None


def _kept(wanted: str) -> bool:
    """By a bind mount of the namespace or an open descriptor, without a process in it."""
    if any(entry.root == wanted.encode() for entry in table.entries()):
        return True
    for task in _tasks():
        try:
            if any(_link(f"{task}/fd/{fd}") in (wanted, None) for fd in os.listdir(f"{task}/fd")):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return True
    return False
