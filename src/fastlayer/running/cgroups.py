"""Control groups of a container (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst): limits, pausing.

A container has its own below ``fastlayer`` of each hierarchy that is needed, and none where nothing is asked for. What
the machine does not offer - no right to write, no such controller - is told as a warning, as Docker does.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError

_PARENT = "fastlayer"
_PERIOD = 100_000  # microseconds
_PATIENCE = 1.0  # seconds
_FROZEN = {"freezer.state": b"FROZEN", "cgroup.freeze": b"1"}
_WORDS = {"memory": "memory", "cpu": "CPU", "pids": "pids", "cpuset": "cpuset", "freezer": "freezer"}


class Limits(NamedTuple):
    """0, or empty: none. Sizes in bytes; ``swap``: memory and swap together, -1 for any; ``cpus``: of a second.

    ``quota``, ``period``: the same as microseconds.
    """

    memory: int = 0
    swap: int = 0
    cpus: float = 0.0
    shares: int = 0
    cpuset: str = ""
    pids: int = 0
    period: int = 0
    quota: int = 0
    mems: str = ""
    reservation: int = 0


class Made(NamedTuple):
    """``paths``: the directories; ``procs``: their ``cgroup.procs``, open; ``oom``: tells of killed ones, or -1."""

    paths: tuple[str, ...] = ()
    procs: tuple[int, ...] = ()
    oom: int = -1
    warnings: tuple[str, ...] = ()

    def close(self) -> None:
        for fd in (*self.procs, self.oom):
            if fd >= 0:
                os.close(fd)


def make(name: str, limits: Limits, note: Callable[[list[str]], None]) -> Made:
    """The cgroups of a container with these limits.

    ``note``: called with their paths before there is one: who is killed meanwhile leaves none that nobody knows of.
    """
    if not any(limits):
        return Made()
    settings = _settings(limits)
    places = _places({controller for controller, *_ in settings})
    if places:
        note([_path(place, name) for _, (place, _) in places])
    found = Made()
    try:
        for controllers, place in places:
            found = _made(found, place, name, [row for row in settings if row[0] in controllers])
    except BaseException:
        found.close()
        remove(found.paths)
        raise
    missing = {controller for controller, *_ in settings} - _offered()
    for controller in sorted(missing):
        found = found._replace(warnings=(*found.warnings, _discarded(controller)))
    return found


def _discarded(controller: str) -> str:
    return (
        f"Your kernel does not support {_WORDS[controller]} limits or the cgroup is not mounted, or you may not write "
        "it. Limitation discarded."
    )


_Setting = tuple[str, bool, str, str]  # controller, unified hierarchy, file, text


def _settings(limits: Limits) -> list[_Setting]:
    found: list[_Setting] = []
    if limits.memory:
        swap = limits.swap - limits.memory if limits.swap > 0 else -1
        found += [
            ("memory", False, "memory.limit_in_bytes", str(limits.memory)),
            ("memory", False, "memory.memsw.limit_in_bytes", str(limits.swap or -1)),
            ("memory", True, "memory.max", str(limits.memory)),
            ("memory", True, "memory.swap.max", str(swap) if swap >= 0 else "max"),
        ]
    if limits.reservation:
        text = str(limits.reservation)
        found += [("memory", False, "memory.soft_limit_in_bytes", text), ("memory", True, "memory.low", text)]
    if limits.cpus or limits.period or limits.quota:
        period = limits.period or _PERIOD
        quota = max(1000, round(limits.cpus * period)) if limits.cpus else limits.quota or -1
        found += [
            ("cpu", False, "cpu.cfs_period_us", str(period)),
            ("cpu", False, "cpu.cfs_quota_us", str(quota)),
            ("cpu", True, "cpu.max", f"{quota if quota > 0 else 'max'} {period}"),
        ]
    if limits.shares:
        weight = 1 + (min(max(limits.shares, 2), 262144) - 2) * 9999 // 262142  # as runc and systemd convert it
        found += [("cpu", False, "cpu.shares", str(limits.shares)), ("cpu", True, "cpu.weight", str(weight))]
    if limits.cpuset:
        found += [("cpuset", unified, "cpuset.cpus", limits.cpuset) for unified in (False, True)]
    if limits.mems:
        found += [("cpuset", unified, "cpuset.mems", limits.mems) for unified in (False, True)]
    if limits.pids > 0:
        found += [("pids", unified, "pids.max", str(limits.pids)) for unified in (False, True)]
    return found


# ---- where they are --------------------------------------------------------------------------------


def hierarchies() -> dict[str, tuple[str, bool]]:
    """Controller -> (where its hierarchy is mounted, whether it is the unified one)."""
    found: dict[str, tuple[str, bool]] = {}
    try:
        with open("/proc/self/mounts") as file:
            rows = [line.split() for line in file]
    except OSError:
        return found
    for row in rows:
        if len(row) > 3 and row[2] == "cgroup":
            found.update({word: (row[1], False) for word in row[3].split(",") if word in _WORDS})
        elif len(row) > 3 and row[2] == "cgroup2":
            for word in _read(f"{row[1]}/cgroup.controllers").decode().split():
                found.setdefault(word, (row[1], True))
            if not any(place == (row[1], True) for place in found.values()):
                continue
            found.setdefault("freezer", (row[1], True))  # every cgroup of it can be frozen
    return {word: place for word, place in found.items() if word in _WORDS}


def _offered() -> set[str]:
    return {word for word, (place, _) in hierarchies().items() if os.access(place, os.W_OK)}


def _places(wanted: Iterable[str]) -> list[tuple[set[str], tuple[str, bool]]]:
    """Each hierarchy that is needed and can be written, once, with the controllers it is needed for."""
    offered, found = _offered(), {}  # type: set[str], dict[tuple[str, bool], set[str]]
    for word, place in hierarchies().items():
        if word in wanted and word in offered:
            found.setdefault(place, set()).add(word)
    return [(words, place) for place, words in found.items()]


def _path(mount: str, name: str) -> str:
    return f"{mount}/{_PARENT}/{name}"


def _made(before: Made, place: tuple[str, bool], name: str, settings: Sequence[_Setting]) -> Made:
    mount, unified = place
    parent, path = f"{mount}/{_PARENT}", _path(mount, name)
    try:
        os.makedirs(path, exist_ok=True)
        if unified:
            _enable(mount, parent, {row[0] for row in settings})
        _inherit_cpuset(parent, path)
        for _, of_unified, file, text in settings:
            if of_unified == unified:
                _write(f"{path}/{file}", text, optional="memsw" in file or "swap" in file)
        made = before._replace(paths=(*before.paths, path))
        made = made._replace(procs=(*made.procs, os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)))
        return _with_oom(made, path)
    except OSError as exc:
        remove([path])
        raise RunError(f"cannot limit the container in {path}: {exc.strerror}") from exc


def _with_oom(made: Made, path: str) -> Made:
    for name in ("memory.events", "memory.oom_control"):
        with suppress(OSError):
            return made._replace(oom=os.open(f"{path}/{name}", os.O_RDONLY | os.O_CLOEXEC))
    return made


def _enable(mount: str, parent: str, controllers: set[str]) -> None:
    for place in (mount, parent):
        for controller in sorted(controllers - {"freezer"}):
            _write(f"{place}/cgroup.subtree_control", f"+{controller}", optional=True)


def _inherit_cpuset(*paths: str) -> None:
    """In the old hierarchy a cpuset that is empty takes no process."""
    for path in paths:
        for name in ("cpuset.cpus", "cpuset.mems"):
            if os.path.exists(f"{path}/{name}") and not _read(f"{path}/{name}").strip():
                _write(f"{path}/{name}", _read(f"{os.path.dirname(path)}/{name}").decode().strip(), optional=True)


# ---- freezing --------------------------------------------------------------------------------------


class Freezer(NamedTuple):
    """``path``: of the cgroup in which all can be frozen; ``paths``: all cgroups of the container."""

    path: str
    paths: list[str]


def freezer(name: str, paths: Sequence[str]) -> Freezer:
    """That of a container that has ``paths``; it may have to be made (``gather``).

    Raises ``RunError`` where there is no freezer.
    """
    found = list(paths)
    place = next((path for path in found if _freezer_file(path)), None)
    if place is None:
        offered = hierarchies().get("freezer")
        if offered is None or not os.access(offered[0], os.W_OK):
            raise RunError("cannot pause: there is no freezer cgroup here that may be written")
        place = _path(offered[0], name)
        found += [] if place in found else [place]
    return Freezer(place, found)


def thaw(paths: Sequence[str]) -> None:
    for path in paths:
        if _freezer_file(path):
            set_frozen(path, frozen=False)


def is_frozen(paths: Sequence[str]) -> bool:
    return any(
        _read(f"{path}/{name}").strip() in (word, b"FREEZING") for path in paths for name, word in _FROZEN.items()
    )


def _freezer_file(path: str) -> str | None:
    return next((name for name in _FROZEN if os.path.exists(f"{path}/{name}")), None)


def set_frozen(path: str, *, frozen: bool) -> None:
    """Raises ``RunError``."""
    name = _freezer_file(path)
    text = {"freezer.state": ("THAWED", "FROZEN"), "cgroup.freeze": ("0", "1")}[name or "cgroup.freeze"][frozen]
    try:
        _write(f"{path}/{name}", text)
    except OSError as exc:
        raise RunError(f"cannot {'pause' if frozen else 'unpause'} the container: {path}: {exc.strerror}") from exc
    if frozen:
        _await_frozen(path)


def _await_frozen(path: str) -> None:
    """The kernel stops one process after the other; one that waits for a disk holds it up."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if _read(f"{path}/freezer.state").strip() == b"FROZEN" or b"frozen 1" in _read(f"{path}/cgroup.events"):
            return
        time.sleep(0.001)


