"""Talking to the monitor of a container: the messages of csrc/fl_monitor.h."""

from __future__ import annotations

import _socket
import errno
import os
import struct
from pathlib import Path

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError, StorageError

CHUNK = 32768  # bytes of data in a message
_ANSWER_SECONDS = 10.0


class Socket(_socket.socket):
    """A socket as the interpreter has it: to import ``socket`` takes longer than to start a container."""

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _new(flags: int = 0) -> Socket:
    return Socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | flags)


class Ended(NamedTuple):
    """How it ended: the exit status, 128 + n when signal n ended it."""

    status: int
    oom_killed: bool


def listen(directory: int) -> Socket:
    """The socket ``attach`` in an open directory, for a monitor to answer on."""
    found = _new(_socket.SOCK_NONBLOCK)
    try:
        found.bind(f"/proc/self/fd/{directory}/attach")  # a path of any length has this one
        found.listen(64)
    except OSError as exc:
        found.close()
        raise StorageError(exc.errno or 0, "cannot make the container's socket", "attach") from exc
    return found


def connect(directory: Path, name: str) -> Socket:
    """A connection to its monitor. Raises ``RunError`` when it does not run."""
    found = _new()
    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found.connect(f"/proc/self/fd/{place}/attach")
        finally:
            os.close(place)
    except OSError as exc:
        found.close()
        if exc.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise RunError(f"container {name} is not running: `fastlayer start {name}` first") from None
        raise StorageError(exc.errno or 0, "cannot reach the monitor of the container", name) from exc
    return found


def pair() -> tuple[Socket, Socket]:
    """(ours, the monitor's): attached from the beginning."""
    return _pair(_socket.SOCK_SEQPACKET)


def stream_pair() -> tuple[Socket, Socket]:
    """One that the master of a terminal can come through."""
    return _pair(_socket.SOCK_STREAM)


def _pair(kind: int) -> tuple[Socket, Socket]:
    one, other = _socket.socketpair(_socket.AF_UNIX, kind)
    return Socket(fileno=one.detach()), Socket(fileno=other.detach())


def subscribe(connection: Socket) -> None:
    connection.send(b"A")


def resize(connection: Socket, rows: int, columns: int) -> None:
    connection.send(b"w" + struct.pack("=HH", rows & 0xFFFF, columns & 0xFFFF))


def ended_of(message: bytes) -> Ended:
    """An ``x`` message."""
    status, oom = struct.unpack("=ii", message[1:9])
    return Ended(status, bool(oom))


def kill(directory: Path, name: str, number: int) -> None:
    """Sends a signal to the first program of a container. Raises ``RunError`` when it does not run."""
    with connect(directory, name) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.send(b"s" + bytes([number]))
            answer = connection.recv(64)
        except OSError:
            answer = b""
    if answer[:1] != b"k" or len(answer) < 5:  # it has just ended
        raise RunError(f"container {name} is not running: it has just ended")
    code = struct.unpack("=i", answer[1:5])[0]
    if code == errno.ESRCH:
        raise RunError(f"container {name} is not running: it has just ended")
    if code:
        raise RunError(f"container {name}: cannot be sent signal {number}: {os.strerror(code)}")
