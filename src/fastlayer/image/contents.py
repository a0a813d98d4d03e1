"""Which contents the snapshots of a store have, by digest: so that a pull need not fetch them.

For each layer that came with a table of contents there is a file ``cache/contents/CHAIN-ID``: sorted digests of files
and chunks, and where they are in the snapshot. It is made of the TOC, when a layer was pulled in part or when its blob
is in the store, and removed with the snapshot. It is a hint and nothing else: whoever takes something hashes it.

::

    magic, count, heap size, partial   8 bytes, 3 numbers; partial: 1 for a layer that was pulled in part, else 0
    blob                               32 bytes: the digest of the layer's blob
    digests                            32 bytes each
    7 columns of numbers               see Found; path: where it starts in the heap
    heap                               paths, each with a NUL behind it

Numbers are 64 bits, little-endian. Where the blob is there, too, frames of it can take the place of what would have to
be fetched: the same compressor makes the same of the same contents.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, FastlayerError
from fastlayer.layer.chunked.blob import read_toc
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.digest import Digest
from fastlayer.store.collect import claim_blobs, claim_snapshots, contents_place

if TYPE_CHECKING:
    from fastlayer.layer.chunked.toc import Toc
    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store

_MAGIC = b"FLCONT02"
_HEAD = 64
_COLUMNS = 7
_ROW = 32 + _COLUMNS * 8
_LARGEST = (1 << 63) - 1
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Found(NamedTuple):
    """Contents in a snapshot: ``size`` bytes of the file ``path`` from ``offset`` on. ``tree``: its number here.

    In the blob of its layer: ``start`` to before ``end``, 0 where that is not known; what is between the file before
    and this one begins at ``gap`` (``start``: this is no beginning of a file), and has the ``mark`` of the TOC.
    """

    tree: int
    path: bytes
    offset: int
    size: int
    start: int
    end: int
    gap: int
    mark: int


def record(store: Store, chain: str, toc: Toc, blob: Digest, *, partial: bool) -> None:
    """Notes what the snapshot ``chain`` has, of the layer ``blob``, which was pulled in part, or is here as a blob.

    That it cannot be noted is no reason to fail.
    """
    if store.read_only:
        return
    place = contents_place(store.root)
    name = Digest(chain).encoded
    temporary = place / f".{name}-{os.getpid()}-{os.urandom(4).hex()}"
    with suppress(OSError):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.writelines(_packed(toc, blob, partial=partial))
            os.rename(temporary, place / name)
        finally:
            temporary.unlink(missing_ok=True)


def is_partial(store: Store, chain: str, blob: Digest) -> bool:
    """Whether the layer was pulled in part and has no blob: its snapshot does not give it, and never has."""
    if blob.algorithm != "sha256" or store.content.has(blob):
        return False
    try:
        with open(contents_place(store.root) / Digest(chain).encoded, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head[:8] == _MAGIC and head[24] == 1 and head[32:] == bytes.fromhex(blob.encoded)


def _snapshots(db: Any) -> list[tuple[str, str]]:
    """(chain id, driver) of layers."""
    rows = db.execute(
        "SELECT key, driver FROM snapshots WHERE kind = 'committed' AND state = 'ready' AND key LIKE 'sha256:%'"
    )
    return [(str(row[0]), str(row[1])) for row in rows]


def _rows(toc: Toc) -> Iterator[tuple[bytes, int, int, bytes, int, int, int, int]]:
    gap = 0
    for file in toc.files:
        path = _path(file.path)
        first, last = file.chunks[0], file.chunks[-1]
        if path:
            if file.digest:
                yield file.digest, 0, file.size, path, first.start, last.end, gap, file.mark
            at = 0
            for chunk in file.chunks:
                if chunk.digest and not chunk.zeros and chunk.digest != file.digest:
                    before = chunk.start if at else gap
                    yield chunk.digest, at, chunk.size, path, chunk.start, chunk.end, before, 0 if at else file.mark
                at += chunk.size
        gap = last.end or last.start


def _path(text: str) -> bytes:
    """None, when no file can be called so."""
    try:
        path = os.fsencode(text)
    except UnicodeEncodeError:
        return b""
    return b"" if b"\0" in path else path


def _packed(toc: Toc, blob: Digest, *, partial: bool) -> list[bytes]:
    import numpy

    rows = sorted(_rows(toc))
    heap: dict[bytes, int] = {}
    size = 0
    for row in rows:
        if row[3] not in heap:
            heap[row[3]] = size
            size += len(row[3]) + 1
    columns = [[row[column] for row in rows] for column in (1, 2, 4, 5, 6, 7)]
    columns.insert(2, [heap[row[3]] for row in rows])
    head = _MAGIC + len(rows).to_bytes(8, "little") + size.to_bytes(8, "little")
    head += int(partial).to_bytes(8, "little") + bytes.fromhex(blob.encoded)
    numbers = [numpy.array(column, "<u8").tobytes() for column in columns]
    return [head, b"".join(row[0] for row in rows), *numbers, b"".join(path + b"\0" for path in heap)]


class _List:
    """A list that is mapped into memory."""

    def __init__(self, path: Path) -> None:
        import numpy

        with open(path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = self._data[:_HEAD]
        self.count, heap = (int.from_bytes(head[at : at + 8], "little") for at in (8, 16))
        if head[:8] != _MAGIC or len(self._data) != _HEAD + self.count * _ROW + heap:
            raise ValueError("no list of contents")
        self.blob = head[32:64]
        self._heap = _HEAD + self.count * _ROW
        digests = numpy.frombuffer(self._data, "u1", 32 * self.count, _HEAD)
        self._digests: Any = digests.reshape(self.count, 32)
        columns = numpy.frombuffer(self._data, "<u8", _COLUMNS * self.count, _HEAD + 32 * self.count)
        self._columns: Any = columns.reshape(_COLUMNS, self.count)
        self._keys: Any = _keys(self._digests)

    def find(self, tree: int, wanted: Any) -> Iterator[tuple[int, Found]]:
        """Which of the digests, an array of rows in order, are here."""
        import numpy

        if not self.count or not len(wanted):
            return
        keys = _keys(wanted)
        at = numpy.minimum(numpy.searchsorted(self._keys, keys), self.count - 1)
        numbers = numpy.flatnonzero(self._keys[at] == keys)
        numbers = numbers[(self._digests[at[numbers]] == wanted[numbers]).all(axis=1)]
        columns = self._columns[:, at[numbers]].tolist()
        for number, offset, size, path, first, last, gap, mark in zip(numbers.tolist(), *columns, strict=True):
            start = self._heap + path
            end = self._data.find(b"\0", start) if start < len(self._data) else -1
            if offset <= _LARGEST - size and end > start and gap <= first < _LARGEST and last < _LARGEST:
                yield number, Found(tree, self._data[start:end], offset, size, first, last, gap, mark)


def _keys(digests: Any) -> Any:
    """The first eight bytes of each, as numbers, which are in the same order."""
    return digests.view(">u8")[:, 0].astype("=u8")


class _Tree(NamedTuple):
    driver: str
    chain: str


class Contents:
    """What is there, for one pull. ``close`` at the end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._trees: list[_Tree] = []
        self._lists: list[_List] = []
        self._roots: dict[int, int] = {}  # descriptors of trees; -1: not to be had
        self._parents: dict[int, tuple[bytes, int]] = {}  # the directory that was last used of each
        self._blobs: dict[int, int] = {}
        self._open_lists()

    def __bool__(self) -> bool:
        return bool(self._lists)

    def _open_lists(self) -> None:
        with self._store.database.read() as db:
            snapshots = dict(_snapshots(db))
        make_missing(self._store, snapshots)
        for chain, driver in snapshots.items():
            with suppress(OSError, ValueError):
                self._lists.append(_List(contents_place(self._store.root) / Digest(chain).encoded))
                self._trees.append(_Tree(driver, chain))

    def find(self, digests: Iterable[bytes]) -> dict[bytes, Found]:
        """Where contents of these digests should be, if anywhere."""
        import numpy

        wanted = sorted({digest for digest in digests if digest})
        rows = numpy.frombuffer(b"".join(wanted), "u1").reshape(len(wanted), 32)
        found: dict[bytes, Found] = {}
        for tree, listed in enumerate(self._lists):
            for number, place in listed.find(tree, rows):
                found.setdefault(wanted[number], place)
        return found

    def blob(self, tree: int) -> int:
        """The blob of the layer whose snapshot it is, open, until ``close``; -1 when it is not here."""
        if tree not in self._blobs:
            self._blobs[tree] = -1
            digest = Digest(f"sha256:{self._lists[tree].blob.hex()}")
            with suppress(OSError):
                self._blobs[tree] = os.open(self._store.content.path_of(digest), _FILE)
        return self._blobs[tree]

    def claim(self, lease: Lease, places: Collection[Found]) -> None:
        """Keeps the snapshots for the lease. Those that went meanwhile are not found by ``open``."""
        used: dict[str, list[str]] = {}
        for tree in {place.tree for place in places}:
            used.setdefault(self._trees[tree].driver, []).append(self._trees[tree].chain)
        for driver, chains in used.items():
            claim_snapshots(self._store, lease, driver, chains)
        blobs = {self._lists[place.tree].blob for place in places}
        claim_blobs(self._store, lease, [f"sha256:{blob.hex()}" for blob in blobs])

    def open(self, place: Found) -> int:
        """The regular file at a place, of at least the size that it has to have; no link is followed.

        The caller closes it. Raises ``OSError`` for what is not there as it should be.
        """
        fd = self._open(place)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size < place.offset + place.size:
            os.close(fd)
            raise FileNotFoundError
        return fd

    def _open(self, place: Found) -> int:
        parts = [part for part in place.path.split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts:
            raise FileNotFoundError
        parent = b"/".join(parts[:-1])
        known = self._parents.get(place.tree)
        if known is None or known[0] != parent:
            fd = self._directory(place.tree, parts[:-1])
            if known is not None:
                os.close(known[1])
            self._parents[place.tree] = known = (parent, fd)
        return os.open(parts[-1], _FILE, dir_fd=known[1])

    def _directory(self, tree: int, parts: Sequence[bytes]) -> int:
        fd = os.open(".", _DIRECTORY, dir_fd=self._root(tree))
        for part in parts:
            above = fd
            try:
                fd = os.open(part, _DIRECTORY, dir_fd=above)
            finally:
                os.close(above)
        return fd

    def _root(self, tree: int) -> int:
        if tree not in self._roots:
            self._roots[tree] = -1
            with suppress(FastlayerError, OSError):
                self._roots[tree] = os.open(_path_of(self._store, self._trees[tree]), _DIRECTORY)
        if self._roots[tree] < 0:
            raise FileNotFoundError
        return self._roots[tree]

    def close(self) -> None:
        for fd in (*self._roots.values(), *self._blobs.values(), *(fd for _, fd in self._parents.values())):
            if fd >= 0:
                os.close(fd)
        self._roots.clear()
        self._blobs.clear()
        self._parents.clear()
        self._lists.clear()


def _path_of(store: Store, tree: _Tree) -> str | Path:
    """The directory with the files of a snapshot: its own, or all."""
    snapshotter = store.snapshotter_of(tree.driver)
    number, parents = snapshotter.number(tree.chain)
    own = snapshotter.driver.own_tree(number)
    if own is not None:
        return own
    if not snapshotter.driver.directories:
        raise DriverError(f"{tree.driver}: its snapshots are in no directory: nothing is taken from them")
    (mount,) = snapshotter.driver.mounts(number, parents, "committed")
    return mount.source


# ---- of blobs that are here ------------------------------------------------------------------------


def make_missing(store: Store, snapshots: Iterable[str]) -> None:
    """The lists of those snapshots whose layers are in the store as chunked blobs."""
    there = set(os.listdir(place)) if (place := contents_place(store.root)).is_dir() else set()
    missing = {chain for chain in snapshots if Digest(chain).encoded not in there}
    if not missing or store.read_only:
        return
    with store.database.read() as db:
        rows = [json.loads(row[0]) for row in db.execute("SELECT layers FROM manifests")]
    for layers in rows:
        for (digest, _), chain in zip(layers, chain_ids(diff_id for _, diff_id in layers), strict=True):
            if chain in missing and store.content.has(Digest(digest)):
                missing.discard(chain)
                _make(store, str(chain), Digest(digest))


def _make(store: Store, chain: str, digest: Digest) -> None:
    with suppress(OSError, FastlayerError):
        if digest.algorithm != "sha256":
            return
        toc = read_toc(store.content.path_of(digest))
        if toc is not None:
            record(store, chain, toc, digest, partial=False)
