"""A run as data: what the keeper and the child do, step by step (csrc/fl_run.h)."""

from __future__ import annotations

import os

from fastlayer._backend import RunProgram, RunStep
from fastlayer._values import NamedTuple

UNSHARE, MAP, ROOT_IDS, PRIVATE, TREE, READONLY, ATTACH, MOUNT, OPEN, CHDIR, PIVOT, CHROOT = range(1, 13)
STUB, MAKE, DIRECTORY, SYMLINK, FILE, UNLINK, PLAIN, MASK, LOCK, HOSTNAME, LOOPBACK, UMOUNT, NODEV = range(13, 26)
SETNS, JOIN, TERMINAL, WRITE, HIDE = range(26, 31)
OPTIONAL = 256
STUB_DIRECTORY, STUB_STAYS = 1, 2

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_STRICTATIME = 1, 2, 4, 8, 1 << 24
MS_REMOUNT, MS_BIND = 0x20, 0x1000
TREE_ALONE, TREE_SLAVE, TREE_SHARED = 1, 1 << 19, 1 << 20  # how TREE copies; READONLY knows the first

# what a step does, for messages: by number
WORDS = {
    UNSHARE: "make namespaces",
    MAP: "map ids",
    ROOT_IDS: "become root of the user namespace",
    PRIVATE: "make mounts private",
    TREE: "copy a mount",
    READONLY: "make a mount read-only",
    ATTACH: "mount",
    MOUNT: "mount",
    OPEN: "open",
    CHDIR: "enter the directory",
    PIVOT: "change the root (pivot_root)",
    CHROOT: "change the root (chroot)",
    STUB: "make the mount point",
    MAKE: "make the mount point",
    DIRECTORY: "make the directory",
    SYMLINK: "make the link",
    FILE: "make the file",
    UNLINK: "remove",
    PLAIN: "check",
    MASK: "mask",
    LOCK: "make read-only",
    HOSTNAME: "set the host name",
    LOOPBACK: "set up the loopback interface",
    UMOUNT: "unmount",
    NODEV: "shut the devices of a mount",
    SETNS: "enter the namespaces of the container",
    JOIN: "enter the cgroup",
    TERMINAL: "make a terminal",
    WRITE: "write",
    HIDE: "hide the process",
}


class Plan:
    """Steps of the two processes, and the slots they share."""

    def __init__(self) -> None:
        self.keeper: list[RunStep] = []
        self.child: list[RunStep] = []
        self.slots: list[int] = []
        self.namespaces = 0
        self.whole_tree = False
        self.terminal = -1  # slot of the program's terminal
        self.opened: list[int] = []  # descriptors to be closed when the run has begun

    def slot(self, fd: int = -1) -> int:
        """A new one; ``fd`` is closed for its giver when the run has begun."""
        self.slots.append(fd)
        if fd >= 0:
            self.opened.append(fd)
        return len(self.slots) - 1

    def close(self) -> None:
        while self.opened:
            os.close(self.opened.pop())


def step(
    op: int, one: str | None = None, two: str | None = None, three: str | None = None, *, slot: int = 0, number: int = 0
) -> RunStep:
    texts = (None if text is None else os.fsencode(text) for text in (one, two, three))
    return (op, slot, number, *texts)  # type: ignore[return-value]


class Failure(NamedTuple):
    """What could not be done: the words of the step, what it was about, errno."""

    doing: str
    about: str
    errnum: int


def failure_of(steps: list[RunStep], number: int, errnum: int) -> Failure:
    if number >= len(steps):
        return Failure("start a process", "", errnum)
    op, _, _, one, two, _ = steps[number]
    op &= ~OPTIONAL
    about = two if op in (MOUNT, SYMLINK) else one
    return Failure(WORDS[op], os.fsdecode(about or b""), errnum)


__all__ = ["Failure", "Plan", "RunProgram", "RunStep", "failure_of", "step"]
