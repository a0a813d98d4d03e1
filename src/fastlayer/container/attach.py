"""Being attached to a container: its output here, our input there, signals and the size of the terminal with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.container import client
from fastlayer.container.client import Ended
from fastlayer.errors import UsageError

if TYPE_CHECKING:
    from fastlayer.container.client import Socket

DETACH_KEYS = "ctrl-p,ctrl-q"
# Not those that are about this process: SIGCHLD, SIGPIPE, SIGURG, and the ones that cannot be caught.
_PROXIED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGCONT", "SIGALRM", "SIGWINCH")
_ROOM = client.CHUNK + 16

Write = Callable[[bytes], Any]


class Outcome(NamedTuple):
    """``ended``: None: the container goes on, we have detached, or its monitor was killed (then ``lost``)."""

    ended: Ended | None
    lost: bool = False


class Attached:
    """One connection while it lasts.

    ``stdin``: a descriptor that is read and passed on, or None. ``detach``: bytes that end it when they are typed.
    ``signals``: a descriptor that numbers of signals can be read from (``proxied``), or -1.
    """

    def __init__(
        self,
        connection: Socket,
        *,
        out: Write,
        err: Write,
        stdin: int | None = None,
        detach: bytes = b"",
        signals: int = -1,
        terminal: int = -1,
    ) -> None:
        self._connection = connection
        self._out, self._err = out, err
        self._stdin = stdin
        self._keys = _Keys(detach)
        self._signals = signals
        self._terminal = terminal
        self._may_send = True
        self._waiting: list[bytes] = []

    def run(self) -> Outcome:
        """Until the container ends, or somebody detaches."""
        if self._terminal >= 0:
            self._resize()
        while True:
            ready = self._poll()
            if self._signals in ready:
                self._pass_signals()
            if self._stdin is not None and self._stdin in ready and not self._read_input():
                return Outcome(None)
            if self._connection.fileno() in ready:
                message = self._receive()
                if not message:
                    return Outcome(None, lost=True)
                if message[:1] == b"x":
                    return Outcome(client.ended_of(message))
                self._hear(message)

    def _poll(self) -> set[int]:
        import select

        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if self._stdin is not None and self._may_send:
            poll.register(self._stdin, select.POLLIN)
        if self._signals >= 0:
            poll.register(self._signals, select.POLLIN)
        return {fd for fd, _ in poll.poll()}

    def _receive(self) -> bytes:
        for _ in range(2):
            try:
                return self._connection.recv(_ROOM)
            except ConnectionResetError:
                continue  # it went without reading our last message; what it had sent before is still to be had
            except OSError:
                break
        return b""

    def _hear(self, message: bytes) -> None:
        if message[:1] == b"o":
            self._out(message[1:])
        elif message[:1] == b"r":
            self._err(message[1:])
        elif message[:1] == b"a":
            self._may_send = True

    def _read_input(self) -> bool:
        """False when the keys to detach were typed, or can be no more."""
        assert self._stdin is not None
        try:
            data = os.read(self._stdin, client.CHUNK - len(self._keys.sequence))
        except OSError:
            data = b""
        if not data and self._stdin == self._terminal:
            return False  # the terminal has gone, and we go with it
        if not data:
            self._stdin = None
            self._send(b"e")
            return True
        passed, detached = self._keys.filter(data)
        if passed:
            self._may_send = False
            self._send(b"i" + passed)
        return not detached

    def _send(self, message: bytes) -> None:
        with suppress(OSError):
            self._connection.send(message)

    def _pass_signals(self) -> None:
        for number in os.read(self._signals, 64):
            if number == signal.SIGWINCH:
                self._resize()
            else:
                self._send(b"s" + bytes([number]))

    def _resize(self) -> None:
        rows, columns = size_of(self._terminal)
        if rows:
            with suppress(OSError):
                client.resize(self._connection, rows, columns)


class _Keys:
    """Looks for a sequence of keys in what is typed. What may be its beginning is kept back."""

    def __init__(self, sequence: bytes) -> None:
        self.sequence = sequence
        self._matched = 0

    def filter(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the sequence is complete."""
        if not self.sequence:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self.sequence[self._matched]:
                self._matched += 1
                if self._matched == len(self.sequence):
                    return bytes(passed), True
                continue
            passed += self.sequence[: self._matched]
            self._matched = 1 if byte == self.sequence[0] else 0
            if not self._matched:
                passed.append(byte)
        return bytes(passed), False


def parse_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q``: letters, or ``ctrl-`` with a letter or one of ``@[\\]^_``. Raises ``UsageError``."""
    found = bytearray()
    for word in filter(None, text.split(",")):
        lower = word.lower()
        if len(word) == 1 and word.isascii():
            found += word.encode()
        elif lower.startswith("ctrl-") and len(lower) == 6 and (lower[5].isalpha() or lower[5] in "@[\\]^_"):
            found.append(ord(lower[5].upper()) & 0x1F)
        else:
            raise UsageError(f"--detach-keys {text!r}: {word!r} is no key: give a letter, or ctrl- and a letter")
    return bytes(found)


# ---- our terminal ----------------------------------------------------------------------------------


def size_of(terminal: int) -> tuple[int, int]:
    """(rows, columns), zeros when it is no terminal."""
    try:
        columns, rows = os.get_terminal_size(terminal)
    except (OSError, ValueError):
        return 0, 0
    return rows, columns


@contextmanager
def raw(terminal: int) -> Iterator[None]:
    """A terminal passes on every key as it is, for the block."""
    if terminal < 0 or not os.isatty(terminal):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def proxied(*, everything: bool) -> Iterator[int]:
    """A descriptor that tells which signals came, for the block; without ``everything`` only changes of the window.

    In the main thread alone: in others -1.
    """
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield -1
        return
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    numbers = [getattr(signal, name) for name in (_PROXIED if everything else ("SIGWINCH",))]
    numbers = [
        number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGWINCH
    ]
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    waker = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(waker)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(ours)
        os.close(theirs)


def writer(fd: int, *, may_end: bool = True) -> Write:
    """Writes all of it. When nobody reads it any more the rest is dropped, or, not ``may_end``, it is an error as for
    any program in a pipeline."""
    gone = False

    def write(data: bytes) -> None:
        nonlocal gone
        view = memoryview(data)
        while view and not gone:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                import select

                select.select([], [fd], [])
            except BrokenPipeError:
                if not may_end:
                    raise
                gone = True
            except OSError:
                gone = True

    return write


def foreground(
    connection: Socket,
    *,
    stdin: bool,
    tty: bool,
    proxy: bool = True,
    keys: str = DETACH_KEYS,
    fds: Sequence[int] = (0, 1, 2),
) -> Outcome:
    """Attaches this process's standard streams. Raises ``BrokenPipeError`` when nobody reads its output any more."""
    terminal = fds[0] if tty and os.isatty(fds[0]) else fds[1] if tty and os.isatty(fds[1]) else -1
    with raw(terminal if stdin else -1), proxied(everything=proxy) as signals:
        attached = Attached(
            connection,
            out=writer(fds[1], may_end=False),
            err=writer(fds[2]),
            stdin=fds[0] if stdin else None,
            detach=parse_keys(keys) if tty else b"",
            signals=signals,
            terminal=terminal,
        )
        return attached.run()