def gather(freezer: str, pid: int) -> None:
    """Moves all processes of the pid namespace whose first is ``pid`` into it, which is made if need be.

    Those that are born meanwhile are born there, or found the next time. Raises ``RunError``.
    """
    try:
        os.makedirs(freezer, exist_ok=True)
    except OSError as exc:
        raise RunError(f"cannot pause the container: {freezer}: {exc.strerror}") from exc
    for _ in range(100):
        outside = members(pid) - {int(word) for word in _read(f"{freezer}/cgroup.procs").split()}
        if not outside:
            return
        for number in outside:
            with suppress(OSError):
                _write(f"{freezer}/cgroup.procs", str(number))


def members(pid: int) -> set[int]:
    """The processes of a pid namespace, by its first one, and of those below it; in our own one what it has started."""
    space = _namespace(pid)
    space = "" if space == _namespace(os.getpid()) else space
    found, parents = {pid}, _parents()
    for number in parents:
        if space and _namespace(number) == space:
            found.add(number)
    grown = True
    while grown:
        more = {number for number, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _parents() -> dict[int, int]:
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    return found


# ---- removing --------------------------------------------------------------------------------------


def remove(paths: Iterable[str], *, patience: float = _PATIENCE) -> None:
    """Those that are there; what is still in them is given a moment to end."""
    end = time.monotonic() + patience
    for path in paths:
        while True:
            try:
                os.rmdir(path)
                break
            except OSError as exc:
                if exc.errno != errno.EBUSY or time.monotonic() >= end:
                    break
            time.sleep(0.005)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""


def _write(path: str, text: str, *, optional: bool = False) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError:
        if not optional:
            raise
