"""dmsetup(8) as functions: one command each, its output parsed exactly, its errors as exceptions with an errno.

dmsetup waits for udev, or makes the nodes in ``/dev/mapper`` itself where none runs; that is why it is used and not the
ioctls below it. Tables and status lines: ``Documentation/admin-guide/device-mapper/thin-provisioning.rst``.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, cast

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, StorageError

SECTOR = 512  # bytes; the unit of all tables
_UDEV = "/run/udev/control"
_SECONDS = 120.0
_ERRNOS = {os.strerror(number): number for number in errno.errorcode}
_FAILED = re.compile(r"^device-mapper: (?P<what>.+? ioctl(?: on \S+)?) +failed: (?P<why>.+)$", re.MULTILINE)
_POOL = re.compile(
    r"\d+ thin-pool (\d+) (\d+)/(\d+) (\d+)/(\d+) (?:-|\d+) (?P<mode>rw|ro|out_of_data_space)(?P<rest>(?: .*)?)"
)
_lock: ContextVar[tuple[int, ...]] = ContextVar("lock", default=())
_ABSENT = re.compile(r"Device does not exist\.|Device \S+ not found")


class DmError(StorageError):
    """dmsetup said no. ``errno`` is the kernel's, or EIO where dmsetup named none; ``text`` its own words."""

    def __init__(self, errnum: int, op: str, device: str, text: str) -> None:
        super().__init__(errnum, op, device)
        self.text = text

    def __str__(self) -> str:
        return f"{self.filename}: {self.op}: {self.text}"


Mode = Literal["rw", "ro", "out_of_data_space", "Fail"]


class DeviceInfo(NamedTuple):
    """A device that exists. ``live``: it has a table; ``open``: how often it is open or mounted."""

    live: bool
    suspended: bool
    readonly: bool
    open: int


class PoolStatus(NamedTuple):
    """The status line of a thin pool; blocks of metadata are 4 KiB, blocks of data the pool's own size."""

    transaction: int
    metadata_used: int
    metadata_total: int
    data_used: int
    data_total: int
    mode: Mode
    needs_check: bool


@contextmanager
def locked_with(fd: int) -> Iterator[None]:
    """Within the block every program this thread starts holds the lock ``fd``, too.

    So what a killed process has started ends before the next one gets the lock.
    """
    token = _lock.set((fd,))
    try:
        yield
    finally:
        _lock.reset(token)


def lock_descriptors() -> tuple[int, ...]:
    """What programs started now must inherit."""
    return _lock.get()


def run(*arguments: str, device: str = "dmsetup", also: Sequence[int] = ()) -> str:
    """What ``dmsetup ARGUMENTS`` prints. Raises ``DmError``; ``DriverError`` where there is no dmsetup.

    ``also``: descriptors that it keeps open until it ends, even when this process is killed.
    """
    return _execute(["dmsetup", *arguments], arguments[0], device, also)


def _execute(command: Sequence[str], what: str, device: str, also: Sequence[int] = ()) -> str:
    env = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    if not os.path.exists(_UDEV):
        env["DM_DISABLE_UDEV"] = "1"  # then libdevmapper makes and removes the nodes itself
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env=env,
            pass_fds=(*lock_descriptors(), *also),
            restore_signals=False,  # no SIGPIPE: it ends what it has begun when we are killed
            check=False,
        )
    except FileNotFoundError:
        raise DriverError(
            "dmsetup is not installed: install the package dmsetup (lvm2 has it on some systems)"
        ) from None
    except subprocess.TimeoutExpired:
        raise DriverError(f"dmsetup {what} {device}: no answer for {_SECONDS:.0f} s: is udev running?") from None
    if done.returncode != 0:
        raise _error(what, device, done.stderr)
    return done.stdout


def _error(command: str, device: str, stderr: str) -> DmError:
    found = _FAILED.search(stderr)
    if found is not None:
        return DmError(_ERRNOS.get(found["why"].strip(), errno.EIO), f"dmsetup {command}", device, found["why"].strip())
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and line.strip() != "Command failed."]
    if any(_ABSENT.fullmatch(line) for line in lines):
        return DmError(errno.ENXIO, f"dmsetup {command}", device, "there is no such device")
    return DmError(errno.EIO, f"dmsetup {command}", device, lines[0] if lines else "failed without a word")


# ---- devices -------------------------------------------------------------------------------------


def create(name: str, table: str, *, readonly: bool = False, keep: Sequence[int] = ()) -> None:
    """Makes and starts a device. ``DmError`` with EBUSY when the name is taken.

    ``keep``: descriptors of devices it is made of, which would go without a user.
    """
    uuid = f"FASTLAYER-{name}"
    more = ("--readonly",) if readonly else ()
    run("create", name, "--uuid", uuid, *more, "--table", table, device=name, also=keep)
    make_node(name)


