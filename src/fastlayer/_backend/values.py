"""The values that cross the boundary to the engine, as plain tuples with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastlayer._values import NamedTuple

# What changed: bits of Row.what (csrc/fl_entry.h FL_WHAT_*)
CONTENT, MODE, OWNER, MTIME, XATTR, TYPE, LINK, DEVICE = 1, 2, 4, 8, 16, 32, 64, 128

Compare = Literal["auto", "metadata", "content"]
XattrPolicy = Literal["all", "docker", "none"]


class Row(NamedTuple):
    """One line of a change table, as Python values.

    ``kind`` is ``"A"``, ``"C"``, ``"D"`` or ``"P"`` (an unchanged directory above a change, there only
    for the layer). ``size`` is bytes of a regular file (else 0), ``rdev`` device numbers or ``(0, 0)``.
    ``link`` is the target of a symbolic link; ``leader`` the path of the first name of a
    hard-link group when this row is a later name of it, else None. Deletions carry path, mode and size of A.
    """

    kind: str
    what: int
    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple[int, int]
    link: bytes
    leader: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]


class NewRow(NamedTuple):
    """A line for a ``TableBuilder``; any tuple of these fourteen values in this order will do.

    ``kind``, ``mode`` and the attributes: as in ``Row``; kind ``P`` is an unchanged directory, dropped when nothing is
    below it (and the root always), ``D`` needs only a path. ``path``: where it goes in the layer.

    Where the ``size`` bytes of a regular file are: in the file ``source`` below descriptor ``root`` of the list that an
    encoder or extractor is given; or, when ``source`` is a number, at that offset of the file that the descriptor is
    itself (``root`` below 256). ``ctime_ns``: what the ctime of ``source`` must still be; 0: any. ``group``: 0, or a
    number that all names of one hard-linked file have (and the same source and attributes).
    """

    kind: str
    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: tuple[int, int] = (0, 0)
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # sorted by name
    root: int = 0
    source: bytes | int = b""
    ctime_ns: int = 0
    group: int = 0


class Columns(NamedTuple):
    """A whole tree as flat, path-sorted columns: what an index or a scanned tar gives to a differ.

    Every column is a C-contiguous buffer of the named type with one item per entry (any object of the buffer protocol;
    memory-mapped is fine). Variable parts: the path of entry i is ``heap[path_off[i]:][:path_len[i]]``, followed by
    ``link_len[i]`` bytes of symlink target and ``xattr_len[i]`` bytes of xattr blob (csrc/fl_entry.h).
    ``key`` holds 32 bytes per entry, valid where flags & 1. ``data_off`` (or None) is where a regular file's bytes
    begin in the file that backs the operand. Entry 0 is the root when the operand knows it.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    dev: Any  # u64
    ino: Any  # u64
    size: Any  # u64
    mtime_sec: Any  # i64
    ctime_sec: Any  # i64
    path_off: Any  # u64
    mtime_nsec: Any  # u32
    ctime_nsec: Any  # u32
    mode: Any  # u32
    uid: Any  # u32
    gid: Any  # u32
    nlink: Any  # u32
    rdev_major: Any  # u32
    rdev_minor: Any  # u32
    path_len: Any  # u32
    link_len: Any  # u32
    xattr_len: Any  # u32
    flags: Any  # u32
    heap: Any  # u8
    key: Any | None  # u8[32 * count]
    data_off: Any | None  # u64
    racy_ns: int  # ctimes at or after this instant prove nothing (git's racy rule); 0: no ctime proves anything


class ExtractStats(NamedTuple):
    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]  # collected, at most one per cause
    skipped_xattrs: int
    needs_lower: bool  # with markers: directories that no entry describes, an opaque overlay root


class CopyCounts(NamedTuple):
    """What a copy did; ``stats()`` of the two copiers returns these eight numbers as a plain tuple."""

    entries: int  # names made (below the root)
    bytes: int  # sizes of the regular files, every inode once
    shared_bytes: int  # of these: in files that share the source's extents
    copied_bytes: int  # of these: moved; holes are in neither
    sockets: int  # skipped
    lost_owners: int  # objects whose owner could not be kept
    lost_xattrs: int
    changed: int  # files that changed meanwhile, with ``live``


class Behind(NamedTuple):
    """Descriptors of real directories behind two that are an overlay's (csrc/fl_backing.h).

    ``layers``: those that are seen merged where is read, topmost first, at most 32. ``target``: the one in which files
    are that are made where is written. Empty, -1: that side is not an overlay's, or nothing is known of it.
    """

    layers: tuple[int, ...] = ()
    target: int = -1


# (op, slot, number, one, two, three): struct fl_run_step of csrc/fl_run.h
RunStep = tuple[int, int, int, bytes | None, bytes | None, bytes | None]


class RunProgram(NamedTuple):
    """What a run executes, and as whom: struct fl_run_program of csrc/fl_run.h.

    ``paths`` are tried in order. ``apart``: who runs in the root already must not be able to lead them to a program of
    the host, which takes execveat(2). ``groups`` None: they stay as they are. ``caps``: the set that remains, as bits;
    None: all. ``filter``: a seccomp program (struct sock_filter, 8 bytes each), may be empty. ``limits``: of
    setrlimit(2): resource, soft, hard; -1: none.
    """

    paths: Sequence[bytes]
    argv: Sequence[bytes]
    env: Sequence[bytes]
    cwd: bytes
    uid: int
    gid: int
    groups: Sequence[int] | None
    caps: int | None
    no_new_privileges: bool
    filter: bytes
    stdio: tuple[int, int, int]
    filter_flags: int = 0
    limits: Sequence[tuple[int, int, int]] = ()
    terminal: int = -1  # a slot
    apart: bool = False


class RunMonitor(NamedTuple):
    """Who looks after a run that outlives its caller: struct fl_monitor of csrc/fl_monitor.h, which says what each is.

    All but sizes and texts are descriptors, -1 where there is none.
    """

    news: int
    life: int
    dir: int = -1
    lock: int = -1
    listener: int = -1
    client: int = -1
    out: int = -1
    err: int = -1
    input: int = -1
    terminal: int = -1
    master: int = -1
    rows: int = 0
    columns: int = 0
    stdin_once: bool = False
    log_size: int = 0
    log_files: int = 0
    oom: int = -1
    cgroups: Sequence[bytes] = ()
    cleanup: Sequence[bytes] = ()
    environment: Sequence[bytes] = ()
