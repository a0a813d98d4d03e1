"""The contract of the boundary: what the modules of an engine have, as protocols. Nothing here runs.

Both packages export modules of the same names (``changes upper encode extract tarread merge chunk clone scan mountapi
subvolume usage sha256 crc64 run``) with the same classes and functions. Everything is batched: one call handles
thousands of entries or about 1 MiB. Paths are ``bytes`` relative to a root descriptor, without a leading slash; the
root itself is ``b""``. No call follows a symbolic link out of its root. Errors are exceptions of ``fastlayer.errors``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from fastlayer._backend.values import (
    ExtractStats,
    Row,
    RunMonitor,
    RunProgram,
    RunStep,
)


class ChangeTable(Protocol):
    """The finished answer of a differ. Rows are in path order (bytes of the full path)."""

    skipped_sockets: int
    dropped_xattrs: int

    def __len__(self) -> int: ...
    def row(self, number: int) -> Row: ...
    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]:
        """A batch of rows as Python values."""
        ...

    def records(self) -> memoryview:
        """The 64-byte ``struct fl_row`` records (csrc/fl_entry.h), read-only, not copied."""
        ...

    def heap(self) -> memoryview:
        """The byte heap that records point into, read-only, not copied."""
        ...


class TableBuilder(Protocol):
    """``changes.TableBuilder()``: a change table of rows that somebody lists.

    Raises ``UsageError``, naming the path, for what cannot be in a layer, for two rows of one path, and for a row
    below what is no directory.
    """

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """``NewRow`` values, or tuples like them, in any order."""
        ...

    def finish(self) -> ChangeTable: ...


class Differ(Protocol):
    """``changes.Differ(a, b, compare=, xattrs=, details=, threads=, only=None,
    shared_until_ns=0)``.

    a, b: a directory fd (int), Columns, or None (an empty tree).

    ``shared_until_ns``: two directories are one file system at two moments (snapshots of a block device) and were the
    same until then, so an equal inode with an equal ctime before it proves equal content; 0: they are not.
    ``details``: decide CONTENT exactly even where metadata already shows a change (listings want it, layers do not).
    ``only`` (Differ, directories): look at these paths instead of everything, sorted, the root ``b""`` first;
    ``path/`` means all below path. The answer is that about the whole trees if every path that differs is named, every
    name of each hard-linked file among them, and all directories above (csrc/fl_pick.h).
    """

    entries: int  # entries seen so far, both sides
    bytes_compared: int
    assumed: int  # files called different because no key and no ctime can tell (not of an UpperDiffer)

    def step(self) -> bool:
        """Does a batch; True while there is more to do."""
        ...

    def unverified(self) -> Sequence[tuple[int, bytes, bytes]]:
        """Unsettled pairs equal but for content that only hashing can prove, each as (ticket, path in the directory
        operand, blake3 key of the other side). May be asked after any step: settling early keeps memory small. All
        must be settled before finish."""
        ...

    def settle(self, ticket: int, equal: bool) -> None: ...
    def finish(self) -> ChangeTable: ...


class UpperDiffer(Differ, Protocol):
    """``upper.UpperDiffer(upper_fd, lower_fds, compare=, xattrs=, userxattr=, details=)``: the overlay fast path.

    Top lower first. ``userxattr``: the overlay's marks are ``user.overlay.*``, else ``trusted.overlay.*``.
    """

    def old_place(self, path: bytes) -> tuple[int, bytes] | None:
        """After ``finish``: where the lower directories have the bytes of their regular file at ``path``.

        The number of one (1 is the top one) and the path in it.
        """
        ...


class Encoder(Protocol):
    """``encode.Encoder(table, roots, clamp_mtime=None)``: the layer tar of a change table.

    ``roots``: descriptors the rows' contents come from; number 0 is tree B. ``clamp_mtime``: seconds; later
    mtimes become it. Raises ``FileChangedError`` when a file is not what the table says.
    """

    entries: int
    payload: int  # bytes of regular-file content so far

    def readinto(self, buffer: Any) -> int:
        """Fills buffer with the next tar bytes; less than len(buffer) only at the end, 0 when done."""
        ...


class Extractor(Protocol):
    """``extract.Extractor(target_fd, format=, ...)``: puts layer tars onto a tree, fed with uncompressed bytes.

    ``donor``: the descriptor of a directory on the target's file system that an earlier extraction of the same layer
    was cut short in, -1 for none. Its files are moved to the target, those that have the size of their entry, instead
    of being written again; the caller vouches that it was fed the same bytes. Only what goes into an empty target is
    taken. Where an entry of the layer replaces another one it cannot be known what is left: ``feed`` raises
    ``FileChangedError``, and the layer has to be extracted without the donor.
    """

    entries: int
    payload: int
    donated_bytes: int  # of the files of the latest layer that came from the donor

    def begin_layer(self) -> None: ...
    def feed(self, buffer: Any) -> None:
        """Takes all of buffer (any length). Bytes after the end-of-archive blocks are ignored.

        Signals are heard meanwhile, here and in ``end_layer``; what a handler raises stops the work between two steps
        (a removed name, a synced file), and then the extractor has failed.
        """
        ...

    def feed_extent(self, fd: int, offset: int, length: int) -> None:
        """Like ``feed`` of ``length`` bytes of the open file ``fd``, which go into the body of the file at hand.

        Extents are shared where the file system can. Raises ``LayerFormatError`` where that many bytes of a body do not
        come next, ``FileChangedError`` when the file ends before. The descriptor stays open. Signals: see ``feed``.
        """
        ...

    shared_bytes: int  # of the files of the latest layer that were placed, and of extents: what shares its extents
    copied_bytes: int  # and what was moved; holes are in neither

    def place(self, table: ChangeTable, roots: Sequence[int], clamp_mtime: int | None = None, *, jobs: int = 1) -> bool:
        """Between ``begin_layer`` and ``end_layer``, instead of ``feed``: a batch of the rows of ``table``.

        To be called until it returns False, with the same arguments. The result is that of the tar which an ``Encoder``
        makes of these arguments, but files are copied without it, sharing their extents where the file system can.
        Raises ``FileChangedError`` as the encoder does. ``jobs``: threads, this one included. Signals: see ``feed``.
        """
        ...

    def end_layer(self) -> ExtractStats:
        """Checks that the archive was complete and sets directory times. Raises ``LayerFormatError`` when cut short."""
        ...

    def abort(self) -> None: ...


class TarItem(Protocol):
    """``tarread.TarItem``: an entry of a tar; _native/tarread.pyi explains the fields."""

    type: str
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    data_offset: int
    sparse: bool


class TarScanner(Protocol):
    """``tarread.TarScanner(max_pax=1 << 20)``: reads a layer tar as it goes by, without putting it anywhere.

    Both backends also export ``tarread.TarItem`` (a NamedTuple, see _native/tarread.pyi).
    """

    offset: int  # archive bytes taken so far
    ended: bool  # the end-of-archive block was seen; what follows is ignored

    def feed(self, buffer: Any) -> list[tuple[Any, ...]]:
        """Takes all of buffer and returns its events, in archive order:

        ``("entry", TarItem)``, ``("data", start, stop, pos)``: buffer[start:stop] belongs at byte pos of the latest
        entry (what no data event covers is a hole), and ``("end",)`` after the last data of each regular file, empty
        ones included.
        """
        ...

    def finish(self) -> None:
        """The input ended: raises ``LayerFormatError`` when the archive was cut."""
        ...


class Merger(Protocol):
    """``merge.Merger(in_place=, max_entries=, max_size=, max_file_size=, max_pax=)``: a stack of tars as one tree.

    What ``apply`` would make of the layers, lowest first, without making it: ``begin_layer``, ``feed``, ``end_layer``
    for each, then ``finish`` and ``next_batch``. ``in_place``: ``data_off`` is where a file's bytes are in its tar,
    else in a spool that has all files one behind the other. Limits of 0 are none (see ``limits.Limits``).
    """

    entries: int  # of the tars, so far
    count: int  # paths of the tree; valid after finish
    size: int  # bytes of the spool
    sparse: bool  # some file is not stored as it is

    def begin_layer(self) -> None: ...
    def feed(self, buffer: Any) -> list[tuple[Any, ...]]:
        """Takes all of buffer. The events are of files of the tree that are not empty: ``("file", number, size,
        spool_offset)``, then as of ``TarScanner`` ``("data", start, stop, pos)`` and ``("end",)``."""
        ...

    def set_key(self, number: int, key: bytes) -> None:
        """The blake3 key of the file of that number."""
        ...

    def end_layer(self) -> None:
        """The input ended: raises ``LayerFormatError`` when the archive was cut."""
        ...

    def finish(self) -> None: ...
    def next_batch(self, n: int = 4096) -> tuple[Any, ...] | None:
        """At most n paths, in order, as the bytes of the 18 columns of ``Columns``, then heap, keys and data_off.

        ``path_off`` counts from the first byte of the first heap; dev and ctime are 0. None: no more."""
        ...


class Scanner(Protocol):
    """``scan.Scanner(root_fd, *, xattrs="all", only=None, ignore=None)``: a tree as flat records in path order, root
    first.

    Sockets are left out and counted. ``only``: see ``Differ``. ``ignore``: compiled patterns (csrc/fl_ignore.h,
    ``builder.dockerfile.ignore.program``). What they leave out is not looked at, and no directory is entered below
    which nothing can be taken back; the directories above what is taken back are there.
    """

    entries: int
    skipped_sockets: int
    dropped_xattrs: int  # left out by policy

    def next_batch(self, n: int = 4096) -> tuple[bytes, bytes] | None:
        """At most n ``struct fl_entry`` records (csrc/fl_entry.h) and the heap of their path_off; None: no more."""
        ...


class ReadMany(Protocol):
    """``scan.read_many``: the contents of many small files with one call."""

    def __call__(self, root_fd: int, paths: Sequence[bytes], buffer: Any) -> list[int]:
        """Reads whole files one behind the other into buffer, as many of the first paths as fit, and returns their
        lengths; -1 for one that is gone or no regular file. An empty list: the first does not fit at all."""
        ...


class TreeCloner(Protocol):
    """``clone.TreeCloner(src_fd, dst_fd, jobs=None, live=False, behind=None)``: an exact copy into the empty ``dst``.

    The destination is made 0700 at the start and gets the root's attributes when all below is complete. A failed or
    aborted clone leaves a partial tree there. ``jobs``: threads; None = the usable processors, at most 4. ``live``: a
    file that changes while it is copied is taken as it is read, and counted. ``behind``: of the two.
    """

    def step(self) -> bool:
        """Works for a moment; True while there is more to do. Raises ``StorageError``, ``FileChangedError``."""
        ...

    def stats(self) -> tuple[int, ...]:
        """``CopyCounts``; while the copy runs only the first two are exact."""
        ...

    def abort(self) -> None: ...


class PathCopier(Protocol):
    """``clone.PathCopier(lower_fd, upper_fd, work_fd, path, behind=None)``: copies one path up as overlayfs does.

    The rules are in csrc/fl_copyup.h. ``behind``: of the lower and the work directory.
    """

    def step(self) -> bool: ...
    def stats(self) -> tuple[int, ...]: ...
    def abort(self) -> None:
        """Stops and removes what is in the work directory."""
        ...


class Chunker(Protocol):
    """``chunk.Chunker(min_size, avg_size, max_size, kernel=None)``: the cuts of one stream (csrc/fl_chunk.h).

    ``chunk.KERNELS`` names the kernels of the build, the reference ``scalar`` first; asking for another is a
    ``BackendError``.
    """

    kernel: str

    def feed(self, buffer: Any, final: bool) -> list[int]:
        """Takes the next bytes of the stream and returns the offsets behind the chunks that end in them."""
        ...


class Sha256(Protocol):
    """``sha256.Sha256()``: one stream (csrc/fl_sha256.h); ``sha256.update_both(a, data_a, b, data_b)``: two at once.

    ``sha256.digests(data, bounds)``: of many pieces, data[bounds[2i]:bounds[2i+1]], one behind the other; ``bounds`` is
    an array of unsigned 64-bit numbers.

    ``sha256.AVAILABLE`` is false where the native engine has nothing for this processor; see ``hashing``.
    """

    def update(self, data: Any) -> None: ...
    def hexdigest(self) -> str: ...


class Crc64(Protocol):
    """The module ``crc64``: the sum that tar-split keeps of a file (csrc/fl_crc64.h)."""

    def update(self, crc: int, data: Any) -> int:
        """``crc``: 0 at first, then what the last call returned."""
        ...

    def many(self, data: Any, bounds: Any) -> list[int]:
        """Of many pieces, as ``sha256.digests`` takes them."""
        ...


class TreeUsage(Protocol):
    """``usage.TreeUsage(root_fd)``: what a tree takes on the disk (csrc/fl_usage.h)."""

    def step(self) -> bool:
        """A batch of directories; True while there is more to do."""
        ...

    def sums(self) -> tuple[int, int, int]:
        """Allocated bytes, inodes, and the bytes that other files share."""
        ...

    def close(self) -> None: ...


class MountApi(Protocol):
    """The module ``mountapi``: the steps of mounting, one system call each (csrc/fl_mount.h has the rules).

    Descriptors that are returned are the caller's. Raises ``StorageError``, whose ``detail`` is what the file system
    itself says about it.
    """

    def open_fs(self, fs_type: bytes) -> int: ...
    def set_parameters(self, context: int, parameters: Iterable[tuple[bytes, bytes | int | None]]) -> None:
        """In order; a value is a string, a descriptor, or None for a flag."""
        ...

    def create_mount(self, context: int, attributes: int) -> int: ...
    def clone_mount(self, path: bytes, *, recursive: bool) -> int: ...
    def change_mount(
        self, mount: int, *, set: int, clear: int = 0, userns: int = -1, recursive: bool = False
    ) -> None: ...
    def attach(self, mount: int, target: int) -> None: ...
    def detach(self, path: bytes, flags: int) -> None: ...
    def mount_old(
        self, source: bytes, target: bytes, fs_type: bytes, flags: int, data: bytes, *, cwd: int = -1
    ) -> None: ...
    def mount_id(self, fd: int, *, plain: bool = False) -> tuple[int, bool, bool]:
        """``(number, unique, root)``."""
        ...

    def user_namespace(self, uid_map: bytes, gid_map: bytes) -> int: ...


class RunApi(Protocol):
    """The module ``run``: csrc/fl_run.h has the rules."""

    def start(
        self,
        keeper: Sequence[RunStep],
        child: Sequence[RunStep],
        program: RunProgram,
        *,
        namespaces: int,
        whole_tree: bool,
        slots: Sequence[int],
        life: int,
        report: int,
    ) -> int:
        """Starts the keeper, a child process of the caller, and returns its pid."""
        ...

    def watch(
        self,
        keeper: Sequence[RunStep],
        child: Sequence[RunStep],
        program: RunProgram,
        monitor: RunMonitor,
        *,
        namespaces: int,
        whole_tree: bool,
        slots: Sequence[int],
        life: int,
    ) -> None:
        """Starts a run with a monitor, which is no child of the caller."""
        ...


class Engine(Protocol):
    """The modules of one backend."""

    name: str
    changes: Any
    upper: Any
    encode: Any
    extract: Any
    tarread: Any
    merge: Any
    chunk: Any
    clone: Any
    scan: Any
    mountapi: MountApi
    subvolume: Any  # btrfs: see csrc/fl_btrfs.h and _native/subvolume.pyi
    usage: Any
    sha256: Any
    crc64: Crc64
    run: RunApi
