"""Directories that things are copied from: build contexts, and the root file systems of stages and images.

A tree is scanned when it is first asked about: a context as a whole, any other one only where it is asked. Paths are
``bytes`` relative to its root, which is ``b""``; no link is followed, sockets are not there. A digest is about
everything that COPY keeps but times (``nodes.py``).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Self

from fastlayer.builder.context.blame import Blame
from fastlayer.builder.context.digests import Digests, racy_now
from fastlayer.builder.context.nodes import Rules
from fastlayer.builder.context.scanning import Scan
from fastlayer.builder.context.table import Entry
from fastlayer.builder.context.takeover import Known, taken_over
from fastlayer.errors import FileChangedError, OperandError, StorageError, show_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LINK = (errno.ELOOP, errno.ENOTDIR)
_LEAVE_OUT = "name it in .dockerignore"
_PRESENT = 1 << 12  # tables of parts of a tree that are kept


class Tree:
    """What both kinds have in common; a context manager that closes ``fd`` when it was opened here."""

    def __init__(self, fd: int, blame: Blame, rules: Rules, jobs: int | None) -> None:
        self.fd = fd
        self.rules = rules
        self._blame = blame
        self._jobs = jobs
        self._owned = False
        self._lock = threading.RLock()  # several stages copy from one context

    def _part(self, path: bytes) -> Digests:
        """Something that has this path, when there is one, and all below it."""
        raise NotImplementedError

    def _again(self) -> None:
        """What was scanned is no longer so."""
        raise NotImplementedError

    def find(self, path: bytes) -> Entry | None:
        """The entry of a path; None: there is none."""
        table = self._part(path).table
        row = table.find(path)
        return self._shown(table.entry(row)) if row >= 0 else None

    def names(self, path: bytes) -> list[bytes]:
        """Names of the children of a directory, sorted; none for anything else."""
        start = len(path) + 1 if path else 0
        return [found[start:] for _, found in self._part(path).table.children(path)]

    def below(self, path: bytes) -> Iterator[Entry]:
        """Everything below a directory, in the order of paths; not itself."""
        table = self._part(path).table
        for row in range(*table.below(path)):
            yield self._shown(table.entry(row))

    def digest(self, path: bytes) -> bytes:
        """32 bytes for the entry, without its name, and all below it.

        Raises ``OperandError`` when there is none, ``FileChangedError`` for a file that changes meanwhile,
        ``StorageError`` for one that cannot be read.
        """
        return self.digests([path])[0]

    def digests(self, paths: Sequence[bytes]) -> list[bytes]:
        """``digest`` of each; cheaper than one by one."""
        return [part.digest(row) for part, row in self.filled(paths)]

    def filled(self, paths: Sequence[bytes]) -> list[tuple[Digests, int]]:
        """Where each path is, its key and all below it known."""
        with self._lock:
            try:
                return self._fill(paths)
            except FileChangedError:  # somebody saved a file just now: look once more
                self._again()
                return self._fill_again(paths)

    def _fill_again(self, paths: Sequence[bytes]) -> list[tuple[Digests, int]]:
        try:
            return self._fill(paths)
        except OperandError:  # they were there when the paths were chosen
            gone = next((path for path in paths if self._part(path).table.find(path) < 0), paths[0])
            raise self._blame.gone(gone) from None

    def _fill(self, paths: Sequence[bytes]) -> list[tuple[Digests, int]]:
        places = []
        for path in paths:
            part = self._part(path)
            row = part.table.find(path)
            if row < 0:
                raise OperandError(f"{show_path(path)}: is not in {self._blame.name}: name something that is")
            places.append((part, row))
        for part in {id(part): part for part, _ in places}.values():
            part.fill([row for found, row in places if found is part], self._jobs)
        return places

    def _shown(self, entry: Entry) -> Entry:
        return entry if self.rules.owners else entry._replace(uid=0, gid=0)

    def save(self) -> None:
        """Remembers what was learnt, where that is possible."""

    def close(self) -> None:
        self.save()
        if self._owned:
            self._owned = False
            os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        self.close()


class ContextTree(Tree):
    """A build context. Everything belongs to root in it, whoever owns the files (as BuildKit sends them).

    ``patterns``: of .dockerignore; ``memory``: the directory in which keys are remembered from build to build
    (``remembered.py``); None: nowhere.
    """

    def __init__(
        self,
        fd: int,
        patterns: Sequence[str] = (),
        *,
        name: str = "the build context",
        git: bool = False,
        memory: str | None = None,
        jobs: int | None = None,
    ) -> None:
        super().__init__(fd, Blame(name, _LEAVE_OUT), Rules(owners=False, git=git), jobs)
        self.patterns = tuple(patterns)
        self.sockets = 0
        self._memory = memory
        self._remembered = ""
        self._scanned: Digests | None = None

    @property
    def is_scanned(self) -> bool:
        """Whether anything was asked about it."""
        return self._scanned is not None

    @property
    def digested(self) -> Digests:
        """The scanned tree."""
        with self._lock:
            if self._scanned is None:
                self._scanned = self._scan(self._load())
            return self._scanned

    def _load(self) -> Known | None:
        if self._memory is None:
            return None
        from fastlayer.builder.context import remembered

        status = os.fstat(self.fd)
        self._remembered = remembered.name_of(
            _place(self.fd), status.st_dev, status.st_ino, self.patterns, tuple(self.rules)
        )
        return remembered.load(self._memory, self._remembered)

    def _scan(self, old: Known | None) -> Digests:
        racy_ns = racy_now()
        scan = Scan(self.fd, self._blame, self.patterns)
        table = scan.table(old.table if old is not None else None)
        self.sockets = scan.sockets
        if old is None:
            return Digests(self.fd, table, self.rules, self._blame, racy_ns)
        kinds, keys = taken_over(old, table)
        old.table.relax()
        table.relax()
        return Digests(self.fd, table, self.rules, self._blame, racy_ns, kinds, keys)

    def _part(self, path: bytes) -> Digests:
        return self.digested

    def _again(self) -> None:
        now = self.digested
        self._scanned = self._scan(Known(now.table, now.lasting(), now.keys, 0))

    def save(self) -> None:
        """Only when keys were computed: the next build then has them."""
        found = self._scanned
        if found is None or self._memory is None or not found.fresh:
            return
        from fastlayer.builder.context import remembered

        remembered.save(self._memory, self._remembered, found)
        found.fresh = 0


class DirectoryTree(Tree):
    """Any directory: a mounted stage or image. Owners are as they are."""

    def __init__(
        self, fd: int, *, name: str = "the stage", owners: bool = True, git: bool = False, jobs: int | None = None
    ) -> None:
        super().__init__(fd, Blame(name), Rules(owners=owners, git=git), jobs)
        self._parts: dict[bytes, Digests] = {}
        self._single: dict[bytes, Entry | None] = {}

    def find(self, path: bytes) -> Entry | None:
        """Looks at nothing but this path."""
        if path not in self._single:
            if len(self._single) >= _PRESENT:
                self._single.clear()
            table = Scan(self.fd, self._blame, only=_keys(path)).table()
            row = table.find(path)
            self._single[path] = self._shown(table.entry(row)) if row >= 0 else None
        return self._single[path]

    def names(self, path: bytes) -> list[bytes]:
        """Reads that one directory."""
        for known in (b"", path):
            if known in self._parts:
                return super().names(path)
        found = _listed(self.fd, path)
        if not found:
            return []
        prefix = path + b"/" if path else b""
        keys = [b"", *sorted(prefix + name for name in found)]
        table = Scan(self.fd, self._blame, only=keys).table()
        return [entry[len(prefix) :] for _, entry in table.paths(1, table.count)]

    def _part(self, path: bytes) -> Digests:
        with self._lock:
            for known in (b"", path):
                if known in self._parts:
                    return self._parts[known]
            if len(self._parts) >= _PRESENT:
                self._parts.clear()
            racy_ns = racy_now()
            keys = _keys(path)
            only = None if not path else [*keys, path + b"/"] if len(keys) > 1 else keys
            table = Scan(self.fd, self._blame, only=only).table()
            self._parts[path] = Digests(self.fd, table, self.rules, self._blame, racy_ns)
            return self._parts[path]

    def _again(self) -> None:
        self._parts.clear()
        self._single.clear()


def open_tree(path: str | bytes | os.PathLike[str], *, owners: bool = True, jobs: int | None = None) -> DirectoryTree:
    """A directory by path. Raises ``OperandError``."""
    tree = DirectoryTree(open_directory(path), name=show_path(os.fsencode(path)), owners=owners, jobs=jobs)
    tree._owned = True
    return tree


def open_directory(path: str | bytes | os.PathLike[str]) -> int:
    """A descriptor. Raises ``OperandError``."""
    try:
        return os.open(path, _DIRECTORY)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise OperandError(f"{show_path(os.fsencode(path))}: {reason}: give a directory that can be read") from exc


def _keys(path: bytes) -> list[bytes]:
    """For a scanner: the root, and this path when it can be one."""
    parts = path.split(b"/")
    plain = b"\0" not in path and not {b"", b".", b".."} & set(parts)
    return [b"", path] if path and plain else [b""]


def _place(fd: int) -> str:
    """The directory's name: two builds in one place share what is remembered."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _listed(root: int, path: bytes) -> list[bytes]:
    """The names in a directory beneath the root, no link followed; none when it is no directory."""
    fd = os.open(".", _DIRECTORY, dir_fd=root)
    try:
        for part in filter(None, path.split(b"/")):
            below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        return [os.fsencode(name) for name in os.listdir(fd)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        if exc.errno in _LINK:
            return []
        raise StorageError(exc.errno or 0, "list", path) from exc
    finally:
        os.close(fd)
