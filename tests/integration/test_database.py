"""A real database (the host's Redis) on a volume: what it has acknowledged outlives every container of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buildroot import add_program, make_root
from tests.conftest import needs_root, require
from tests.containers import Command, until

pytestmark = needs_root

REDIS = ["redis-server", "--port", "0", "--unixsocket", "/run/redis/socket", "--dir", "/data", "--save", ""]
REDIS += ["--appendonly", "yes", "--appendfsync", "always"]
OWNER = 999
ENOUGH = 300  # acknowledged writes until the database is killed
WRITERS = 4


class Client:
    """A connection to the database, in inline commands; what it answers, without the line ends."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(os.fspath(path))
        self._file = self._socket.makefile("rb")

    def ask(self, text: str) -> str:
        self._socket.sendall(text.encode() + b"\r\n")
        answer = self._file.readline()
        if not answer.endswith(b"\r\n"):
            raise ConnectionError("the database has gone")
        if answer.startswith(b"$") and int(answer[1:]) >= 0:
            answer = self._file.readline()
        return answer[:-2].decode()

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Life:
    """A container of the database with its volume. ``acknowledged``: the keys it has said OK to, of this life."""

    def __init__(self, command: Command, name: str, place: Path, *options: str) -> None:
        self.command, self.name, self.acknowledged = command, name, set[str]()
        self._socket = place / "socket"
        self._socket.unlink(missing_ok=True)
        command.out("run", "-d", "--name", name, "-v", "data:/data", "-v", f"{place}:/run/redis", *options, "redis")
        until(self._answers)

    def _answers(self) -> bool:
        try:
            client = self.client()
        except OSError:
            return False
        try:
            return client.ask("PING") == "+PONG"  # an error while it reads what it has
        finally:
            client.close()

    def client(self) -> Client:
        return Client(self._socket)

    def written_until_killed(self, number: int) -> None:
        """Several write at the same time; after many answers the process ``number`` is killed, 0: by ``kill``."""
        writers = [threading.Thread(target=self._write, args=(which,)) for which in range(WRITERS)]
        for writer in writers:
            writer.start()
        until(lambda: len(self.acknowledged) >= ENOUGH)
        if number:
            os.kill(number, signal.SIGKILL)
        else:
            self.command.out("kill", self.name)
        for writer in writers:
            writer.join(60)
        assert not any(writer.is_alive() for writer in writers)
        assert self.command.out("wait", self.name) == "137"

    def _write(self, which: int) -> None:
        client = self.client()
        try:
            for count in range(10**6):
                key = f"{self.name}-{which}-{count}"
                if client.ask(f"SET {key} value-of-{key}") != "+OK":
                    return
                self.acknowledged.add(key)
        except OSError:
            return
        finally:
            client.close()

    def check(self, *lives: Life) -> None:
        """Everything that was acknowledged is there; besides it at most what each writer was waiting for."""
        client = self.client()
        keys = [key for life in lives for key in life.acknowledged]
        missing = [key for key in keys if client.ask(f"GET {key}") != f"value-of-{key}"]
        assert missing == []
        assert len(keys) <= int(client.ask("DBSIZE")[1:]) <= len(keys) + WRITERS * len(lives)
        client.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the host, its data in a directory of its own user."""
    require("redis-server")
    root = make_root(tmp_path_factory.mktemp("redis") / "root")
    add_program(root, "redis-server")
    with open(root / "etc/passwd", "a") as file:
        file.write(f"redis:x:{OWNER}:{OWNER}::/data:/bin/sh\n")
    (root / "data").mkdir(mode=0o700)
    os.chown(root / "data", OWNER, OWNER)
    return root


@pytest.fixture
def command(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Iterator[Command]:
    found = Command(tmp_path / "store", FASTLAYER_DRIVER=request.param)
    found.out("import", "-q", "-c", "USER redis", "-c", f"CMD {json.dumps(REDIS)}", root, "redis")
    yield found
    found.run("rm", "-f", *found.out("ps", "-aq").split() or ["none"])


@pytest.mark.parametrize(
    ("command", "runtime"),
    [("overlay2", "native"), ("overlay2", "crun"), ("vfs", "native"), ("vfs", "runc")],
    indirect=["command"],
)
def test_what_was_acknowledged_is_there(command: Command, tmp_path: Path, runtime: str) -> None:
    """The first container is killed while it writes, the second with its monitor; the third is stopped in peace."""
    if runtime != "native":
        require(runtime)
    place = tmp_path / "run"
    place.mkdir()
    os.chown(place, OWNER, OWNER)
    options = ["--runtime", runtime, "--network", "none"]

    first = Life(command, "first", place, *options)
    assert "/data/appendonlydir" not in command.out("diff", "first")  # it is not in the layer
    first.written_until_killed(0)
    command.out("rm", "first")

    second = Life(command, "second", place, *options)
    second.check(first)
    second.written_until_killed(_monitor_of(command, "second"))
    command.out("rm", "second")

    third = Life(command, "third", place, *options)
    third.check(first, second)
    command.out("stop", "third")
    assert command.state("third")["ExitCode"] == 0
    command.out("rm", "third")
    assert command.out("volume", "ls", "-q") == "data"
    assert "sound" in command.out("store", "check")


def _monitor_of(command: Command, name: str) -> int:
    identity = command.inspect(name)["Id"]
    return int((command.root / "containers" / identity / "running").read_text().split()[1])
