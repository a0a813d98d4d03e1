"""Where a path leads: every step is taken here, one at a time, so that links and ``..`` never lead out of the root.

What happens to names meanwhile - a container may be running - moves nothing: a directory that was found stays open.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from fastlayer._values import NamedTuple
from fastlayer.errors import NotFoundError, OperandError, show_path

_PASSED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40  # as the kernel's (path_resolution(7))


class Mounts(Protocol):
    """What would be mounted in the root if the container ran."""

    @property
    def targets(self) -> Sequence[bytes]:
        """Where: absolute paths without ``..``, those within others first."""

    def open(self, target: bytes) -> int:
        """A descriptor of that directory, which is the caller's."""


class Side(NamedTuple):
    """One side of a copy. ``root``: a descriptor of what ``/`` is there; ``label``: before paths in messages.

    ``layers``: descriptors of the directories that an overlay shows merged as this root, the one written to first.
    ``mounts``: of a container that does not run.
    """

    root: int
    path: bytes
    label: str
    layers: tuple[int, ...] = ()
    mounts: Mounts | None = None

    @property
    def shown(self) -> str:
        return f"{self.label}{show_path(self.path)}"

    @property
    def says_content(self) -> bool:
        """``DIR/.``: what is in it, not itself."""
        return self.path == b"." or self.path.endswith(b"/.")

    @property
    def says_directory(self) -> bool:
        return self.says_content or self.path.endswith(b"/")


class Spot(NamedTuple):
    """A name in an open directory; empty for the directory itself. ``status``: None when nothing is there.

    ``called``: the name, also that of the directory itself; empty for the root.
    """

    parent: int
    name: bytes
    status: os.stat_result | None
    called: bytes

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    def name_in(self, side: Side) -> bytes:
        """The name that a copy of it gets: as it was given, also that of a link that was followed."""
        last = side.path.rstrip(b"/").rpartition(b"/")[2]
        return self.called if last in (b"", b".", b"..") else last

    @contextmanager
    def directory(self) -> Iterator[int]:
        """A descriptor of the directory that is there."""
        with opened_directory(self.parent, self.name or b".") as fd:
            yield fd


@contextmanager
def opened_directory(parent: int, name: bytes = b".") -> Iterator[int]:
    """A descriptor that can be read of a directory, which is no link."""
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def located(side: Side, *, follow: bool) -> Iterator[Spot]:
    """Where the path of ``side`` leads. ``follow``: also when its last part is a link.

    Raises ``NotFoundError`` when a directory on the way is not there, ``OperandError`` when it is none.
    """
    walk = _Walk(side)
    try:
        yield walk.to_the_end(follow=follow or side.says_directory)
    finally:
        walk.close()


class _Walk:
    def __init__(self, side: Side) -> None:
        self._side = side
        self._rest = _parts(side.path)
        self._above = [os.open(".", _PASSED, dir_fd=side.root)]  # the way back, for ``..``
        self._names = [b""]  # of these
        self._links = 0

    def close(self) -> None:
        for fd in self._above:
            os.close(fd)

    def to_the_end(self, *, follow: bool) -> Spot:
        while self._rest:
            part = self._rest.pop(0)
            if part == b"..":
                self._leave()
                continue
            if self._enter_mount(part):
                continue
            here = self._above[-1]
            status = self._status(part)
            if status is not None and stat.S_ISLNK(status.st_mode) and (self._rest or follow):
                self._enter_link(os.readlink(part, dir_fd=here))
            elif not self._rest:
                return Spot(here, part, status, part)
            else:
                self._enter(part, status)
        return Spot(self._above[-1], b"", os.fstat(self._above[-1]), self._names[-1])

    def _enter_mount(self, part: bytes) -> bool:
        """Whether something is mounted there, or on the way that is left through directories the layer lacks."""
        if self._side.mounts is None:
            return False
        here = b"/".join([*self._names, part])
        for target in self._side.mounts.targets:
            below = _parts(target.removeprefix(here)) if (target + b"/").startswith(here + b"/") else None
            if below is None or self._rest[: len(below)] != below or (below and self._status(part) is not None):
                continue
            del self._rest[: len(below)]
            self._above += [os.dup(self._above[-1]) for _ in below]
            self._above.append(self._side.mounts.open(target))
            self._names += [part, *below]
            return True
        return False

    def _leave(self) -> None:
        if len(self._above) > 1:
            os.close(self._above.pop())
            self._names.pop()

    def _status(self, part: bytes) -> os.stat_result | None:
        try:
            return os.lstat(part, dir_fd=self._above[-1])
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise OperandError(f"{self._side.shown}: {exc.strerror}") from exc

    def _enter(self, part: bytes, status: os.stat_result | None) -> None:
        if status is None:
            raise NotFoundError(f"{self._side.shown}: there is no directory {show_path(part)} on the way to it")
        try:
            self._above.append(os.open(part, _PASSED, dir_fd=self._above[-1]))
        except NotADirectoryError:
            raise OperandError(f"{self._side.shown}: {show_path(part)} is not a directory") from None
        except OSError as exc:
            raise OperandError(f"{self._side.shown}: {show_path(part)}: {exc.strerror}") from exc
        self._names.append(part)

    def _enter_link(self, text: bytes) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise OperandError(f"{self._side.shown}: {os.strerror(errno.ELOOP)}")
        if text.startswith(b"/"):
            while len(self._above) > 1:
                self._leave()
        self._rest[:0] = _parts(text)


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
