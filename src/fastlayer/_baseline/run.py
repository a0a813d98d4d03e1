"""Running a program in a root file system, by os.fork and ctypes (csrc/fl_run.h has the rules).

Forking a Python process that has threads is not safe in general: the keeper and the child here run Python code. This is
the specification, not the product.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import struct
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from fastlayer._baseline import monitor as looking_after
from fastlayer._baseline import program as programs
from fastlayer._baseline.calls import NUMBERS, call, libc, longs
from fastlayer._values import NamedTuple
from fastlayer.errors import LimitError, StorageError, UsageError

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_F_EMPTY_T_SYMLINKS = 0x14
_NEWPID = 0x20000000
_MS_BIND, _TIOCGPTPEER, _DUMPABLE = 0x1000, 0x5441, 4
_TIOCSPTLCK, _TIOCGPTN = 0x40045431, 0x80045430  # termios has them since Python 3.13
_MS_PRIVATE, _MS_PRIVATE_ALL, _MNT_DETACH, _UMOUNT_NOFOLLOW = 0x40000, 0x44000, 2, 8
_MS_SLAVE, _MS_SHARED = 1 << 19, 1 << 20
_TREE_ALONE = 1  # FL_RUN_TREE_ALONE
_RDONLY, _NODEV = 1, 4  # MOUNT_ATTR_*
_MASKING = 15  # MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_PDEATHSIG, _CAPBSET_READ, _CAPBSET_DROP = 1, 23, 24
_SUBREAPER, _NO_NEW_PRIVS, _AMBIENT = 36, 38, 47
_CAP_VERSION = 0x20080522
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
_OPTIONAL = 256
_MAP, _KEEPER, _CHILD, _STAGE, _EXIT, _PID = range(1, 7)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STUB_DIRECTORY, _STUB_STAYS = 1, 2
_STUBS_MAX, _LINKS_MAX, _SLOTS_MAX = 1024, 40, 507
_LOOK_AGAIN_MS, _NAP = 10, 0.0005


class _Stub(NamedTuple):
    directory: int
    name: bytes
    found: os.stat_result
    is_dir: bool


class _Run:
    """One run, as its two processes see it."""

    def __init__(self, program: Any, slots: Sequence[int], life: int, report: int, ready: int = -1) -> None:
        self.program, self.slots, self.life, self.report = program, list(slots), life, report
        self.ready = ready
        self.stubs: list[_Stub] = []

    def tell(self, what: int, number: int, value: int) -> None:
        with suppress(OSError):
            os.write(self.report, struct.pack("=4i", what, number, value, 0))

    def steps(self, steps: Sequence[Any], what: int) -> bool:
        for number, (op, slot, value, one, two, three) in enumerate(steps):
            try:
                _STEPS[op & ~_OPTIONAL](self, slot, value, one, two, three)
            except OSError as exc:
                if not op & _OPTIONAL:
                    self.tell(what, number, exc.errno or 0)
                    return False
        return True


def start(
    keeper: Sequence[Any],
    child: Sequence[Any],
    program: Any,
    *,
    namespaces: int,
    whole_tree: bool,
    slots: Sequence[int],
    life: int,
    report: int,
) -> int:
    """Starts the keeper and returns its pid."""
    _check(keeper, child, program, slots)
    run = _Run(program, slots, life, report)
    pid = _fork_deaf()
    if pid == 0:
        try:
            _live_as_keeper(run, keeper, child, namespaces, whole_tree)
        finally:
            os._exit(1)
    return pid


def watch(
    keeper: Sequence[Any],
    child: Sequence[Any],
    program: Any,
    monitor: Any,
    *,
    namespaces: int,
    whole_tree: bool,
    slots: Sequence[int],
    life: int,
) -> None:
    """Starts it with a monitor, which is no child of the caller."""
    _check(keeper, child, program, slots)
    pid = _fork_deaf()
    if pid == 0:
        try:
            if os.fork() == 0:
                os.setsid()
                _become_monitor(keeper, child, program, monitor, namespaces, whole_tree, slots, life)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _fork_deaf() -> int:
    """fork(2); the child begins with all signals blocked."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, set(signal.Signals))
    pid = -1
    try:
        pid = os.fork()
    except OSError as exc:
        raise StorageError(exc.errno or 0, "fork") from exc
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _become_monitor(
    keeper: Sequence[Any],
    child: Sequence[Any],
    program: Any,
    monitor: Any,
    namespaces: int,
    whole_tree: bool,
    slots: Sequence[int],
    life: int,
) -> NoReturn:
    looking_after.silence()
    report, report_end = os.pipe()
    ready, ready_end = os.pipe()
    if whole_tree:
        call("prctl", *longs(_SUBREAPER, 1, 0, 0, 0))
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, set(signal.Signals))
        try:
            run = _Run(program, slots, life, report_end, ready_end)
            _live_as_keeper(run, keeper, child, namespaces, whole_tree)
        finally:
            os._exit(1)
    looking_after.close_others([report, ready, *looking_after.own_descriptors(monitor)])
    looking_after.Monitor(monitor, pid, report, ready, _kill_all if whole_tree else None).live()