def make_node(name: str) -> None:
    """The node in ``/dev/mapper``, where neither udev nor dmsetup has made it (a /dev of a container's own)."""
    try:
        node = os.stat(path_of(name)).st_rdev
        with open(f"/sys/dev/block/{os.major(node)}:{os.minor(node)}/dm/name") as file:
            right = file.read().strip() == name
    except OSError:
        right = False
    if not right:
        run("mknodes", name, device=name)


def remove(name: str, *, deferred: bool = False) -> bool:
    """Takes a device away; False when there is none. Raises ``DmError`` with EBUSY while it is open.

    ``deferred``: when it is closed for the last time, if that is not now.
    """
    try:
        run("remove", *(("--deferred",) if deferred else ("--retry",)), name, device=name)
    except DmError as exc:
        if exc.errno == errno.ENXIO:
            return False
        raise
    return True


def info(name: str) -> DeviceInfo | None:
    """None when there is no such device."""
    try:
        columns = "tables_loaded,suspended,readonly,open"
        line = run("info", "-c", "--noheadings", "--separator", ":", "-o", columns, name, device=name)
    except DmError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise
    tables, suspended, readonly, opened = (field.strip() for field in line.strip().split(":"))
    return DeviceInfo(tables in ("Live", "Both"), suspended == "Suspended", readonly == "Read-only", int(opened))


def suspend(name: str) -> None:
    """Stops all I/O of a device after what runs has ended; a mounted file system is frozen by the kernel."""
    run("suspend", name, device=name)


def resume(name: str) -> None:
    """Goes on; with the table that was loaded last."""
    run("resume", name, device=name)


def reload(name: str, table: str) -> None:
    """Loads a table that ``resume`` makes the live one."""
    run("reload", name, "--table", table, device=name)


def message(name: str, *words: str) -> None:
    """Sends a message to the target of a pool. The pool has committed its metadata when this returns."""
    run("message", name, "0", *words, device=name)


def message_while_suspended(source: str, name: str, *words: str) -> None:
    """``message`` to the pool ``name`` while the device ``source`` stands still (a mounted file system is frozen).

    One shell does it all, so that a kill of this process does not leave the source suspended.
    """
    script = 'dmsetup suspend "$1" || exit; dmsetup message "$2" 0 "$3"; said=$?; dmsetup resume "$1" && exit "$said"'
    _execute(["/bin/sh", "-c", script, "sh", source, name, " ".join(words)], "message", name)


def status(name: str) -> Sequence[str] | None:
    """The fields of the status line of a device with one target: length, target, ...; None when there is none.

    Asks the pool for what it knows, without writing its metadata.
    """
    try:
        line = run("status", "--noflush", name, device=name)
    except DmError as exc:
        if exc.errno == errno.ENXIO:
            return None
        raise
    return line.split()[1:]


def names(prefix: str) -> list[str]:
    """The devices there are whose names begin so."""
    lines = run("ls").splitlines()
    return [name for name in (line.split()[0] for line in lines if "\t" in line) if name.startswith(prefix)]


def targets() -> set[str]:
    """The targets the kernel has loaded."""
    return {line.split()[0] for line in run("targets").splitlines() if line.strip()}


def path_of(name: str) -> str:
    return f"/dev/mapper/{name}"


# ---- thin pools ----------------------------------------------------------------------------------


def pool_status(fields: Sequence[str], name: str) -> PoolStatus:
    """Parses ``status``: ``LENGTH thin-pool TRANSACTION USED/TOTAL USED/TOTAL ROOT MODE DISCARD FULL CHECK ...``.

    A pool that has failed says ``Fail`` or ``Error`` instead of all that.
    """
    line = " ".join(fields)
    if fields[1:2] == ["thin-pool"] and fields[2:3] in (["Fail"], ["Error"]):
        return PoolStatus(0, 0, 0, 0, 0, "Fail", True)
    found = _POOL.fullmatch(line)
    if found is None:
        raise DriverError(f"{name}: {line!r} is no status of a thin pool: another device has its name")
    transaction, metadata_used, metadata_total, data_used, data_total = map(int, found.groups()[:5])
    mode = cast("Mode", found["mode"])
    return PoolStatus(
        transaction, metadata_used, metadata_total, data_used, data_total, mode, "needs_check" in found["rest"].split()
    )


def mapped_sectors(fields: Sequence[str], name: str) -> int:
    """Of the status of a thin device: ``LENGTH thin MAPPED HIGHEST``. Shared ones are counted as well."""
    if len(fields) >= 3 and fields[1] == "thin" and fields[2].isdigit():
        return int(fields[2])
    raise DriverError(f"{name}: {' '.join(fields)!r} is no status of a thin device: its pool has failed")
