"""The tests' own proxy does what it says: what is proved with it counts on that."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.proxy import Change, HttpFaults, Proxy, ProxyProcess
from tests.registry_server import RegistryServer


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(client: socket.socket) -> None:
            with client, suppress(OSError):
                while data := client.recv(1 << 16):
                    client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def talk(port: int, data: bytes) -> bytes:
    """All that comes back."""
    with socket.create_connection(("127.0.0.1", port)) as client:

        def send() -> None:
            with suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        found = b""
        try:
            while piece := client.recv(1 << 16):
                found += piece
        finally:
            sender.join()
        return found


def test_bytes_pass_and_are_counted(echo: int) -> None:
    data = bytes(range(256)) * 8000
    with Proxy(echo) as proxy:
        assert talk(proxy.port, data) == data
        with proxy.counted() as since:
            assert talk(proxy.port, b"abc") == b"abc"
            assert since() == (3, 3)
        assert (proxy.up, proxy.down, proxy.connections, proxy.broken) == (len(data) + 3, len(data) + 3, 2, 0)


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_reset_at_a_byte(echo: int, at: int) -> None:
    with Proxy(echo) as proxy:
        proxy.cut(at)
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"0123456789")
            found = b""
            with pytest.raises(ConnectionResetError):
                while piece := client.recv(1):
                    found += piece
        assert len(found) <= at and proxy.down == at and proxy.broken == 1  # a reset may overtake bytes
        assert talk(proxy.port, b"0123456789") == b"0123456789"


def test_an_end_at_a_byte(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.cut(4, how="close", times=2)
        for _ in range(2):
            assert talk(proxy.port, b"0123456789") == b"0123"
        assert talk(proxy.port, b"0123456789") == b"0123456789" and proxy.broken == 2


def test_a_cut_of_what_the_client_sends_and_of_all(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.cut(3, "up", "close")
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"0123456789")
            proxy.wait(lambda: proxy.broken == 1)
        assert proxy.up == 3
    with Proxy(echo) as proxy:
        proxy.cut(15, "any", "close")
        assert talk(proxy.port, b"0123456789") == b"01234"
        assert (proxy.up, proxy.down) == (10, 5)


def test_a_stall(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.cut(4, how="stall")
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"0123456789")
            proxy.wait(lambda: proxy.stalled == 1)
            assert client.recv(10) == b"0123" and proxy.down == 4
            proxy.clear()
            assert client.recv(10) == b"456789"


def test_nobody_is_let_in(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.accepting = False
        with socket.create_connection(("127.0.0.1", proxy.port)) as client, pytest.raises(ConnectionResetError):
            client.recv(1)
        proxy.accepting = True
        assert talk(proxy.port, b"a") == b"a"
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"a")
            assert client.recv(1) == b"a"
            proxy.drop_all()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_long_way_and_a_narrow_one(echo: int) -> None:
    """A round trip takes so much longer, however much is under way; a connection so long for its bytes."""
    data = bytes(400_000)
    with Proxy(echo, delay=0.2) as proxy:
        begin = time.monotonic()
        assert talk(proxy.port, data) == data
        assert time.monotonic() - begin >= 0.2
    with ProxyProcess(echo, rate=2_000_000) as narrow:
        begin = time.monotonic()
        assert talk(narrow.port, data) == data
        assert time.monotonic() - begin >= 0.19
        assert narrow.counts() == (400_000, 400_000, 1)


# ---- HTTP --------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        found.add_blob("a", b"0123456789")
        yield found


def ask(port: int, method: str = "GET", path: str = "/v2/", body: bytes | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as client:
        client.request(method, path, body)
        answer = client.getresponse()
        return answer.status, answer.read()


def test_answers_instead_of_the_registrys(server: RegistryServer) -> None:
    with HttpFaults(int(server.url.rpartition(":")[2])) as faults:
        faults.answer("GET /v2/$", 503, body=b"later", times=1, skip=1)
        assert [ask(faults.port)[0] for _ in range(3)] == [200, 503, 200]
        assert faults.calls("GET") == ["GET /v2/"] * 3
        assert faults.statuses == [("GET /v2/", 200), ("GET /v2/", 503), ("GET /v2/", 200)]
        faults.redirect_in_circles("/v2/a")
        assert ask(faults.port, "POST", "/v2/a/blobs/uploads/", b"12345")[0] == 307
        faults.clear()
        assert ask(faults.port, "POST", "/v2/a/blobs/uploads/", b"")[0] == 202


def test_answers_that_are_changed(server: RegistryServer) -> None:
    ((_, digest),) = server.blobs
    path = f"/v2/a/blobs/{digest}"
    with HttpFaults(int(server.url.rpartition(":")[2])) as faults:
        assert ask(faults.port, path=path) == (200, b"0123456789")
        assert ask(faults.port, "HEAD", path) == (200, b"")
        faults.change(path, Change(flip=-1), times=1)
        faults.change(path, Change(body=b"x", status=206, headers={"Docker-Content-Digest": None}), times=1)
        assert ask(faults.port, path=path) == (200, b"012345678" + bytes([ord("9") ^ 1]))
        assert ask(faults.port, path=path) == (206, b"x")
        faults.change(path, Change(cut=4), times=1)
        faults.change(path, Change(length=20), times=1)
        for size in (4, 10):
            with pytest.raises(http.client.IncompleteRead) as caught:
                ask(faults.port, path=path)
            assert len(caught.value.partial) == size
