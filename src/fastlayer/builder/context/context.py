"""A build's context: opened from what the command names, with its Dockerfile and the patterns it leaves out."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from fastlayer._checked import text
from fastlayer.builder.context import dockerfiles
from fastlayer.builder.context.dockerfiles import DockerfileText, Files, Place
from fastlayer.builder.context.sources import Source, parse_source
from fastlayer.builder.context.tree import ContextTree, open_directory
from fastlayer.builder.dockerfile.parser import MAX_SIZE
from fastlayer.errors import DockerfileError, LayerFormatError, OperandError, StorageError, UsageError, show_path

if TYPE_CHECKING:
    from fastlayer.layer.decompress import Lookahead

STDIN = "-"
_BLOCK = 512  # bytes of a tar header
_MEMORY = ("cache", "contexts")


class Context:
    """An open context; a context manager. What was fetched or unpacked for it goes when it is closed.

    ``dockerfile``: its name and text; None for a named context. ``patterns`` of the ignore file ``ignored_by``;
    ``name``: for messages; ``commit``: of a repository; ``fd``: the directory. ``tree`` is scanned when it is first
    asked about something.
    """

    def __init__(self, name: str, fd: int, files: Files | None, patterns: tuple[str, ...], ignored_by: str) -> None:
        self.name = name
        self.fd = fd
        self.dockerfile: DockerfileText | None = files.dockerfile if files is not None else None
        self.patterns = patterns
        self.ignored_by = ignored_by
        self.commit = ""
        self.tree: ContextTree
        self._closing = ExitStack()

    def close(self) -> None:
        self._closing.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def open_context(
    spec: str | os.PathLike[str] | Source,
    *,
    dockerfile: str | None = None,
    named: bool = False,
    optional: bool = False,
    store: str | os.PathLike[str] | None = None,
    stdin: Any = None,
    git: bool = False,
    subdir: str = "",
    jobs: int | None = None,
) -> Context:
    """Opens a context (``sources.parse_source``).

    ``dockerfile``: as `-f` names it, ``-`` for standard input; ``named``: there is none
    (``--build-context``); ``optional``: there need not be one.
    ``store``: the root of an open store: what is known of the context is remembered there. ``stdin``: a binary file,
    else the process' own. ``git``: git's modes count (``--cache-mode=git``). ``subdir``: a directory of the context
    that is the context (``--context-sub-path``).

    Raises ``UsageError``, ``OperandError``, ``StorageError``, ``LayerError`` (of an archive), ``DockerfileError``.
    """
    source = (
        spec
        if isinstance(spec, Source)
        else parse_source(text("context", os.fspath(spec) if isinstance(spec, os.PathLike) else spec))
    )
    opener = _Opener(source, dockerfile, named=named, optional=optional, store=store, stdin=stdin)
    with opener.stack as stack:
        place = opener.inside(opener.place(), subdir)
        context = opener.context(place)
        memory = os.path.join(os.fspath(store), *_MEMORY) if store is not None and not place.foreign else None
        context.tree = ContextTree(
            place.fd, context.patterns, name=f"context {context.name}", git=git, memory=memory, jobs=jobs
        )
        stack.callback(context.tree.close)
        context._closing = stack.pop_all()
    return context


class _Opener:
    def __init__(
        self, source: Source, dockerfile: str | None, *, named: bool, optional: bool, store: Any, stdin: Any
    ) -> None:
        self.stack = ExitStack()
        self._source = source
        self._wanted = dockerfile
        self._named = named
        self._optional = optional
        self._store = store
        self._stdin = stdin
        self._text: bytes | None = None  # of a Dockerfile that came instead of an archive
        self._commit = ""

    def place(self) -> Place:
        """The directory, made if need be."""
        kind, name = self._source.kind, self._source.place
        if kind == "directory":
            return Place(self._kept(_directory(name)), False, show_path(name))
        if kind == "git":
            return self._repository()
        if kind == "http":
            return self._fetched(name)
        if kind == "tar":
            return self._archive(name)
        if kind == "stdin":
            if self._wanted == STDIN:
                raise UsageError("context and Dockerfile cannot both come from stdin: give one of them by its name")
            return self._unpacked(self._input(), "stdin")
        raise UsageError(f"{show_path(name)}: is no directory, archive or repository: it cannot be the context")

    def inside(self, place: Place, subdir: str) -> Place:
        """A directory of it, which is the context."""
        for path in (self._source.git.subdir if self._source.git is not None else "", subdir):
            if path:
                place = Place(self._kept(_below(place, path)), place.foreign, place.name)
        return place

    def context(self, place: Place) -> Context:
        files = self._files(place)
        patterns, by = (files.patterns, files.ignored_by) if files is not None else dockerfiles.ignored(place)
        context = Context(place.name, place.fd, files, patterns, by)
        context.commit = self._commit
        return context

    def _files(self, place: Place) -> Files | None:
        if self._text is not None:
            return Files(DockerfileText("Dockerfile", self._text), (), "")
        if self._wanted == STDIN:
            data = _all_of(self._input())
            return Files(DockerfileText("-", data), *dockerfiles.ignored(place))
        if self._named or (self._optional and self._wanted is None and not dockerfiles.has_one(place)):
            return None
        return dockerfiles.find(place, self._wanted)

    def _kept(self, fd: int) -> int:
        self.stack.callback(os.close, fd)
        return fd

    def _scratch(self) -> tuple[str, int]:
        from fastlayer.builder.context.scratch import Scratch

        found = self.stack.enter_context(Scratch(self._store))
        return found.path, found.fd

    def _input(self) -> Any:
        if self._stdin is not None:
            return self._stdin
        import sys

        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("stdin is a terminal: pipe an archive or a Dockerfile into it")
        return sys.stdin.buffer

    def _repository(self) -> Place:
        from fastlayer.builder.context.fetch import without_password
        from fastlayer.builder.context.git import checkout

        assert self._source.git is not None
        path, fd = self._scratch()
        self._commit = checkout(self._source.git, path)
        return Place(fd, True, without_password(self._source.place))

    def _fetched(self, url: str) -> Place:
        import tempfile

        from fastlayer.builder.context.fetch import fetch, without_password

        with tempfile.TemporaryFile(prefix="fastlayer-", dir=self._scratch()[0], buffering=0) as file:
            fetch(url, file.write)
            file.seek(0)
            return self._unpacked(file, without_password(url))

    def _archive(self, path: str) -> Place:
        from fastlayer.layer.reading import open_quietly

        try:
            fd = open_quietly(path)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "open", path) from exc
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OperandError(f"{show_path(path)}: is a directory: leave out tar://")
        with open(fd, "rb", buffering=0) as file:
            return self._unpacked(file, show_path(path), text=False)

    def _unpacked(self, file: Any, name: str, *, text: bool = True) -> Place:
        """An archive, or a Dockerfile's text alone, which has an empty context."""
        from fastlayer.layer.apply import apply
        from fastlayer.layer.decompress import Lookahead

        look = Lookahead(file)
        _, fd = self._scratch()
        if _is_archive(look, name):
            look.name = name
            apply(cast(Any, look), fd, ignore_chown=True, skip_devices=True)
        elif text and not self._named:
            self._text = _all_of(look)
            if not self._text.strip():
                raise OperandError(f"{name}: is empty: give an archive or a Dockerfile")
        else:
            raise OperandError(
                f"{name}: is neither a directory nor an archive: give its directory, or name a Dockerfile with -f"
            )
        return Place(fd, True, name)


