"""Where archives of cache mounts are: a directory of plain files, or one tar; in registries see ``repository.py``.

::

    cache-mounts.json       what there is (index.py)
    chunks/XX/HEX.zst       chunks; XX: the first two digits

Who writes to a directory has it alone (flock(2)), who reads has it together with others who read.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastlayer.builder.mountarchive import index
from fastlayer.builder.mountarchive.index import Mount
from fastlayer.builder.mountarchive.pack import MAX_PACKED, Chunk, expand
from fastlayer.builder.ownplaces import refuse_others
from fastlayer.content.files import explained, new_file, write_all
from fastlayer.errors import (
    CorruptStoreError,
    LayerFormatError,
    LimitError,
    NotFoundError,
    StoreError,
    show_path,
)
from fastlayer.image.formats.tarstream import MAX_MEMBERS, Member, TarStream
from fastlayer.image.formats.tarwriter import TarWriter
from fastlayer.layer.output import Output

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_CHUNK = re.compile(r"chunks/([0-9a-f]{2})/((?:\1)[0-9a-f]{62})\.zst", re.ASCII)
_SUFFIX = ".zst"


class Source(Protocol):
    """An archive that is read."""

    name: str
    mounts: dict[str, Mount]

    def expect(self, identities: Iterable[str]) -> None:
        """These chunks will be asked for, in this order."""
        ...

    def get(self, identity: str) -> bytes:
        """The frame of a chunk. Raises ``NotFoundError``."""
        ...


class Target(Protocol):
    """An archive that is written. ``mounts``: those it has already."""

    mounts: dict[str, Mount]

    def has(self, identity: str, size: int) -> int: ...
    def put(self, identity: str, packed: bytes) -> None: ...
    def finish(self, mounts: dict[str, Mount]) -> int:
        """These are the mounts from now on; tells how many chunks that nobody needs went."""
        ...


# ---- directories -----------------------------------------------------------------------------------


class Directory:
    """A directory, locked by ``directory``."""

    def __init__(self, path: Path) -> None:
        self.name = show_path(os.fspath(path))
        self._path = path
        self.mounts = _index_of(path, self.name)
        self._packed = {
            chunk.id: chunk.packed for mount in self.mounts.values() for chunk in (*mount.lines, *mount.data)
        }

    def has(self, identity: str, size: int) -> int:
        """One that the index knows has the length it had; what a killed writer left is read."""
        place = self._place(identity)
        try:
            there = os.lstat(place)
        except FileNotFoundError:
            return 0
        if stat.S_ISREG(there.st_mode) and there.st_size == self._packed.get(identity):
            return there.st_size
        try:
            frame = self.get(identity)
            expand(Chunk(identity, size, len(frame)), frame)
        except StoreError:
            return 0
        return len(frame)

    def expect(self, identities: Iterable[str]) -> None:
        """They are there."""

    def get(self, identity: str) -> bytes:
        place = self._place(identity)
        with _plain(place, f"{self.name}: the chunk {identity} is missing: export it again") as fd:
            return _read(fd, MAX_PACKED, place)

    def put(self, identity: str, packed: bytes) -> None:
        place = self._place(identity)
        with explained("cannot write", place):
            place.parent.mkdir(parents=True, exist_ok=True)
            _replace(place, packed)
        self._packed[identity] = len(packed)

    def finish(self, mounts: dict[str, Mount]) -> int:
        data = index.to_bytes(mounts.values())
        with explained("cannot write", self._path / index.NAME):
            if mounts != self.mounts or not (self._path / index.NAME).exists():
                _replace(self._path / index.NAME, data)
        needed = {identity for mount in mounts.values() for identity in mount.chunks}
        gone = 0
        with explained("cannot remove", self._path):
            for name, path in _files(self._path):
                if name not in needed:
                    path.unlink(missing_ok=True)
                    gone += bool(name)
            for path in self._path.glob(f".{index.NAME}.*"):
                path.unlink(missing_ok=True)
        return gone

    def _place(self, identity: str) -> Path:
        return self._path / "chunks" / identity[:2] / f"{identity}{_SUFFIX}"


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """The chunks there are; an empty name for what a killed writer left."""
    with explained("read", path):
        for folder in sorted(path.glob("chunks/[0-9a-f][0-9a-f]")):
            for name in sorted(os.listdir(folder)):
                found = _CHUNK.fullmatch(f"chunks/{folder.name}/{name}")
                yield (found[2] if found else "", folder / name)


def _index_of(path: Path, name: str) -> dict[str, Mount]:
    try:
        with _plain(path / index.NAME, "") as fd:
            return index.from_bytes(_read(fd, index.MAX_INDEX, path / index.NAME), f"{name}/{index.NAME}")
    except NotFoundError:
        return {}


@contextmanager
def directory(path: str, *, write: bool) -> Iterator[Directory]:
    """An archive directory for the block; to be written to it is made, and may not hold other things."""
    place = Path(path)
    if write:
        refuse_others(place, "the archive", index.NAME, {"chunks"})
        with explained("cannot write", place):
            (place / "chunks").mkdir(parents=True, exist_ok=True)
    elif not (place / index.NAME).exists():
        raise NotFoundError(f"{show_path(path)}: is no archive of cache mounts: it has no {index.NAME}")
    with explained("cannot open", place):
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX if write else fcntl.LOCK_SH)
        yield Directory(place)
    finally:
        os.close(lock)


def _replace(place: Path, data: bytes) -> None:
    """Complete or not at all."""
    fresh = place.with_name(f".{place.name}.{os.urandom(6).hex()}")
    fd = new_file(fresh)
    try:
        write_all(fd, data)
        os.rename(fresh, place)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


@contextmanager
def _plain(place: Path, missing: str) -> Iterator[int]:
    """A plain file, whatever stands there; ``missing``: what is said when nothing does."""
    from fastlayer.content.store import open_plain

    try:
        with explained("read", place, but=FileNotFoundError):
            file = open_plain(place, os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotFoundError(missing) from None
    with file:
        yield file.fileno()


def _read(fd: int, limit: int, place: Path) -> bytes:
    with explained("read", place):
        size = os.fstat(fd).st_size
        if size > limit:
            raise CorruptStoreError(f"{show_path(os.fspath(place))}: has {size} bytes; at most {limit} are expected")
        data = b""
        while len(data) < size and (piece := os.read(fd, size - len(data))):
            data += piece
    return data


# ---- archives --------------------------------------------------------------------------------------


class Archive:
    """A tar that is written: chunks as they come, what there is in the end."""

    def __init__(self, output: Output) -> None:
        self.mounts: dict[str, Mount] = {}
        self._output = output
        self._tar = TarWriter(output)
        self._there: dict[str, int] = {}

    def has(self, identity: str, size: int) -> int:
        return self._there.get(identity, 0)

    def put(self, identity: str, packed: bytes) -> None:
        self._there[identity] = len(packed)
        if len(self._there) >= MAX_MEMBERS:
            raise LimitError(f"{self._output.name}: more than {MAX_MEMBERS} chunks: export to a directory")
        self._tar.file(f"chunks/{identity[:2]}/{identity}{_SUFFIX}", packed)

    def finish(self, mounts: dict[str, Mount]) -> int:
        self._tar.file(index.NAME, index.to_bytes(mounts.values()))
        self._tar.finish()
        self._output.commit()
        return 0


@contextmanager
def archive(value: Any) -> Iterator[Archive]:
    """``value``: a path or a descriptor. A file appears when it is complete."""
    with Output(value) as output:
        yield Archive(output)


@contextmanager
def unpacked(store: Store, value: Any) -> Iterator[Unpacked]:
    """An archive for the block. ``value``: a path or a descriptor."""
    from fastlayer.builder.cachemounts import clear
    from fastlayer.store.collect import work_place

    with store.lease("cache import") as lease:
        place = work_place(store.root) / lease.id
        with explained("cannot write", place):
            place.mkdir(parents=True, mode=0o700)
        try:
            yield Unpacked(value, place)
        finally:
            clear(place)


class Unpacked:
    """A tar that was read: its chunks are files of a directory of ours, as the index comes last."""

    def __init__(self, value: Any, place: Path) -> None:
        self._index = bytearray()
        self._chunk = bytearray()
        self._member = ""
        self._directory = place
        stream = TarStream(value)
        self.name = stream.source.name
        try:
            stream.run(self)
        finally:
            stream.close()
        if not self._index:
            raise NotFoundError(f"{self.name}: is no archive of cache mounts: it has no {index.NAME}")
        self.mounts = index.from_bytes(bytes(self._index), f"{self.name}: {index.NAME}")

    def member(self, member: Member) -> bool:
        """Only chunks and the index are looked at."""
        limit = index.MAX_INDEX if member.name == index.NAME else MAX_PACKED
        known = member.name == index.NAME or _CHUNK.fullmatch(member.name)
        if not known or member.kind != "file" or member.size > limit or (member.name == index.NAME and self._index):
            raise LayerFormatError(f"{show_path(member.name)}: has no place in an archive of cache mounts")
        self._member = member.name
        self._chunk.clear()
        return True

    def data(self, piece: Any) -> None:
        """The next bytes of the member."""
        (self._index if self._member == index.NAME else self._chunk).extend(piece)

    def end(self) -> None:
        """The member was complete."""
        found = _CHUNK.fullmatch(self._member)
        if found is not None:
            with explained("cannot write", self._directory):
                (self._directory / found[2]).write_bytes(self._chunk)

    def expect(self, identities: Iterable[str]) -> None:
        """They are there."""

    def get(self, identity: str) -> bytes:
        """The frame of a chunk."""
        with _plain(self._directory / identity, f"{self.name}: the chunk {identity} is missing") as fd:
            return _read(fd, MAX_PACKED, self._directory)
