"""Looking after a program that outlives who started it (csrc/fl_monitor.h has the rules, and the messages)."""

from __future__ import annotations

import array
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

_CHUNK, _LINE, _CLIENTS, _NOTE, _ORPHAN_MS = 32768, 16384, 16, 80, 5000
_MAP, _EXIT, _PID, _BEGUN = 1, 5, 6, 7
_RECORD = struct.Struct("=4i")


class _Log:
    """JSON lines; a new file when one is full."""

    def __init__(self, directory: int, limit: int, files: int) -> None:
        self._directory, self._limit, self._files = directory, limit, files
        self._lines = [b"", b""]
        self._fd = -1
        self._keeps = directory >= 0 and files > 0
        if self._keeps:
            self._begin(0)

    def _begin(self, flags: int) -> None:
        with suppress(OSError):
            flags |= os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open("log.json", flags, 0o640, dir_fd=self._directory)

    def add(self, stream: int, data: bytes) -> None:
        while self._keeps and data:
            end = data.find(b"\n") + 1 or len(data)
            part = data[: min(end, _LINE - len(self._lines[stream]))]
            data = data[len(part) :]
            self._lines[stream] += part
            if len(self._lines[stream]) == _LINE or part.endswith(b"\n"):
                self._write(stream)

    def _write(self, stream: int) -> None:
        text, self._lines[stream] = self._lines[stream], b""
        ns = time.time_ns()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
        entry = {"log": text.decode("utf-8", "replace"), "stream": ("stdout", "stderr")[stream], "time": moment}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        for byte in b"<>&":  # as Go's encoder has it
            line = line.replace(bytes([byte]), b"\\u00%02x" % byte)
        self._put(line)

    def _put(self, line: bytes) -> None:
        """A line that the disk has no room for is left out as a whole, so that those after it can be read."""
        size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
        if self._limit and size and size + len(line) > self._limit:
            self._rotate()
        if self._fd < 0:
            self._begin(0)  # there was no room for a new file
        with suppress(OSError):
            size = os.fstat(self._fd).st_size
            if os.write(self._fd, line) < len(line):
                os.ftruncate(self._fd, size)

    def _rotate(self) -> None:
        os.close(self._fd)
        self._fd = -1
        names = ["log.json", *(f"log.json.{number}" for number in range(1, self._files))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=False):
            with suppress(OSError):
                os.rename(newer, older, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._begin(os.O_TRUNC)

    def end(self) -> None:
        for stream in (0, 1):
            if self._keeps and self._lines[stream]:
                self._write(stream)


def _note(directory: int, name: str, *numbers: int) -> None:
    """Uses up a file that is there, which takes no room on the disk."""
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f".{name}", flags, 0o600, dir_fd=directory)
        os.write(fd, " ".join(map(str, numbers)).ljust(_NOTE - 1).encode() + b"\n")
        os.close(fd)
        os.rename(f".{name}", name, src_dir_fd=directory, dst_dir_fd=directory)


class _Client:
    def __init__(self, fd: int, *, wants: bool = False) -> None:
        self.socket = socket.socket(fileno=fd)
        self.wants = wants
        self.owes = b""
        self.last: list[bytes] = []  # what it gets after the end


