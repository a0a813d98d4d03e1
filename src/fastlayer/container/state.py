"""How a container is doing, from the files of its monitor (csrc/fl_monitor.h) in its directory.

========== =====================================================================================================
lock       held (flock(2)) as long as the monitor lives: the kernel drops it when that is killed
running    "PID MONITOR NANOSECONDS": its program has been executed
exit       "STATUS OOM NANOSECONDS": it has ended
last       ``exit`` of the life before this one
failed     JSON: it could not be started
cgroup     JSON: the cgroups it was given
committing locked as long as somebody has paused it to copy its layer (``pausing.py``)
chroot     JSON: the root of its processes, when it has no namespaces (``chrooted.py``)
========== =====================================================================================================

Who finds ``running`` without ``exit`` and can have the lock sees a container whose monitor was killed: it has ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import InUseError, StorageError

Status = Literal["created", "running", "paused", "exited"]
KILLED = 128 + 9
_NEVER = "0001-01-01T00:00:00Z"
_NOTE, _NOTE_MAX = 80, 4096  # bytes that are written, and read
_PATIENCE = 5.0  # seconds: monitors end within milliseconds of their container


def timestamp(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339; Docker's zero for never."""
    if ns <= 0:
        return _NEVER
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ns // 10**9))}.{ns % 10**9:09d}Z"


class State(NamedTuple):
    """``pid``: of its first program, 0 when it does not run. Times in nanoseconds since 1970, 0 for never."""

    status: Status
    pid: int = 0
    monitor: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    error: str = ""

    @property
    def running(self) -> bool:
        return self.status in ("running", "paused")


def state_of(directory: Path) -> State:
    """Nothing is corrected by looking; a container whose monitor was killed counts as ended by SIGKILL."""
    started = _numbers(directory / "running")
    if started is None:
        return _never_run(directory)
    pid, monitor, started_ns = started
    if (ended := _numbers(directory / "exit")) is None and is_locked(directory):
        status: Status = "paused" if is_paused(directory) else "running"
        _, _, before_ns = _numbers(directory / "last") or (0, 0, 0)
        return State(status, _program(directory, pid), monitor, started_ns=started_ns, finished_ns=before_ns)
    ended = ended or _numbers(directory / "exit")  # it may have come between the two looks
    code, oom, finished_ns = ended or (KILLED, 0, 0)
    return State("exited", 0, 0, code, bool(oom), started_ns, finished_ns)


def _program(directory: Path, pid: int) -> int:
    """What the monitor has started is an OCI runtime where there is a bundle; the program is the child of that."""
    if not (directory / "bundle").exists():
        return pid
    from fastlayer.container.ociruntime import program_of

    return program_of(pid)


def _never_run(directory: Path) -> State:
    """Not in this life: nobody has started it yet, or it could not be."""
    code, oom, finished_ns = last = _numbers(directory / "last") or (0, 0, 0)
    status: Status = "exited" if any(last) else "created"
    failed = read_json(directory / "failed")
    if isinstance(failed, dict):
        code, error = int(failed.get("status", 128)), str(failed.get("error", ""))
        return State(status, exit_code=code, finished_ns=finished_ns, error=error)
    return State(status, exit_code=code, oom_killed=bool(oom), finished_ns=finished_ns)


def is_locked(directory: Path) -> bool:
    """Whether its monitor lives, or somebody starts it."""
    try:
        fd = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def lock(directory: Path, name: str, *, patience: float = _PATIENCE) -> int:
    """The descriptor of the lock, which is the caller's now. Raises ``InUseError`` while it runs."""
    try:
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot lock the container", os.fspath(directory)) from exc
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= end or (_numbers(directory / "running") and not (directory / "exit").exists()):
                os.close(fd)
                raise InUseError(f"container {name}: is running: `fastlayer stop {name}` first") from None
            time.sleep(0.002)


def wait_for_end(directory: Path) -> State:
    """Until its monitor has ended. How it has ended is told also when it has been removed since, or started again."""
    before = state_of(directory)
    with ExitStack() as ends:
        try:
            lock = ends.enter_context(open(directory / "lock", "rb"))
            # what the monitor writes to, and then gives its name
            note = ends.enter_context(open(directory / ".exit", "rb")) if before.running else None
        except OSError:  # it has just ended, or never run
            return state_of(directory)
        fcntl.flock(lock, fcntl.LOCK_SH)
        found = state_of(directory)
        if note is None or found.status == "exited":
            return found
        code, oom, finished_ns = _numbers_in(note) or (KILLED, 0, 0)
        return State("exited", 0, 0, code, bool(oom), before.started_ns, finished_ns)


def begin(directory: Path) -> None:
    """A new life: what the last one left is removed, but for how it ended. The lock is held.

    There is room for what will be noted of it: a program must not run of which nobody knows, nor its exit status get
    lost, because the disk is full. Raises ``StorageError``.
    """
    with suppress(FileNotFoundError):
        (directory / "exit").rename(directory / "last")
    for name in ("running", "failed", "attach", "committing"):
        (directory / name).unlink(missing_ok=True)
    try:
        for name in ("exit", "running"):
            (directory / f".{name}").write_bytes(b" " * _NOTE)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot begin the container's notes", os.fspath(directory)) from exc


def note_failure(directory: Path, status: int, error: str) -> None:
    """As far as there is room for it."""
    with suppress(OSError):
        write_json(directory / "failed", {"status": status, "error": error})


def has_failed(directory: Path) -> bool:
    """Whether it could not be started the last time."""
    return (directory / "failed").exists()


def note_end(directory: Path, status: int) -> None:
    """For a monitor that was killed. The lock is held. Raises ``StorageError``."""
    place = directory / ".exit"
    try:
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(f"{status} 0 {time.time_ns()}".ljust(_NOTE - 1) + "\n")
        place.rename(directory / "exit")
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot note the end of the container", os.fspath(directory)) from exc


def is_paused(directory: Path) -> bool:
    from fastlayer.running import cgroups

    found = read_json(directory / "cgroup")
    return isinstance(found, list) and cgroups.is_frozen([str(path) for path in found])


def cgroups_of(directory: Path) -> list[str]:
    found = read_json(directory / "cgroup")
    return [str(path) for path in found] if isinstance(found, list) else []


def write_json(path: Path, value: Any) -> None:
    """At once: whoever reads finds the old text or the new one."""
    place = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(json.dumps(value))  # not dump(): that does without the C encoder
    place.rename(path)


def read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(1 << 20))
    except (OSError, ValueError):
        return None


def _numbers(path: Path) -> tuple[int, int, int] | None:
    try:
        with path.open("rb") as file:
            return _numbers_in(file)
    except OSError:
        return None


def _numbers_in(file: BinaryIO) -> tuple[int, int, int] | None:
    try:
        one, two, three = map(int, file.read(_NOTE_MAX).split())
    except (OSError, ValueError):
        return None
    return one, two, three