def _is_archive(look: Lookahead, name: str) -> bool:
    """Whether a tar comes, compressed or not. Raises ``LayerFormatError`` for a compression that is not supported."""
    try:
        if look.detect() != "none":
            return True
    except LayerFormatError as exc:
        raise LayerFormatError(f"{name}: {exc}") from exc
    head = bytes(look.peek(_BLOCK))
    if len(head) < _BLOCK:
        return False
    if not any(head):  # an empty archive
        return True
    try:
        wanted = int(head[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return wanted == sum(head) - sum(head[148:156]) + 8 * ord(" ")


def _all_of(file: Any) -> bytes:
    data = bytearray(MAX_SIZE + 1)
    done = 0
    with memoryview(data) as view:
        while done < len(view) and (count := _read_into(file, view[done:])):
            done += count
    if done > MAX_SIZE:
        raise DockerfileError(f"the Dockerfile on stdin has more than {MAX_SIZE} bytes: this is something else")
    return bytes(data[:done])


def _read_into(file: Any, view: memoryview) -> int:
    try:
        return int(file.readinto(view) or 0)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "read", "stdin") from exc


def _directory(path: str) -> int:
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OperandError(f"{show_path(path)}: is not a directory: give a directory, or an archive with tar://")
    return open_directory(path)


def _below(place: Place, path: str) -> int:
    from fastlayer.builder.context.beneath import open_beneath

    try:
        return open_beneath(place.fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise OperandError(f"{place.name}: {show_path(path)}: {exc.strerror}: name a directory in it") from exc