class Monitor:
    """The loop. ``keeper``: pid; ``report``, ``ready``: our ends of its pipes; ``sweep``: ends what it has left."""

    def __init__(
        self, given: Any, keeper: int, report: int, ready: int, sweep: Callable[[], None] | None = None
    ) -> None:
        self.sweep = sweep
        self.m, self.keeper, self.report, self.ready = given, keeper, report, ready
        self.news, self.life, self.master, self.input = given.news, given.life, given.master, given.input
        self.sources = {given.out: 0, given.err: 1}
        self.sources.pop(-1, None)
        self.first = _Client(given.client, wants=True) if given.client >= 0 else None
        self.clients = [self.first] if self.first else []
        self.listener = socket.socket(fileno=given.listener) if given.listener >= 0 else None
        self.terminal = given.terminal
        self.size = (given.rows, given.columns)
        self.child, self.child_fd, self.status = 0, -1, 128 + signal.SIGKILL
        self.orphaned = False
        self.failed = self.begun = self.ended = self.input_ends = False
        self.pending = b""
        self.pending_from: _Client | None = None
        self.log = _Log(given.dir, given.log_size, given.log_files)
        if self.master >= 0:
            self._take_master(self.master)
        for fd in (report, given.out, given.err, self.input):
            if fd >= 0:
                os.set_blocking(fd, False)

    def live(self) -> NoReturn:
        while not self.ended:
            self._turn()
        self._drain()
        self._finish()
        self._send_rest()
        if self.begun and self.m.cleanup and not self._first_stays():
            os.execve(self.m.cleanup[0], list(self.m.cleanup), dict(e.split(b"=", 1) for e in self.m.environment))
        os._exit(0)

    # ---- the loop ----

    def _turn(self) -> None:
        poll = select.poll()
        sending = any(client.owes for client in self.clients)
        for fd in (self.report, self.ready, self.terminal, *(() if sending else self.sources)):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        if self.listener is not None:
            poll.register(self.listener, select.POLLIN)
        if self.pending and self._input() >= 0 and self._input() not in self.sources:
            poll.register(self._input(), select.POLLOUT)
        elif self.pending and self._input() >= 0:
            poll.register(self._input(), select.POLLOUT | (0 if sending else select.POLLIN))
        for client in self.clients:
            poll.register(client.socket, select.POLLIN | (select.POLLOUT if client.owes else 0))
        self._serve(dict(poll.poll()))

    def _serve(self, events: dict[int, int]) -> None:
        if self.terminal in events:
            self._receive_master()
        if self.ready in events:
            self._become_ready()
        elif self.report in events:
            self._read_report()
        if self.ended:
            return
        for fd, stream in list(self.sources.items()):
            if fd in events and not any(client.owes for client in self.clients):
                self._read(fd, stream)
        if self.pending and self._input() in events:
            self._write_input()
        if self.listener is not None and self.listener.fileno() in events:
            self._welcome()
        for client in list(self.clients):
            what = events.get(client.socket.fileno(), 0)
            if what & select.POLLOUT:
                self._pass_on(client)
            if what & ~select.POLLOUT and client in self.clients:
                self._hear(client)
        if self.input_ends and not self.pending and self.input >= 0:
            os.close(self.input)
            self.input = -1

    def _drain(self) -> None:
        if self.terminal >= 0:
            self._receive_master()
        for client in self.clients:  # nobody waits for those who take it
            client.last = [client.owes] if client.owes else []
            client.owes = b""
        while any(self._read(fd, stream) for fd, stream in list(self.sources.items())):
            pass

    # ---- output and input ----

    def _read(self, fd: int, stream: int) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self.sources.pop(fd, None)
            if fd == self.master:
                self.master = -1
            os.close(fd)
            return False
        self.log.add(stream, data)
        for client in list(self.clients):
            if client.wants and self.ended:
                client.last.append(b"or"[stream : stream + 1] + data)
            elif client.wants:
                client.owes = b"or"[stream : stream + 1] + data
                self._pass_on(client)
        return True

    def _send(self, client: _Client, data: bytes) -> bool:
        try:
            client.socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return True
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self._drop(client)
            return False

    def _pass_on(self, client: _Client) -> None:
        if client.owes and self._send(client, client.owes):
            client.owes = b""

    def _drop(self, client: _Client) -> None:
        client.owes = b""
        if client in self.clients:
            self.clients.remove(client)
            client.socket.close()
        if client is self.first and self.m.stdin_once:
            self.input_ends = True

    def _input(self) -> int:
        return int(self.master if self.master >= 0 else self.input)

    def _write_input(self) -> None:
        while self.pending:
            try:
                self.pending = self.pending[os.write(self._input(), self.pending) :]
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.pending = b""
        if self.pending_from is not None and self.pending_from in self.clients:
            self._send(self.pending_from, b"a")
        self.pending_from = None

    # ---- clients ----

    def _welcome(self) -> None:
        assert self.listener is not None
        with suppress(OSError):
            found, _ = self.listener.accept()
            if len(self.clients) >= _CLIENTS:
                found.close()
            else:
                self.clients.append(_Client(found.detach()))

    def _hear(self, client: _Client) -> None:
        try:
            message = client.socket.recv(1 + _CHUNK, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            message = b""
        what, rest = message[:1], message[1:]
        if not message:
            self._drop(client)
        elif what == b"A":
            client.wants = True
        elif what == b"i" and rest and not self.pending:
            self.pending, self.pending_from = rest, client
            self._write_input()
        elif what == b"e":
            self.input_ends = True
        elif what == b"w" and len(rest) == 4:
            self.size = struct.unpack("=HH", rest)
            self._resize()
        elif what == b"s" and len(rest) == 1:
            self._send(client, b"k" + struct.pack("=i", self._signal(rest)))

    def _signal(self, number: bytes) -> int:
        if self.ended or self.life < 0:
            return 3  # ESRCH
        if number == b"\0":
            return 22  # EINVAL
        try:
            os.write(self.life, number)
        except OSError as exc:
            return exc.errno or 0
        return 0

    # ---- the terminal ----

    def _receive_master(self) -> None:
        with socket.socket(fileno=os.dup(self.terminal)) as channel:
            space = socket.CMSG_SPACE(4)
            try:
                data, extra, _, _ = channel.recvmsg(1, space, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
        for _, _, content in extra:
            fds = array.array("i", content[:4])
            self._take_master(fds[0])
        os.close(self.terminal)
        self.terminal = -1
        del data

    def _take_master(self, fd: int) -> None:
        self.master = fd
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        self.sources[fd] = 0
        self._resize()

    def _resize(self) -> None:
        if self.master >= 0 and self.size[0]:
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *self.size, 0, 0))

    # ---- the program's life ----

    def _tell(self, what: int, number: int, value: int) -> None:
        if self.news >= 0:
            try:
                os.write(self.news, _RECORD.pack(what, number, value, 0))
            except OSError:
                os.close(self.news)
                self.news = -1

    def _read_report(self) -> None:
        try:
            data = os.read(self.report, 64 * _RECORD.size)
        except (BlockingIOError, InterruptedError):
            return
        for what, number, value, _ in _RECORD.iter_unpack(data):
            if what == _PID:
                self.child = value
                with suppress(OSError):
                    self.child_fd = os.pidfd_open(value)
            elif what == _EXIT:
                self.ended, self.status = True, value
            else:
                self.failed |= what != _MAP
                self._tell(what, number, value)
        if not data:
            self.orphaned = self.ended = True

    def _become_ready(self) -> None:
        os.close(self.ready)
        self.ready = -1
        self._read_report()
        if self.failed or not self.child:
            return
        self.begun = True
        if self.m.dir >= 0:
            _note(self.m.dir, "running", self.child, os.getpid(), time.time_ns())
        self._tell(_BEGUN, os.getpid(), self.child)

    def _finish(self) -> None:
        os.close(self.life)
        self.life = -1
        with suppress(ChildProcessError):
            os.waitpid(self.keeper, 0)
        self._end_orphan()
        if self.sweep is not None:
            self.sweep()
        oom = self._out_of_memory()
        for path in self.m.cgroups:
            with suppress(OSError):
                os.rmdir(path)
        self.log.end()
        if self.m.dir >= 0:
            if self.begun:
                _note(self.m.dir, "exit", self.status, oom, time.time_ns())
            with suppress(OSError):
                os.unlink("attach", dir_fd=self.m.dir)
        if self.m.lock >= 0:
            os.close(self.m.lock)
        self._tell(_EXIT, 0, self.status)
        for client in self.clients:
            if client.wants:
                client.last.append(b"x" + struct.pack("=ii", self.status, oom))

    def _send_rest(self) -> None:
        """Everybody who is attached gets the last output and how it ended, however slow it is."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        while True:
            for client in list(self.clients):
                while client.last and self._send(client, client.last[0]):
                    client.last.pop(0)
            waiting = [client for client in self.clients if client.last]
            if not waiting:
                return
            poll = select.poll()
            for client in waiting:
                poll.register(client.socket, select.POLLIN | select.POLLOUT)
            events = dict(poll.poll())
            for client in waiting:
                if events.get(client.socket.fileno(), 0) & ~select.POLLOUT:
                    self._hear(client)

    def _end_orphan(self) -> None:
        """It ends with its keeper, unless it has executed a setuid program or asked not to (PR_SET_PDEATHSIG)."""
        if self.orphaned and self.child_fd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self.child_fd, signal.SIGKILL)
                poll = select.poll()
                poll.register(self.child_fd, select.POLLIN)
                poll.poll(_ORPHAN_MS)

    def _out_of_memory(self) -> int:
        if self.m.oom < 0:
            return 0
        with suppress(OSError):
            words = os.pread(self.m.oom, 512, 0).split()
            return int(b"oom_kill" in words and words[words.index(b"oom_kill") + 1] != b"0")
        return 0

    def _first_stays(self) -> bool:
        return self.first is not None and self.first in self.clients


def own_descriptors(given: Any) -> set[int]:
    """Those of a monitor."""
    names = "dir lock listener client out err input terminal master news life oom"
    return {fd for name in names.split() if (fd := int(getattr(given, name))) >= 0}


def silence() -> None:
    """Standard streams are nobody's; signals that are about a session are not for it."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    for number in range(1, signal.NSIG):
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_others(kept: Sequence[int]) -> None:
    """All descriptors above 2 but these."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with suppress(OSError):
                os.close(fd)
