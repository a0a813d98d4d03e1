"""ADD of archives: a tar, plain or compressed with gzip, bzip2, xz or zstd, is extracted into the target.

What is one is told by its content: a file whose first tar entry can be read. Anything else is copied as a file; an
archive that turns out to be damaged later is an error. Owners and modes are those of the archive; ``--chown`` changes
the owners, ``--chmod`` and ``--exclude`` mean nothing here (BuildKit: solver/llbsolver/file/unpack).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from fastlayer import _backend
from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.sources import Pick, Selection
from fastlayer.builder.copying.trees import Entry, Found, Tree, clean
from fastlayer.errors import DockerfileError, FastlayerError, StorageError, show_path
from fastlayer.layer.limits import DEFAULT_LIMITS, Limits

_FIRST = 64 << 10  # bytes of a tar that are expanded at once
_MOST = 4 << 20  # bytes of headers before the first entry


def is_archive(tree: Tree, entry: Entry) -> bool:
    """Whether ADD extracts it. Reads no more than its beginning."""
    if not stat.S_ISREG(entry.mode) or not entry.size:
        return False
    fd = _open(tree, entry.path)
    try:
        return _has_entry(fd)
    finally:
        os.close(fd)


def _has_entry(fd: int) -> bool:
    from fastlayer.layer.decompress import Lookahead, open_reader

    scanner = _backend.engine().tarread.TarScanner()
    buffer = memoryview(bytearray(_FIRST))
    try:
        _, reader = open_reader(Lookahead(_Named(fd, "")))
        while scanner.offset < _MOST and (count := reader.readinto(buffer)):
            if scanner.feed(buffer[:count]):
                return True
            if scanner.ended:
                return False
    except (FastlayerError, EOFError, OSError):
        return False
    return False


class Extracted(Folder):
    """What an archive was extracted to. ``told``: uid, gid and permissions by path, where they could not be set."""

    def __init__(self, fd: int, explicit: frozenset[bytes], told: dict[bytes, tuple[int, int, int]]) -> None:
        super().__init__(fd, explicit=explicit)
        self._told = told

    def find(self, path: bytes) -> Found | None:
        found = super().find(path)
        return found if found is None else self._corrected(found)

    def below(self, path: bytes) -> Iterator[Found]:
        return map(self._corrected, super().below(path))

    def _corrected(self, entry: Found) -> Found:
        told = self._told.get(entry.path)
        if told is None:
            return entry._replace(uid=0, gid=0) if self._told else entry
        mode = entry.mode if stat.S_ISLNK(entry.mode) else stat.S_IFMT(entry.mode) | told[2]  # of a link there is none
        return entry._replace(uid=told[0], gid=told[1], mode=mode)


def extract(tree: Tree, pick: Pick, directory: int, *, name: str, limits: Limits = DEFAULT_LIMITS) -> Selection:
    """Extracts an archive into the empty directory of a descriptor; the selection is all of it.

    ``name``: for messages. It is read safely: nothing outside the directory is touched, links in it lead nowhere.
    Owners that may not be set are those of the archive all the same. Raises ``LayerError`` for damage and limits,
    ``StorageError``.
    """
    from fastlayer.layer.apply import apply
    from fastlayer.store.store import may_make_devices, may_own_all

    owns = may_own_all()
    fd = _open(tree, pick.path)
    try:
        apply(_Named(fd, name), directory, limits=limits, ignore_chown=not owns, skip_devices=not may_make_devices())
        os.lseek(fd, 0, os.SEEK_SET)
        contents = _Contents(told=not owns)
        contents.read(fd)
    finally:
        os.close(fd)
    folder = Extracted(directory, frozenset(contents.directories), contents.told)
    top = folder.find(b"")
    assert top is not None
    return Selection(folder, (Pick(b"", b"", top),))


class _Contents:
    """What is only in the archive: which directories have entries of their own, and owners."""

    def __init__(self, *, told: bool) -> None:
        self.directories: set[bytes] = set()
        self.told: dict[bytes, tuple[int, int, int]] = {}
        self._tells = told
        self._scanner = _backend.engine().tarread.TarScanner()

    def read(self, fd: int) -> None:
        from fastlayer.layer.expand import Expansion
        from fastlayer.layer.source import Source

        with Source(fd) as source:
            Expansion(source, jobs=1, hashed=False).run(self._feed)

    def _feed(self, data: Any) -> None:
        for event in self._scanner.feed(data):
            if event[0] != "entry":
                continue
            item = event[1]
            path = clean(item.path)
            if item.type == "5":
                self.directories.add(path)
            if self._tells:
                self.told[path] = (item.uid, item.gid, item.mode)


class _Named:
    """A descriptor that ``apply`` reads, with a name for its messages."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    def fileno(self) -> int:
        return self._fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def readinto(self, buffer: Any, /) -> int:
        return os.readv(self._fd, [buffer])


def _open(tree: Tree, path: bytes) -> int:
    """A file of a tree, no link followed on the way."""
    at = os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fd)
    *above, name = path.split(b"/")
    try:
        for part in above:
            inside = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            at, before = inside, at
            os.close(before)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "open", path) from exc
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DockerfileError(f"/{show_path(path)}: is no longer a file: try again")
    return fd
