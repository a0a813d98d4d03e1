"""A running container that holds still for a moment: while its layer is copied.

Nobody may leave it frozen. A shell waits at the other end of a pipe: when this process ends, whatever the reason, it
lets the container go on. Should both be killed, the next command that looks at the container does: while
``committing`` lies in its directory, and nobody holds its lock (flock(2)), the freeze is nobody's.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fastlayer.container import state
from fastlayer.container.containers import COMMITTING
from fastlayer.errors import RunError, StorageError

# waits for the end of its input, which is ours; then what thaws a cgroup of either hierarchy
_GUARD = 'read -r _; [ -e "$1/freezer.state" ] && echo THAWED > "$1/freezer.state" || echo 0 > "$1/cgroup.freeze"'


@contextmanager
def held_still(directory: Path, identity: str, *, demanded: bool) -> Iterator[bool]:
    """Paused for the block, unless it is already; whether it is paused now. One that does not run is left as it is.

    Where there is no freezer it runs on, unless that is ``demanded``: then ``RunError`` is raised.
    """
    if not state.state_of(directory).running:
        yield False
        return
    lock = _mark(directory)
    try:
        found = state.state_of(directory)
        if found.status != "running":
            yield found.status == "paused"
            return
        with _frozen(directory, identity, found.pid, demanded=demanded) as frozen:
            yield frozen
    finally:
        with suppress(FileNotFoundError):
            os.unlink(directory / COMMITTING)
        os.close(lock)


@contextmanager
def _frozen(directory: Path, identity: str, pid: int, *, demanded: bool) -> Iterator[bool]:
    from fastlayer.running import cgroups

    with ExitStack() as ends:
        try:
            freezer = ends.enter_context(in_freezer(directory, identity, pid))
        except RunError:
            if demanded:
                raise
            yield False
            return
        guard = _Guard(freezer)
        try:
            cgroups.set_frozen(freezer, frozen=True)
            yield True
        finally:
            with suppress(RunError):  # it has ended meanwhile, and its cgroup is gone
                cgroups.set_frozen(freezer, frozen=False)
            guard.end()


@contextmanager
def in_freezer(directory: Path, identity: str, pid: int) -> Iterator[str]:
    """The cgroup with all its processes, to be frozen in the block; one that ends meanwhile leaves none behind.

    Raises ``RunError`` where there is no freezer, and when it has been removed.
    """
    from fastlayer.running import cgroups

    found = cgroups.freezer(identity, state.cgroups_of(directory))
    try:
        state.write_json(directory / "cgroup", found.paths)  # who is killed from now on leaves none that is not known
    except FileNotFoundError as exc:
        raise RunError(f"Container {identity[:12]} is not running: it has just been removed") from exc
    try:
        cgroups.gather(found.path, pid)
        yield found.path
    finally:
        if not state.state_of(directory).running:
            cgroups.remove([found.path])


class _Guard:
    """The process that thaws a cgroup when this one is killed."""

    def __init__(self, freezer: str) -> None:
        ours, self._end = os.pipe2(os.O_CLOEXEC)
        null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)]
        words = ["sh", "-c", _GUARD, "sh", freezer]
        try:
            self._pid = os.posix_spawn(
                "/bin/sh", words, {}, file_actions=[(os.POSIX_SPAWN_DUP2, ours, 0), *null], setsid=True
            )
        except OSError as exc:
            os.close(self._end)
            raise RunError("/bin/sh, which would resume the container, cannot be run: use --no-pause") from exc
        finally:
            os.close(ours)

    def end(self) -> None:
        """Killed, not asked: a container that somebody pauses from now on stays so."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._end)


def _mark(directory: Path) -> int:
    """The lock of the mark, which is waited for: one commit after the other."""
    while True:
        try:
            fd = os.open(directory / COMMITTING, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            ours = os.fstat(fd)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "cannot pause the container", os.fspath(directory)) from exc
        if ours.st_nlink:
            return fd
        os.close(fd)  # whoever had it has taken it away


def resume_abandoned(directory: Path) -> bool:
    """Lets a container go on that was left paused by a process that was killed; whether it was."""
    from fastlayer.running import cgroups

    try:
        fd = os.open(directory / COMMITTING, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        cgroups.thaw(state.cgroups_of(directory))
        with suppress(FileNotFoundError):
            os.unlink(directory / COMMITTING)
        return True
    except (BlockingIOError, RunError):
        return False
    finally:
        os.close(fd)
