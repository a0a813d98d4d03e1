"""Builds that somebody tries to fool or to break."""

from __future__ import annotations

import fcntl
import http.server
import os
import signal
import socket
import socketserver
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.builder.agents import agent_socket
from fastlayer.builder.dockerfile.mounts import RunMount
from tests.integration.test_build import Builder, outcome
from tests.shell import COMMAND

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


# ---- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["ARG", "ENV"])
def test_a_source_date_epoch_of_the_dockerfile_is_in_the_key(made: Builder, tmp_path: Path, keyword: str) -> None:
    for value in ("1", "2"):
        made.write(f"FROM busybox\n{keyword} SOURCE_DATE_EPOCH={value}\nRUN echo $SOURCE_DATE_EPOCH > /value\n")
        made.build()
        assert (made.tree(tmp_path) / "value").read_text() == f"{value}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("type=secret,id=s,mode=0400", "type=secret,id=s,mode=0444"),
        ("type=secret,id=s,uid=1", "type=secret,id=s,uid=2"),
        ("type=secret,id=s,gid=1", "type=secret,id=s,gid=2"),
        ("type=cache,target=/m,mode=0700", "type=cache,target=/m,mode=0711"),
        ("type=cache,target=/m,from=scratch", "type=cache,target=/m,from=busybox"),
        ("type=cache,target=/m,from=busybox,source=/etc", "type=cache,target=/m,from=busybox,source=/bin"),
        ("type=tmpfs,target=/m,size=65536", "type=tmpfs,target=/m,size=131072"),
    ],
)
def test_options_of_mounts_are_in_the_key(made: Builder, tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "secret").write_text("s")
    for mount, expected in ((before, "DONE"), (after, "DONE"), (after, "CACHED")):
        made.write(f"FROM busybox\nRUN --mount={mount} ls / >/listed\n")
        found = outcome(made.build("--secret", f"id=s,src={tmp_path / 'secret'}"))
        assert [word for name, word in found.items() if "RUN" in name] == [expected]


def test_a_dockerfile_that_is_too_large_for_a_memo(made: Builder) -> None:
    made.write("FROM busybox\nRUN true\n" + f"# {'x' * 1000}\n" * 1100)
    for _ in range(2):
        assert outcome(made.build())


def test_a_long_chain_of_stages(made: Builder) -> None:
    chain = "".join(f"FROM s{number} AS s{number + 1}\n" for number in range(1000))
    made.write(f"FROM scratch AS s0\n{chain}COPY Dockerfile /\n")
    assert outcome(made.build())["[s1000 2/2] COPY Dockerfile /"] == "DONE"


def test_an_error_is_one_line_that_can_be_read(made: Builder) -> None:
    made.write("FROM busybox\nENV A=1 " + "x" * 1_000_000 + "\n")
    assert len(made.build(code=1)[-1]) < 5000


@pytest.mark.parametrize("line", [b"ENV a=\xff", b"LABEL \xfe=1", b"RUN touch /ran; echo \xff"])
def test_text_that_is_not_utf_8(made: Builder, line: bytes) -> None:
    (made.context / "Dockerfile").write_bytes(b"FROM busybox\n" + line + b"\nRUN true\n")
    lines = made.build(code=1)
    assert "Dockerfile:2: " in lines[-1] and "is not UTF-8" in lines[-1]
    assert made.rows("cache", "ls") == []


def test_a_damaged_database_of_the_cache_is_only_forgotten(made: Builder) -> None:
    made.write("FROM busybox\nRUN echo 1\nCOPY file /\n", file="1")
    made.build()
    with sqlite3.connect(made.root / "metadata.db") as database:
        database.execute("UPDATE build_steps SET inputs = '{\"_details\": not json'")
    assert any(
        "not cached: no step with this" in line
        for line in made.build("--no-cache-filter", "x", "--explain", "--build-arg", "A=1", "--add-host", "a:1.2.3.4")
    )
    assert len(made.rows("cache", "why")) == 3
    made.good("cache", "prune", "-f", "--all")
    assert made.rows("cache", "ls") == []


# ---- secrets ---------------------------------------------------------------------------------------