def _check(keeper: Sequence[Any], child: Sequence[Any], program: Any, slots: Sequence[int]) -> None:
    texts = [text for step in (*keeper, *child) for text in step[3:] if text is not None]
    if any(b"\0" in text for text in (*texts, *program.paths, *program.argv, *program.env, program.cwd)):
        raise UsageError("an argument, variable or path of a program cannot contain a NUL byte")
    if len(slots) > _SLOTS_MAX:
        raise LimitError("too many mounts for one step")


# ---- the keeper ----------------------------------------------------------------------------------


def _live_as_keeper(run: _Run, keeper: Sequence[Any], child: Sequence[Any], namespaces: int, whole_tree: bool) -> None:
    os.setsid()
    for number in range(1, signal.NSIG):
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    kept = {0, 1, 2, run.life, run.report, run.ready, *run.program.stdio, *run.slots}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))
    if whole_tree:
        call("prctl", *longs(_SUBREAPER, 1, 0, 0, 0))
    if run.steps(keeper, _KEEPER):
        _run_child(run, len(keeper), child, namespaces, whole_tree)
    _remove_stubs(run.stubs)
    os._exit(0)


def _run_child(run: _Run, number: int, child: Sequence[Any], namespaces: int, whole_tree: bool) -> None:
    try:
        pid = _fork_into(namespaces)
    except OSError as exc:
        run.tell(_KEEPER, number, exc.errno or 0)
        return
    if pid == 0:
        try:
            _live_as_child(run, child, namespaces)
        finally:
            os._exit(255)
    if run.ready >= 0:
        run.tell(_PID, 0, pid)
        os.close(run.ready)  # after it: who sees the end of that pipe looks for the pid in the other
    status = _wait_for(run, pid, whole_tree)
    if whole_tree:
        _kill_all()
    run.tell(_EXIT, 0, status)


def _fork_into(namespaces: int) -> int:
    """clone(2) as a fork: with a null stack the order of arguments does not matter."""
    number = {"x86_64": 56}.get(os.uname().machine, 220)
    return call("syscall", *longs(number, namespaces | signal.SIGCHLD, 0, 0, 0, 0))


def _wait_for(run: _Run, pid: int, whole_tree: bool) -> int:
    poll = select.poll()
    poll.register(run.life, select.POLLIN)
    while True:
        events = poll.poll(_LOOK_AGAIN_MS)
        ended, how = os.waitpid(pid, os.WNOHANG)
        if ended == pid:
            return _status(how)
        if events:
            number = os.read(run.life, 1)
            if not number:
                break
            os.kill(pid, number[0])
    os.kill(pid, signal.SIGKILL)
    if whole_tree:
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
    return _status(os.waitpid(pid, 0)[1])


def _status(how: int) -> int:
    return 128 + os.WTERMSIG(how) if os.WIFSIGNALED(how) else os.WEXITSTATUS(how)


