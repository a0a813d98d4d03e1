"""Finding a context's Dockerfile and the ignore file that belongs to it."""

from __future__ import annotations

import errno
import os
import stat

from fastlayer._values import NamedTuple
from fastlayer.builder.context.beneath import open_beneath
from fastlayer.builder.dockerfile import ignore
from fastlayer.builder.dockerfile.parser import MAX_SIZE
from fastlayer.errors import DockerfileError, OperandError, StorageError, UsageError, show_path

NAMES = ("Dockerfile", "Containerfile", "dockerfile")
IGNORE_NAMES = (".dockerignore", ".containerignore")
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_STEP = 1 << 16


class DockerfileText(NamedTuple):
    """``name``: for messages; ``data``: what it says."""

    name: str
    data: bytes


class Place(NamedTuple):
    """Where a context's own files are. ``foreign``: its links do not lead out of it; ``name``: for messages."""

    fd: int
    foreign: bool
    name: str

    def open(self, path: str, *, pipes: bool) -> int:
        """``pipes``: one is opened, and waited for. Raises OSError."""
        if self.foreign:
            return open_beneath(self.fd, path)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if pipes else os.O_NONBLOCK)
        return os.open(path, flags, dir_fd=self.fd)


class Files(NamedTuple):
    """A context's Dockerfile, and the patterns of its ignore file, ``ignored_by``: its name, "" for none."""

    dockerfile: DockerfileText
    patterns: tuple[str, ...]
    ignored_by: str


def find(place: Place, wanted: str | None) -> Files:
    """``wanted``: as `-f` names it; None: the usual names.

    As docker has it, a name is relative to the current directory; one that is not there may be the context's. For
    archives and repositories it is the context's. Raises ``OperandError``, ``StorageError``, ``DockerfileError``.
    """
    if wanted is None:
        for name in NAMES:
            data = read_small(place, name)
            if data is not None:
                return Files(DockerfileText(name, data), *patterns_beside(place, name))
        raise OperandError(f"{place.name}: has no {NAMES[0]} or {NAMES[1]}: name one with -f")
    if not wanted:
        raise UsageError("-f: the name is empty: give a Dockerfile")
    cwd = place if place.foreign else Place(_here(), False, "")
    try:
        data, beside = read_small(cwd, wanted, pipes=True), cwd
        if data is None:
            data, beside = read_small(place, wanted), place
        if data is None:
            raise OperandError(f"{show_path(wanted)}: no such Dockerfile: give one with -f, `-f -` reads it from stdin")
        return Files(DockerfileText(show_path(wanted), data), *_patterns(place, beside, wanted))
    finally:
        if cwd is not place:
            os.close(cwd.fd)


def has_one(place: Place) -> bool:
    """Whether the context has a Dockerfile with a usual name."""
    return any(read_small(place, name) is not None for name in NAMES)


def _here() -> int:
    try:
        return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "open", ".") from exc


def patterns_beside(place: Place, name: str) -> tuple[tuple[str, ...], str]:
    """Those of ``NAME.dockerignore`` if there is one, else of the context's own ignore file, with that file's name."""
    return _patterns(place, place, name)


def _patterns(place: Place, beside: Place, name: str) -> tuple[tuple[str, ...], str]:
    found = read_small(beside, name + IGNORE_NAMES[0]) if name else None
    if found is not None:
        return tuple(ignore.read_patterns(found, name + IGNORE_NAMES[0])), name + IGNORE_NAMES[0]
    return ignored(place)


def ignored(place: Place) -> tuple[tuple[str, ...], str]:
    """The patterns of the context's own ignore file, and its name."""
    for own in IGNORE_NAMES:
        data = read_small(place, own)
        if data is not None:
            return tuple(ignore.read_patterns(data, own)), own
    return (), ""


def read_small(place: Place, path: str, *, pipes: bool = False) -> bytes | None:
    """A file of at most ``MAX_SIZE`` bytes; None: there is none.

    ``pipes``: the user has named it, and may mean a pipe (``-f <(...)``), which is read to its end.
    """
    try:
        fd = place.open(path, pipes=pipes)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return None
        raise StorageError(exc.errno or 0, "open", path, within=place.name) from exc
    except ValueError:
        raise UsageError(f"{show_path(path)}: a name has no NUL byte: correct it") from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode) or not (stat.S_ISREG(mode) or (pipes and not place.foreign)):
            raise OperandError(f"{show_path(path)}: is not a file: put one in its place, or name another with -f")
        return _read(fd, path)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "read", path, within=place.name) from exc
    finally:
        os.close(fd)


def _read(fd: int, path: str) -> bytes:
    data = bytearray()
    while piece := os.read(fd, _STEP):
        data += piece
        if len(data) > MAX_SIZE:
            raise DockerfileError(f"{show_path(path)}: more than {MAX_SIZE} bytes: this is something else")
    return bytes(data)
