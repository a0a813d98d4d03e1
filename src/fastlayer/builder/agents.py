"""SSH agents for steps: a socket of its own for each mount, and what goes through it is passed on to the agent.

So the socket has the owner and mode that the mount asks for, wherever the agent's own one is, and goes with the step.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer.errors import DockerfileError, StorageError, show_path
from fastlayer.running.idmaps import give

if TYPE_CHECKING:
    from pathlib import Path

    from fastlayer.builder.dockerfile.mounts import RunMount

_NAME = "agent"
_PIECE = 1 << 16
_PATIENCE = 10.0  # seconds, for an agent that takes no connections
_WAITING = 128  # connections that have not been taken yet
_MOST = 64  # connections at the same time: one more waits


def agent_socket(agent: str, mount: RunMount, place: Path, ends: ExitStack) -> str:
    """A socket in the empty directory ``place`` that leads to the one at ``agent`` until ``ends`` does; its path.

    Raises ``DockerfileError`` for what is no socket (a key, say, which no step is to see), ``StorageError``.
    """
    check_agent(agent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    ends.callback(listener.close)
    uid, gid, mode = mount.uid or 0, mount.gid or 0, 0o600 if mount.mode is None else mount.mode
    path = os.path.join(place, _NAME)
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{_NAME}")  # the name of a socket has 107 bytes at most
        if os.geteuid() == 0:
            give(path, uid, gid)
        os.chmod(path, mode)
    except OSError as exc:
        raise StorageError(exc.errno or 0, f"make the socket of an agent for {uid}:{gid}", path) from exc
    finally:
        os.close(directory)
    listener.listen(_WAITING)
    ends.enter_context(_Passing(listener, agent))
    return path


def check_agent(agent: str) -> None:
    """Raises ``DockerfileError`` when no agent answers at that path."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(agent).st_mode)
    except (OSError, ValueError):
        raise DockerfileError(f"--ssh: {show_path(agent)}: is not there: give the socket of an agent") from None
    if not is_socket:
        raise DockerfileError(
            f"--ssh: {show_path(agent)}: is no socket: give that of an agent (eval $(ssh-agent); ssh-add KEY)"
        )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
            trial.settimeout(_PATIENCE)
            trial.connect(agent)
    except OSError as exc:
        reason = exc.strerror or exc
        raise DockerfileError(f"--ssh: {show_path(agent)}: no agent answers ({reason}): start it again") from exc


class _Passing:
    """Takes connections and passes on what comes through them, both ways, until the block ends."""

    def __init__(self, listener: socket.socket, agent: str) -> None:
        self._listener = listener
        self._agent = agent
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = False
        self._free = threading.Semaphore(_MOST)
        self._thread = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._ended = True
            for each in self._open:
                _shut(each)
        _shut(self._listener)  # which wakes who waits for a connection
        self._thread.join()

    def _take(self) -> None:
        while True:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                agent.connect(self._agent)
                if self._kept(client, agent):
                    back = threading.Thread(target=_copy, args=(agent, client), daemon=True)
                    back.start()
                    _copy(client, agent)
                    back.join()
                self._forget(client, agent)
        except OSError:
            pass  # the step sees that nobody answers
        finally:
            self._free.release()

    def _kept(self, *both: socket.socket) -> bool:
        with self._lock:
            self._open.update(both)
            return not self._ended

    def _forget(self, *both: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(both)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(_PIECE):
            target.sendall(data)
    except OSError:
        pass
    for each, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        _shut(each, how)


def _shut(which: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    try:
        which.shutdown(how)
    except OSError:
        pass  # the other side has gone