def _kill_all() -> None:
    """Orphans become our children: what is killed hands its own children up, until none is left."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                if parent == os.getpid():
                    os.kill(int(name), signal.SIGKILL)
        time.sleep(_NAP)


# ---- mount points --------------------------------------------------------------------------------


def _make_point(root: int, path: bytes, is_dir: bool, stubs: list[_Stub] | None) -> None:
    rest = [part for part in path.split(b"/") if part not in (b"", b".")]
    at, links = os.dup(root), 0
    try:
        while rest:
            name = rest.pop(0)
            if name == b"..":
                at = _up(root, at)
                continue
            try:
                found = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                _make_stub(at, name, bool(rest) or is_dir, stubs)
                if not rest:
                    return
                found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = os.readlink(name, dir_fd=at)
                rest[:0] = [part for part in target.split(b"/") if part not in (b"", b".")]
                at = _moved(at, os.dup(root)) if target.startswith(b"/") else at
            elif rest:
                at = _moved(at, os.open(name, _DIRECTORY, dir_fd=at))
            elif stat.S_ISDIR(found.st_mode) != is_dir:
                raise OSError(errno.ENOTDIR if is_dir else errno.EISDIR, "")
    finally:
        os.close(at)


def _up(root: int, at: int) -> int:
    if os.path.samestat(os.fstat(root), os.fstat(at)):
        return at
    return _moved(at, os.open("..", _DIRECTORY, dir_fd=at))


def _moved(old: int, new: int) -> int:
    os.close(old)
    return new


def _make_stub(at: int, name: bytes, is_dir: bool, stubs: list[_Stub] | None) -> None:
    if stubs is not None and len(stubs) == _STUBS_MAX:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    before = os.fstat(at)
    if is_dir:
        os.mkdir(name, 0o755, dir_fd=at)
    else:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=at))
    if stubs is not None:
        os.utime(at, ns=(before.st_atime_ns, before.st_mtime_ns))
        stubs.append(_Stub(os.dup(at), name, os.stat(name, dir_fd=at, follow_symlinks=False), is_dir))


def _remove_stubs(stubs: list[_Stub]) -> None:
    while stubs:
        stub = stubs.pop()
        with suppress(OSError):
            found, before = os.stat(stub.name, dir_fd=stub.directory, follow_symlinks=False), os.fstat(stub.directory)
            if not os.path.samestat(found, stub.found):
                continue
            if stub.is_dir:
                os.rmdir(stub.name, dir_fd=stub.directory)
            elif found.st_size == 0 and found.st_nlink == 1:
                os.unlink(stub.name, dir_fd=stub.directory)
            os.utime(stub.directory, ns=(before.st_atime_ns, before.st_mtime_ns))


# ---- steps ---------------------------------------------------------------------------------------


def _map(run: _Run, *_: Any) -> None:
    run.tell(_MAP, 0, os.getpid())
    if len(os.read(run.life, 1)) != 1:
        raise OSError(errno.ECANCELED, "")


def _root_ids(*_: Any) -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _copy_tree(path: bytes, *, below: bool = True) -> int:
    flags = 1 | os.O_CLOEXEC | (_AT_RECURSIVE if below else 0)
    return call("syscall", *longs(_OPEN_TREE, _AT_FDCWD, path, flags))


def _set_attributes(mount: int, wanted: int, *, propagation: int = 0, below: bool = True) -> None:
    attributes = struct.pack("=4Q", wanted, 0, propagation, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if below else 0)
    call("syscall", *longs(_MOUNT_SETATTR, mount, b"", flags, attributes, len(attributes)))


def _attach(mount: int, path: bytes) -> None:
    call("syscall", *longs(_MOVE_MOUNT, mount, b"", _AT_FDCWD, path, _F_EMPTY_T_SYMLINKS))


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def _pivot(run: _Run, slot: int, *_: Any) -> None:
    os.fchdir(run.slots[slot])
    call("syscall", *longs(NUMBERS[os.uname().machine][2], b".", b"."))
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _chroot(run: _Run, slot: int, *_: Any) -> None:
    os.fchdir(run.slots[slot])
    os.chroot(".")
    os.chdir("/")


def _tree(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    below = not value & _TREE_ALONE
    run.slots[slot] = copy = _copy_tree(one, below=below)
    _set_attributes(copy, 0, propagation=value & (_MS_SLAVE | _MS_SHARED) or _MS_PRIVATE, below=below)


def _open(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    run.slots[slot] = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _stub(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    _make_point(run.slots[slot], one, bool(value & _STUB_DIRECTORY), None if value & _STUB_STAYS else run.stubs)


def _make(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_point(root, one, bool(value), None)
    finally:
        os.close(root)


def _file(run: _Run, slot: int, value: int, one: bytes, two: bytes | None, *_: Any) -> None:
    with open(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
        file.write(two or b"")


def _plain(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    if not stat.S_ISDIR(os.lstat(one).st_mode):
        raise OSError(errno.ENOTDIR, "")


def _mask(run: _Run, slot: int, value: int, one: bytes, two: bytes, *_: Any) -> None:
    if not os.path.exists(one):
        return
    if os.path.isdir(one):
        _mount(b"tmpfs", one, b"tmpfs", _MASKING, b"size=0k,nr_inodes=1")
    else:
        copy = _copy_tree(two)
        if not _is_null(copy):  # it would be shown in place of what is hidden (CVE-2025-31133)
            raise OSError(errno.EPERM, "")
        _attach(copy, one)


def _lock(run: _Run, slot: int, value: int, one: bytes, *_: Any) -> None:
    if os.path.exists(one):
        copy = _copy_tree(one)
        _set_attributes(copy, _RDONLY)
        _attach(copy, one)


def _join(run: _Run, slot: int, *_: Any) -> None:
    os.write(run.slots[slot], b"0")


def _terminal(run: _Run, slot: int, value: int, one: bytes | None, *_: Any) -> None:
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
    run.slots[slot] = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if one is not None:
        os.close(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        _mount(b"/dev/pts/%d" % number, one, None, _MS_BIND, None)
    with socket.socket(fileno=os.dup(run.slots[value])) as channel:
        socket.send_fds(channel, [b"t"], [master])
    os.close(master)


def _write(run: _Run, slot: int, value: int, one: bytes, two: bytes, *_: Any) -> None:
    with open(os.open(one, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0) as file:
        file.write(two)


def _loopback(*_: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP_RUNNING))


_STEPS: dict[int, Callable[..., Any]] = {
    1: lambda run, slot, value, *_: call("unshare", value),
    2: _map,
    3: _root_ids,
    4: lambda *_: _mount(None, b"/", None, _MS_PRIVATE_ALL, None),
    5: _tree,
    6: lambda run, slot, value, *_: _set_attributes(run.slots[slot], _RDONLY, below=value != _TREE_ALONE),
    7: lambda run, slot, value, one, *_: _attach(run.slots[slot], one),
    8: lambda run, slot, value, one, two, three: _mount(one, two, one, value, three),
    9: _open,
    10: lambda run, slot, value, one, *_: os.chdir(one),
    11: _pivot,
    12: _chroot,
    13: _stub,
    14: _make,
    15: lambda run, slot, value, one, *_: os.mkdir(one, value),
    16: lambda run, slot, value, one, two, *_: os.symlink(one, two),
    17: _file,
    18: lambda run, slot, value, one, *_: os.unlink(one),
    19: _plain,
    20: _mask,
    21: _lock,
    22: lambda run, slot, value, one, *_: socket.sethostname(one.decode()),
    23: _loopback,
    24: lambda run, slot, value, one, *_: call("umount2", one, _MNT_DETACH | _UMOUNT_NOFOLLOW),
    25: lambda run, slot, *_: _set_attributes(run.slots[slot], _NODEV),
    26: lambda run, slot, value, *_: call("setns", run.slots[slot], value),
    27: _join,
    28: _terminal,
    29: _write,
    30: lambda *_: call("prctl", *longs(_DUMPABLE, 0, 0, 0, 0)),
}


# ---- the child -----------------------------------------------------------------------------------


def _live_as_child(run: _Run, child: Sequence[Any], namespaces: int) -> NoReturn:
    call("prctl", *longs(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if not namespaces & _NEWPID and os.getppid() == 1:
        os._exit(255)
    os.setsid()
    if not run.steps(child, _CHILD):
        os._exit(255)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    program = run.program
    magic: list[bool] = []
    if program.terminal >= 0:  # from here on the descriptor
        program = program._replace(terminal=run.slots[program.terminal])
    for number, stage in _STAGES:
        if stage is _set_limits:  # before there is a filter, which may refuse openat2
            magic = [programs.leads_to_magic(path) for path in program.paths[: programs.PATHS_MAX]]
        try:
            stage(program)
        except OSError as exc:
            run.tell(_STAGE, number, exc.errno or 0)
            os._exit(255)
    os.umask(0o022)
    run.tell(_STAGE, 8, programs.execute(program, magic))
    os._exit(255)


def _set_stdio(program: Any) -> None:
    terminal = program.terminal
    if terminal >= 0:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    given = program.stdio if terminal < 0 else (terminal,) * 3
    high = [_own_null(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)) for fd in given]
    for number, fd in enumerate(high):
        if program.uid != 0 and (stat.S_ISFIFO(os.fstat(fd).st_mode) or terminal >= 0):
            with suppress(OSError):
                os.fchown(fd, program.uid, -1)
        os.dup2(fd, number, inheritable=True)


def _is_null(fd: int) -> bool:
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)


def _own_null(fd: int) -> int:
    """The caller's /dev/null is a file of the host, whose mode root in here could change: the root's own."""
    if not _is_null(fd):
        return fd
    try:
        own = os.open("/dev/null", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return fd
    given, kept = (fd, own) if _is_null(own) else (own, fd)
    os.close(given)
    os.set_blocking(kept, True)
    return kept


def _set_cwd(program: Any) -> None:
    os.chdir(program.cwd)
    if not os.getcwdb().startswith(b"/"):
        raise OSError(errno.ENOENT, "")


def _filter_early(program: Any) -> None:
    """Needs CAP_SYS_ADMIN, which is about to go."""
    if not program.no_new_privileges:
        _set_filter(program)


def _filter_late(program: Any) -> None:
    if program.no_new_privileges:
        call("prctl", *longs(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _set_filter(program)


def _set_filter(program: Any) -> None:
    if program.filter:
        code = ctypes.create_string_buffer(program.filter, len(program.filter))
        head = struct.pack("@HP", len(program.filter) // 8, ctypes.addressof(code))
        call("syscall", *longs(NUMBERS[os.uname().machine][3], 1, program.filter_flags, head))


def _drop_bounding(program: Any) -> None:
    for cap in range(64 if program.caps is not None else 0):
        if not program.caps >> cap & 1 and libc.prctl(*longs(_CAPBSET_READ, cap, 0, 0, 0)) == 1:
            call("prctl", *longs(_CAPBSET_DROP, cap, 0, 0, 0))


def _set_groups(program: Any) -> None:
    if program.groups is not None:
        os.setgroups(program.groups)
    os.setresgid(program.gid, program.gid, program.gid)


def _set_user(program: Any) -> None:
    os.setresuid(program.uid, program.uid, program.uid)
    call("prctl", *longs(_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _set_caps(program: Any) -> None:
    with suppress(OSError):
        call("prctl", *longs(_AMBIENT, 4, 0, 0, 0))
    if program.caps is None:
        return
    get, put, *_ = NUMBERS[os.uname().machine]
    header = struct.pack("=Ii", _CAP_VERSION, 0)
    data = ctypes.create_string_buffer(24)
    call("syscall", *longs(get, header, data))
    words = list(struct.unpack("=6I", data.raw))
    for half in (0, 1):
        permitted = words[3 * half + 1] & (program.caps >> (32 * half))
        words[3 * half : 3 * half + 3] = [permitted, permitted, 0]
    call("syscall", *longs(put, header, struct.pack("=6I", *words)))


def _set_limits(program: Any) -> None:
    for kind, soft, hard in program.limits:
        try:
            resource.prlimit(0, kind, (soft, hard))
        except ValueError as exc:
            raise OSError(errno.EINVAL, "") from exc


_STAGES = (
    (1, _set_stdio),
    (2, _set_cwd),
    (4, _drop_bounding),
    (5, _set_groups),
    (9, _set_limits),
    (3, _filter_early),
    (6, _set_user),
    (7, _set_caps),
    (3, _filter_late),
)