def test_nobody_else_finds_the_way_to_a_secret(made: Builder, tmp_path: Path) -> None:
    """Not even of one that every user of the step may read."""
    (tmp_path / "secret").write_text("puma")
    made.write("FROM busybox\nRUN --mount=type=secret,id=s,mode=0444,uid=7 echo started; sleep 4567\n")
    words = [*COMMAND, "build", "--progress", "plain", "--secret", f"id=s,src={tmp_path / 'secret'}", made.context]
    process = subprocess.Popen(words, env=made.env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    next(line for line in process.stderr if line.rstrip().endswith(b"started"))
    found = [path for path in Path("/dev/shm").glob("fastlayer-secret-*/secret") if path.read_text() == "puma"]
    modes = [stat.S_IMODE(path.parent.stat().st_mode) for path in found]
    process.terminate()
    process.wait()
    process.stderr.close()
    assert modes == [0o700]
    assert not any(path.parent.exists() for path in found)


# ---- what is shown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", ["plain", "tty", "rawjson"])
def test_a_dockerfile_cannot_steer_a_terminal(made: Builder, progress: str) -> None:
    made.write('FROM busybox\nLABEL a="\x1b]0;label\x07"\nRUN echo \x1b[31mred; printf "\\033[2J\\r\\n"; false\n')
    done = made.run("build", "--progress", progress, made.context)
    assert done.returncode == 1
    shown = done.stderr.replace(b"\x1b[0m", b"")
    assert rb"\x1b[31mred" in shown or rb"\u001b[31mred" in shown
    for sequence in (b"\x1b[31mred", b"\x1b]0;", b"\x1b[2J", b"\x07"):
        assert sequence not in shown


# ---- cache mounts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["locked", "private"])
def test_a_step_does_not_wait_for_itself(made: Builder, sharing: str) -> None:
    mounts = " ".join(f"--mount=type=cache,id=x,target={target},sharing={sharing}" for target in ("/a", "/b"))
    made.write(f"FROM busybox\nRUN {mounts} echo seen >/a/file && cat /b/file\n")
    assert any(line.endswith(" seen") for line in made.build())


def test_steps_do_not_wait_for_each_other(made: Builder, tmp_path: Path) -> None:
    """One has a directory and waits for the other; most of the rest want these in another order."""
    made.write("FROM busybox\nRUN --mount=type=cache,id=b,target=/b true\n")
    made.build()
    holder = lock_of(made, "b")
    orders = [("a", "b"), *[("b", "a")] * 6]
    stages = [
        f"FROM busybox AS s{number}\nRUN --mount=type=cache,id={one},target=/1,sharing=locked "
        f"--mount=type=cache,id={two},target=/2,sharing=locked echo {number} >/done\n"
        for number, (one, two) in enumerate(orders)
    ]
    last = "".join(f"COPY --from=s{number} /done /{number}\n" for number in range(len(orders)))
    made.write("".join(stages) + "FROM scratch\n" + last)
    process = subprocess.Popen([*COMMAND, "build", "-q", made.context], env=made.env, stdout=subprocess.DEVNULL)
    wait_for(lambda: len(cache_mounts(made)) == 2)
    time.sleep(0.3)  # whoever can take a directory has taken it
    os.close(holder)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def cache_mounts(made: Builder) -> dict[str, int]:
    with sqlite3.connect(made.root / "metadata.db") as database:
        return dict(database.execute("SELECT id, number FROM cache_mounts"))


def lock_of(made: Builder, identity: str) -> int:
    """Holds the directory of that id."""
    place = made.root / "cache/mounts" / str(cache_mounts(made)[identity]) / "lock"
    fd = os.open(place, os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


# ---- agents ----------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """Answers every connection with what came, in capitals. Only root may connect to it."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(100):
                self.request.sendall(data.upper())

    path = tmp_path / "agent.sock"
    with socketserver.ThreadingUnixStreamServer(os.fspath(path), Answer) as server:
        path.chmod(0o600)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("driver", "isolation"), [("overlay2", "native"), ("vfs", "chroot")])
def test_an_agent_is_for_whom_the_mount_says(
    tmp_path: Path, root: Path, agent: Path, driver: str, isolation: str
) -> None:
    made = Builder(tmp_path, root, driver)
    made.write(
        "FROM busybox\nUSER 1000:1001\nRUN --mount=type=ssh,uid=1000,gid=1001,mode=0640 "
        "stat -c %u:%g:%a $SSH_AUTH_SOCK; test -w $SSH_AUTH_SOCK\n"
    )
    lines = made.build("--isolation", isolation, "--ssh", f"default={agent}")
    assert any(line.endswith(" 1000:1001:640") for line in lines), lines
    made.write("FROM busybox\nUSER 1000\nRUN --mount=type=ssh test -w $SSH_AUTH_SOCK\n")
    made.build("--isolation", isolation, "--ssh", f"default={agent}", code=1)
    assert not list(made.root.glob("cache/work/*"))


def test_what_goes_to_an_agent_and_back(agent: Path, tmp_path: Path) -> None:
    place = tmp_path / ("long" * 40)
    place.mkdir()
    with ExitStack() as ends:
        path = agent_socket(os.fspath(agent), RunMount("ssh", mode=0o666), place, ends)
        clients = [ends.enter_context(connected(path)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.sendall(b"question %d" % number + b"x" * 50)
        assert [received(client, 60) for client in clients] == [b"QUESTION %d" % n + b"X" * 50 for n in range(3)]
        clients[0].shutdown(socket.SHUT_WR)
        assert clients[0].recv(10) == b""
        with connected(path) as other:
            other.sendall(b"y")
            assert other.recv(10) == b"Y"
    with pytest.raises(OSError, match="refused"):
        connected(path)


def connected(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        found.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    except OSError:
        found.close()
        raise
    finally:
        os.close(directory)
    return found


def received(client: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += client.recv(length)
    return data


def test_no_step_sees_a_key(made: Builder, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    made.write("FROM busybox\nRUN --mount=type=ssh cat $SSH_AUTH_SOCK\n")
    lines = made.build("--ssh", f"default={tmp_path / 'id_rsa'}", code=1)
    assert "id_rsa: is no socket" in lines[-1]
    assert not any("PRIVATE KEY" in line for line in lines)
    assert "is not there" in made.build("--ssh", f"default={tmp_path / 'none'}", code=1)[-1]


# ---- what never comes ------------------------------------------------------------------------------


@pytest.fixture
def trickle() -> Iterator[str]:
    """The address of a server that gives a byte now and then, without end."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not ended.wait(0.1):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            pass

    ended = threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        ended.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("source", ["{}/file", "{}/repository.git"])
def test_a_stage_that_waits_for_a_server_ends_with_the_build(made: Builder, trickle: str, source: str) -> None:
    address = source.format(trickle)
    made.write(
        f"FROM scratch AS a\nADD {address} /x/\nFROM busybox AS b\nRUN sleep 2; false\n"
        "FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
    )
    command = [*COMMAND, "build", "--progress", "plain", made.context]
    done = subprocess.run(command, env=made.env, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith(b"RUN sleep 2; false: exit status 1\n")
    process = subprocess.Popen(command, env=made.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert not subprocess.run(["pgrep", "-f", address], capture_output=True).stdout
    assert not list(made.root.glob("cache/work/*"))
