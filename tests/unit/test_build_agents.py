"""The socket through which a step talks to an agent."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.builder.agents import agent_socket
from fastlayer.builder.dockerfile.mounts import RunMount
from fastlayer.errors import DockerfileError
from tests.conftest import needs_root


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """One that says what it hears, in capitals."""
    path = tmp_path / "real"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        threading.Thread(target=_shout, args=(listening,), daemon=True).start()
        yield path
        listening.shutdown(socket.SHUT_RDWR)


def _shout(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1000):
            connection.sendall(data.upper())


def said(path: str, data: bytes) -> bytes:
    """The answer, as long as the question."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(data)
        answer = b""
        while len(answer) < len(data):
            answer += connection.recv(1 << 20)
        return answer


def place(tmp_path: Path, name: str = "place") -> Path:
    made = tmp_path / name
    made.mkdir(parents=True)
    return made


def test_what_is_said_is_passed_on(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends:
        path = agent_socket(os.fspath(agent), RunMount("ssh"), place(tmp_path), ends)
        assert said(path, b"hello") == b"HELLO"
        assert said(path, b"x" * 300_000) == b"X" * 300_000
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_more_connections_than_are_served_at_once(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends:
        path = agent_socket(os.fspath(agent), RunMount("ssh"), place(tmp_path), ends)
        silent = [ends.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for connection in silent:
            connection.connect(path)
        for connection in silent:
            connection.close()
        assert said(path, b"later") == b"LATER"


def test_who_has_said_all_is_answered(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(agent_socket(os.fspath(agent), RunMount("ssh"), place(tmp_path), ends))
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read() == b"HELLO"


def test_it_ends_with_the_step(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends:
        path = agent_socket(os.fspath(agent), RunMount("ssh"), place(tmp_path), ends)
    with pytest.raises(OSError):
        said(path, b"hello")


def test_a_place_that_is_longer_than_an_address(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends:
        path = agent_socket(os.fspath(agent), RunMount("ssh"), place(tmp_path, f"{'a' * 90}/{'b' * 90}"), ends)
        assert stat.S_ISSOCK(os.stat(path).st_mode)


@needs_root
def test_it_belongs_to_whom_the_mount_says(tmp_path: Path, agent: Path) -> None:
    with ExitStack() as ends:
        mount = RunMount("ssh", mode=0o660, uid=1000, gid=50)
        status = os.stat(agent_socket(os.fspath(agent), mount, place(tmp_path), ends))
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 1000, 50)


def test_an_agent_that_takes_no_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlayer.builder.agents._PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first, ExitStack() as ends:
        listening.bind(os.fspath(tmp_path / "it"))
        listening.listen(0)
        first.connect(os.fspath(tmp_path / "it"))
        with pytest.raises(DockerfileError, match="no agent answers"):
            agent_socket(os.fspath(tmp_path / "it"), RunMount("ssh"), place(tmp_path), ends)


@pytest.mark.parametrize("what", ["nothing", "file", "dead"])
def test_what_is_no_agent(tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    if what == "file":
        path.write_text("no socket")
    if what == "dead":
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(os.fspath(path))
    with (
        ExitStack() as ends,
        pytest.raises(DockerfileError, match=r"--ssh: .*: (is not there|is no socket|no agent answers)"),
    ):
        agent_socket(os.fspath(path), RunMount("ssh"), place(tmp_path), ends)
