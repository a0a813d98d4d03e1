"""Where files come from, and how paths with symbolic links are resolved inside a root.

Paths are bytes relative to the root, without a slash in front; ``b""`` is the root itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fastlayer._values import NamedTuple
from fastlayer.errors import DockerfileError, show_path

Xattrs = tuple[tuple[bytes, bytes], ...]
MAX_LINKS = 255  # that are followed for one path (continuity fs.RootPath)
MAX_STEPS = 16_384  # components that are looked at for it, those in links included


class Entry(Protocol):
    """One path of a tree. ``mode`` with its type; ``size`` in bytes; ``rdev`` major and minor; ``link`` the target of
    a symbolic link; ``xattrs`` sorted by name."""

    @property
    def path(self) -> bytes: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def rdev(self) -> tuple[int, int]: ...
    @property
    def link(self) -> bytes: ...
    @property
    def xattrs(self) -> Xattrs: ...
    @property
    def dev(self) -> int: ...
    @property
    def ino(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...


class Found(NamedTuple):
    """An ``Entry`` as a plain value."""

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    rdev: tuple[int, int] = (0, 0)
    link: bytes = b""
    xattrs: Xattrs = ()
    dev: int = 0
    ino: int = 0
    nlink: int = 1
    ctime_ns: int = 0


class Tree(Protocol):
    """A directory that things are copied from (``context/tree.py``). No method follows a link.

    ``digests``: of an entry and all below it: names, modes, owners, links, extended attributes, contents; no times.
    """

    @property
    def fd(self) -> int: ...
    def find(self, path: bytes, /) -> Entry | None: ...
    def names(self, path: bytes, /) -> Sequence[bytes]:
        """Of what is in a directory, sorted; nothing for what is none."""
        ...

    def below(self, path: bytes, /) -> Iterator[Entry]:
        """All below a directory, each directory before what is in it."""
        ...

    def digest(self, path: bytes, /) -> bytes: ...
    def digests(self, paths: Sequence[bytes], /) -> Sequence[bytes]: ...


def join(directory: bytes, name: bytes) -> bytes:
    """``name`` below ``directory``, either of which may be empty."""
    return directory + b"/" + name if directory and name else directory or name


def parent(path: bytes) -> bytes:
    """The directory a path is in; the root is in itself."""
    return path.rpartition(b"/")[0]


def clean(path: bytes) -> bytes:
    """Without ``.``, ``..`` and needless slashes, by the text alone; ``..`` stops at the root."""
    kept: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            kept = kept[:-1]
        elif part not in (b"", b"."):
            kept.append(part)
    return b"/".join(kept)


def resolve(path: bytes, link_of: Callable[[bytes], bytes | None]) -> bytes:
    """The path free of links, as a process whose root this is would find it; what is missing stays as it is.

    ``link_of``: the target of a symbolic link, None for anything else. Raises ``DockerfileError`` for a loop.
    """
    waiting = path.split(b"/")[::-1]
    at: list[bytes] = []
    links = steps = 0
    while waiting:
        steps += 1
        name = waiting.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            at = at[:-1]
            continue
        target = link_of(b"/".join((*at, name)))
        if target is None:
            at.append(name)
            continue
        links += 1
        if links > MAX_LINKS or steps > MAX_STEPS:
            raise DockerfileError(f"/{show_path(path)}: too many symbolic links, one may lead to itself")
        if target.startswith(b"/"):
            at = []
        waiting += target.split(b"/")[::-1]
    return b"/".join(at)


def link_of(tree: Tree) -> Callable[[bytes], bytes | None]:
    """What ``resolve`` asks, of a tree."""

    def target(path: bytes) -> bytes | None:
        found = tree.find(path)
        return found.link or None if found is not None else None

    return target


def encode(text: str) -> bytes:
    """The bytes of a name in a Dockerfile, those that are not UTF-8 included."""
    return text.encode("utf-8", "surrogateescape")


def decode(path: bytes) -> str:
    """What ``encode`` takes back; what patterns are matched with."""
    return path.decode("utf-8", "surrogateescape")
