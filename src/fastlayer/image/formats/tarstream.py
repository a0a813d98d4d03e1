"""An archive of images as it goes by: the members of a tar, plain or compressed, from a file or a pipe.

Nothing is ever written by the name a member has, so a name can do no harm; odd ones are refused all the same. Memory
does not depend on what the archive claims: the engine's tar reader is bounded, and bodies pass by in pieces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.errors import LayerError, LayerFormatError, LimitError, StorageError, UnsafeEntryError, show_path
from fastlayer.layer.compression import MAGIC_LENGTH, detect
from fastlayer.layer.expand import Expansion
from fastlayer.layer.limits import MAX_RATIO
from fastlayer.layer.pipeline import STEP, default_jobs
from fastlayer.layer.source import Source

MAX_MEMBERS = 100_000
MAX_NAMES = 8 << 20  # bytes of all names and link targets together
MAX_NAME = 4096  # bytes
_WORTH_SKIPPING = 4 * STEP  # bytes of a body that nobody wants
_BLOCK = 512


class Member(NamedTuple):
    """A file or link of the archive. ``name`` has neither ``./`` nor double slashes; ``link`` is as in the archive.

    ``kind``: ``file``, ``symlink`` or ``hardlink``. ``size``: bytes. ``offset``: of its body in a plain archive file.
    """

    name: str
    kind: str
    size: int
    link: str
    offset: int | None


class Visitor(Protocol):
    """Is told what goes by, in the order of the archive."""

    def member(self, member: Member) -> bool:
        """A member begins. False: its body is not wanted, and may be skipped after its first piece."""
        ...

    def data(self, piece: Any) -> None:
        """The next piece of the body of the latest file; only valid during the call."""
        ...

    def end(self) -> None:
        """The body of the latest file was complete (or skipped)."""
        ...


class TarStream:
    """One reading of an archive. ``value``: a path, a descriptor or a binary file object."""

    def __init__(self, value: Any, *, max_ratio: int = MAX_RATIO) -> None:
        self.source = Source(value)
        self._max_ratio = max_ratio
        self._count = 0
        self._names = 0  # bytes
        self._body = False  # inside a file
        self._next: int | None = None  # where the next header is, if the rest of this body may be skipped

    def run(self, visitor: Visitor) -> None:
        """Reads it to its end. Raises ``LayerFormatError``, ``UnsafeEntryError``, ``LimitError``, ``StorageError``."""
        try:
            start = self._plain_file()
            if start is None:
                self._run_stream(visitor)
            else:
                self._run_file(visitor, start)
        except LayerError as exc:
            raise type(exc)(f"{self.source.name}: {exc}") from exc

    def close(self) -> None:
        self.source.close()

    def _plain_file(self) -> int | None:
        """The position a plain archive file is read from; None for pipes and compressed ones."""
        fd = self.source.fileno()
        if self.source.size is None or fd < 0:
            return None
        with _reading(self.source.name):
            start = os.lseek(fd, 0, os.SEEK_CUR)
            return start if detect(os.pread(fd, MAGIC_LENGTH, start)) == "none" else None

    # ---- a stream ----

    def _run_stream(self, visitor: Visitor) -> None:
        scanner = _backend.engine().tarread.TarScanner()
        expansion = Expansion(self.source, jobs=default_jobs(None), max_ratio=self._max_ratio, hashed=False)
        expansion.run(lambda data: self._events(scanner.feed(data), data, visitor, None))
        scanner.finish()

    # ---- a plain file, where unwanted bodies are not even read ----

    def _run_file(self, visitor: Visitor, position: int) -> None:
        fd = self.source.fileno()
        buffer = memoryview(bytearray(STEP))
        base = position
        scanner = _backend.engine().tarread.TarScanner()
        while True:
            with _reading(self.source.name):
                count = os.preadv(fd, [buffer], position)
            if not count:
                break
            position += count
            self._events(scanner.feed(buffer[:count]), buffer, visitor, base)
            if self._next is not None and self._next - position > _WORTH_SKIPPING:
                base = position = self._next
                scanner = _backend.engine().tarread.TarScanner()  # between entries a reader knows nothing
                self._finish(visitor)
        scanner.finish()

    # ---- events ----

    def _events(self, events: list[tuple[Any, ...]], data: Any, visitor: Visitor, base: int | None) -> None:
        for event in events:
            if event[0] == "data":
                if self._body:
                    visitor.data(data[event[1] : event[2]])
            elif event[0] == "end":
                self._finish(visitor)
            else:
                self._entry(event[1], visitor, base)

    def _finish(self, visitor: Visitor) -> None:
        self._next = None
        if self._body:
            self._body = False
            visitor.end()

    def _entry(self, item: Any, visitor: Visitor, base: int | None) -> None:
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise LimitError(f"more than {MAX_MEMBERS} members, which no image has: do not use this archive")
        self._names += len(item.path) + len(item.link)
        if self._names > MAX_NAMES:
            raise LimitError(f"more than {MAX_NAMES >> 20} MiB of names and link targets: do not use this archive")
        name = member_name(item.path)
        if item.type == "5":
            return
        if item.type in "346":
            raise UnsafeEntryError(f"{show_path(item.path)}: a device or FIFO has no place in an image archive")
        if item.sparse:
            raise LayerFormatError(f"{show_path(item.path)}: a sparse member: make the archive without sparse files")
        kind = {"0": "file", "1": "hardlink", "2": "symlink"}[item.type]
        offset = None if base is None else base + item.data_offset
        if offset is not None and offset + item.size > (self.source.size or 0):
            raise LayerFormatError(f"the archive is cut inside {show_path(item.path)}")
        self._body = kind == "file"
        wanted = visitor.member(Member(name, kind, item.size, os.fsdecode(item.link), offset))
        if self._body and not wanted and offset is not None:
            self._next = offset + -(-item.size // _BLOCK) * _BLOCK


def member_name(path: bytes) -> str:
    """The name without ``./`` and double slashes. Raises ``UnsafeEntryError`` for one that leads out of the archive."""
    if len(path) > MAX_NAME:
        raise LimitError(f"a member's name of {len(path)} bytes; the limit is {MAX_NAME}")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.startswith(b"/") or b".." in parts:
        raise UnsafeEntryError(f"{show_path(path)}: a name that leads out of the archive: do not use it")
    return os.fsdecode(b"/".join(parts))


def link_target(member: Member) -> str:
    """The member that a link stands for. Raises ``UnsafeEntryError`` for one that leads out of the archive."""
    parts = member.name.split("/")[:-1] if member.kind == "symlink" else []
    for part in member.link.split("/"):
        if part == ".." and not parts:
            break
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    else:
        if not member.link.startswith("/"):
            return "/".join(parts)
    raise UnsafeEntryError(f"{show_path(member.name)}: a link out of the archive: do not use it")


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StorageError(exc.errno or 0, "read", name) from exc
