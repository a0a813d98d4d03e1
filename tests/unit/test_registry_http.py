"""Connections: bodies both ways, limits, redirects, proxies, TLS, and what goes wrong on the way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from importlib.util import find_spec
from pathlib import Path

import pytest

from fastlayer.errors import RegistryError, UsageError
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.heads import in_time
from fastlayer.registry.http import Body, Budget, Connections, Endpoint, body_of
from fastlayer.registry.lines import hide, one_line, shown_url
from fastlayer.registry.origins import follow, is_loopback, origin_of, require_tls, with_query
from fastlayer.registry.proxies import proxy_for
from tests.certificates import Authority
from tests.registry_server import RegistryServer, forward_proxy

QUICK = Timeouts(connect=2.0, read=0.15, finish=2.0, floor=1 << 20, patience=0.1)
BLOB = bytes(range(256)) * 4000


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def other() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def connections(server: RegistryServer) -> Iterator[Connections]:
    with Connections(Endpoint(server.url), budget=Budget(2), environ={}) as found:
        yield found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def put(server: RegistryServer, data: bytes = BLOB) -> str:
    return f"{server.url}/v2/a/blobs/{server.add_blob('a', data)}"


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(RegistryError) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


# ---- bodies --------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_and_its_connection_is_kept(server: RegistryServer, connections: Connections) -> None:
    url = put(server)
    for _ in range(3):
        with connections.request("GET", url) as answer:
            pieces = list(answer.pieces(10_000))
            assert answer.status == 200 and answer.length == len(BLOB) == answer.received
        assert b"".join(pieces) == BLOB and len(pieces) > 50
    assert server.connections == 1
    assert server.last("GET").headers["User-Agent"].startswith("fastlayer/")
    assert server.last("GET").headers["Accept-Encoding"] == "identity"


def test_a_body_that_is_not_wanted_any_more_breaks_the_connection(
    server: RegistryServer, connections: Connections
) -> None:
    url = put(server)
    for _ in range(5):  # more than the budget
        with connections.request("GET", url) as answer:
            assert answer.read(10)
        assert answer.read() == b""


@pytest.mark.parametrize("size", [len(BLOB), None])
def test_a_body_is_sent_in_pieces(server: RegistryServer, connections: Connections, size: int | None) -> None:
    parts = [BLOB[:1], memoryview(BLOB)[1:700_000], BLOB[700_000:]]
    body = Body(lambda: iter(parts), size)
    with connections.request("PUT", server.url + "/v2/nothing", body=body) as answer:
        assert answer.status == 404
    seen = server.last("PUT")
    assert seen.body == BLOB and seen.headers.get("Content-Length") == (str(size) if size else None)


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
def test_a_body_of_another_size_than_announced(server: RegistryServer, connections: Connections, size: int) -> None:
    body = Body(lambda: (BLOB,), size)
    assert "it has changed" in refused(lambda: connections.request("PUT", server.url + "/v2/x", body=body))
    assert connections.request("GET", server.url + "/v2/").read_all(10) == b"{}"


def test_errors_of_a_source_are_its_own(server: RegistryServer, connections: Connections) -> None:
    def source() -> Iterator[bytes]:
        yield b"first"
        raise FileNotFoundError(2, "gone")

    for _ in range(4):
        with pytest.raises(FileNotFoundError):
            connections.request("PUT", server.url + "/v2/x", body=Body(source, 100))


def test_a_server_that_answers_before_it_has_read_all(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch")
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 20):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        body = Body(lambda: (bytes(1 << 20) for _ in range(16)), 16 << 20)
        with connections.request("PUT", f"http://127.0.0.1:{listener.getsockname()[1]}/", body=body) as answer:
            assert (answer.status, answer.read_all(100)) == (413, b"much")
        thread.join()


def test_what_is_too_much_is_refused_or_cut(server: RegistryServer, connections: Connections) -> None:
    url = put(server)
    assert "more than 1000 bytes" in refused(lambda: connections.request("GET", url).read_all(1000))
    assert connections.request("GET", url).read_all(1000, cut=True) == BLOB[:1000]
    answer = connections.request("GET", url)
    answer.keep(300, cut=True)
    assert answer.read(200) + answer.read() == BLOB[:300] and answer.read() == b""


# ---- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 65_537, len(BLOB) - 1])
def test_an_answer_that_is_cut(server: RegistryServer, connections: Connections, cut: int, reset: bool) -> None:
    url = put(server)
    server.fail("GET", cut=cut, reset=reset)
    with pytest.raises(RegistryError) as caught:
        connections.request("GET", url).read_all(1 << 30)
    assert caught.value.transient and caught.value.status == 0 and "\n" not in str(caught.value)
    server.faults.clear()
    for _ in range(3):
        assert connections.request("GET", url).read_all(1 << 30) == BLOB


def test_nobody_there(server: RegistryServer) -> None:
    url = server.url
    server.close()
    connections = Connections(Endpoint(url), environ={})
    text = refused(lambda: connections.request("GET", url + "/v2/"))
    assert text == f"{url[7:]}: Connection refused: see whether it runs, and try again"
    connections = Connections(Endpoint("https://registry.invalid"), environ={})
    text = refused(lambda: connections.request("GET", "https://registry.invalid/v2/"))
    assert text.startswith("registry.invalid: no such host")


def test_no_answer_in_time(server: RegistryServer) -> None:
    connections = Connections(Endpoint(server.url), timeouts=QUICK, environ={})
    server.fail("/v2/", wait=0.2)
    assert "nothing came for 0.15 s" in refused(lambda: connections.request("GET", server.url + "/v2/"))
    with connections.request("GET", server.url + "/v2/", seconds=5.0) as answer:
        assert answer.status == 200


def test_a_drip_is_dead(server: RegistryServer) -> None:
    url = put(server)
    server.fail("GET", drip=0.02)
    connections = Connections(Endpoint(server.url), timeouts=QUICK, environ={})
    assert "less than 1048576 bytes a second" in refused(lambda: connections.request("GET", url).read_all(1 << 30))


@pytest.mark.parametrize(
    ("piece", "line"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "nothing came for 0.15 s"),
        (b"X", "nothing came for 0.15 s"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, "Message too long"),
    ],
)
def test_a_head_without_end(piece: bytes, line: str) -> None:
    """Each piece comes in time; all of it does not, or is too much."""
    timeouts = QUICK._replace(read=0.15 if len(piece) < 100 else 10.0)
    connections = Connections(Endpoint("http://127.0.0.1"), timeouts=timeouts, environ={})
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.recv(1000)
                for _ in range(500):
                    client.sendall(piece)
                    time.sleep(0.01 if len(piece) < 100 else 0)

        threading.Thread(target=serve, daemon=True).start()
        assert line in refused(lambda: connections.request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/"))


def test_the_pools_of_a_proxy_stay_its_own() -> None:
    """A SOCKS proxy connects in another way; its answers have to come in time, too."""

    class Connection:
        response_class = HTTPResponse

    class Pool:
        ConnectionCls = Connection

    found = in_time({"http": Pool})["http"]
    assert issubclass(found, Pool) and issubclass(found.ConnectionCls, Connection)
    assert found.ConnectionCls.response_class is not HTTPResponse
    assert issubclass(found.ConnectionCls.response_class, HTTPResponse)


def test_trailers_without_end() -> None:
    connections = Connections(Endpoint("http://127.0.0.1"), timeouts=QUICK._replace(read=5.0), environ={})
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.recv(1000)
                client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
                while True:
                    client.sendall(b"a: b\r\n" * 50)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        refused(lambda: connections.request("GET", url).read_all(100))


def test_a_head_in_pieces_with_a_body_that_takes_longer() -> None:
    connections = Connections(Endpoint("http://127.0.0.1"), timeouts=QUICK._replace(floor=1), environ={})
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                for piece in (b"HTTP/1.1 100 Continue\r\n\r\nHT", b"TP/1.1 200 OK\r\nContent-Le", b"ngth: 40\r\n\r\n"):
                    client.sendall(piece)
                    time.sleep(0.02)
                for _ in range(4):
                    client.sendall(b"0123456789")
                    time.sleep(0.1)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert connections.request("GET", url).read_all(100) == b"0123456789" * 4


def test_who_reads_slowly_is_not_dead(server: RegistryServer) -> None:
    url = put(server)
    connections = Connections(Endpoint(server.url), timeouts=QUICK, environ={})
    with connections.request("GET", url) as answer:
        for _ in range(3):
            answer.read(10)
            time.sleep(0.05)


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 500, b"\0\0", b""])
def test_nonsense(connections: Connections, said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                for _ in range(2):
                    client, _ = listener.accept()
                    with client:
                        client.recv(1000)
                        client.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        refused(lambda: connections.request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/"))


def test_a_kept_connection_that_the_server_closed(connections: Connections) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gone = threading.Event()

        def serve() -> None:
            for number in range(3):
                client, _ = listener.accept()
                with client:
                    client.recv(1000)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
                    if client.recv(1000):  # it had been kept: no answer to this one
                        continue
            gone.set()

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert [connections.request("GET", url).read_all(10) for _ in range(3)] == [b"0", b"1", b"2"]


def test_the_budget_is_given_back(server: RegistryServer) -> None:
    budget = Budget(1)
    connections = Connections(Endpoint(server.url), budget=budget, timeouts=QUICK, environ={})
    url = put(server)
    server.fail("/cut", cut=3)
    for _ in range(3):
        connections.request("GET", url).close()
        connections.request("GET", url).read_all(1 << 30)
        connections.request("HEAD", url).read_all(10)
        refused(lambda: connections.request("GET", f"{url}/cut").read_all(100))
        refused(lambda: connections.request("GET", "http://127.0.0.1:1/"))
        with pytest.raises(ZeroDivisionError), connections.request("GET", url):
            raise ZeroDivisionError
    assert budget._free.acquire(timeout=0)
    with pytest.raises(UsageError):
        Budget(0)


def test_threads_share_the_budget(server: RegistryServer) -> None:
    url = put(server)
    with Connections(Endpoint(server.url), budget=Budget(3), environ={}) as connections:
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: found.append(connections.request("GET", url).read_all(1 << 30)))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [BLOB] * 12 and server.connections <= 3


@pytest.mark.parametrize("secure", [False, True])
def test_giving_up_ends_who_waits(authority: Authority, secure: bool) -> None:
    with RegistryServer(tls=authority.server() if secure else None) as server:
        url = put(server)
        server.fail("GET", drip=0.15)
        connections = Connections(Endpoint(server.url, ca_files=(str(authority.ca),)), environ={})
        answers = [connections.request("GET", url) for _ in range(2)]
        found: list[str] = []
        threads = [
            threading.Thread(target=lambda one=answer: found.append(refused(lambda: one.read_all(1 << 30))))
            for answer in answers
        ]
        for thread in threads:
            thread.start()
        connections.give_up()
        for thread in threads:
            thread.join(5)
        assert found == [f"{server.host}: given up"] * 2
        assert "given up" in refused(lambda: connections.request("GET", url))
        assert not connections._answers


def test_a_connection_that_ends_at_every_byte(connections: Connections) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\nETag: x\r\n\r\nthe bytes"
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        said = b""

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(1000)
                        client.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for end in range(len(whole)):
            said = whole[:end]
            try:
                found = connections.request("GET", url).read_all(100)
            except RegistryError as exc:
                assert "\n" not in str(exc)
            else:  # without its Content-Length it ends where the connection does
                assert b"Content-Length: 9\r\n" not in said and len(found) < 9
        said = whole
        assert connections.request("GET", url).read_all(100) == b"the bytes"


# ---- redirects -----------------------------------------------------------------------------------------------


def test_credentials_stay_with_their_origin(
    server: RegistryServer, other: RegistryServer, connections: Connections
) -> None:
    url = put(server)
    put(other)
    server.blobs_at = other.url
    headers = {"Authorization": "Bearer t0ken", "authorization": "Basic x", "Range": "bytes=5-"}
    with connections.request("GET", url, headers=headers) as answer:
        assert answer.read_all(1 << 30) == BLOB[5:] and answer.foreign
        assert answer.url.startswith(other.url)
    assert server.last("GET").headers["Authorization"]
    assert "Authorization" not in other.last("GET").headers and other.last("GET").headers["Range"] == "bytes=5-"


def test_credentials_do_not_come_back(server: RegistryServer, other: RegistryServer, connections: Connections) -> None:
    server.fail("/first", status=307, headers={"Location": other.url + "/second"})
    other.fail("/second", status=302, headers={"Location": server.url + "/v2/"})
    with connections.request("GET", server.url + "/first", headers={"Authorization": "x"}) as answer:
        assert answer.status == 200 and not answer.foreign
    assert "Authorization" not in server.last("/v2/").headers


def test_within_an_origin_they_go_along(server: RegistryServer, connections: Connections) -> None:
    server.fail("/first", status=308, headers={"Location": "/v2/"})
    with connections.request("GET", server.url + "/first", headers={"Authorization": "x"}) as answer:
        assert answer.status == 200 and not answer.foreign
    assert server.last("/v2/").headers["Authorization"] == "x"


def test_circles_and_long_ways(server: RegistryServer, connections: Connections) -> None:
    server.fail("/a", status=302, headers={"Location": "/b"})
    server.fail("/b", status=302, headers={"Location": "/a?"})
    assert "in a circle" in refused(lambda: connections.request("GET", server.url + "/b"))
    server.faults.clear()
    for number in range(12):
        server.fail(f"/n{number}$", status=302, headers={"Location": f"/n{number + 1}"})
    assert "more than 10 redirects" in refused(lambda: connections.request("GET", server.url + "/n0"))


@pytest.mark.parametrize("to", ["http://", "ftp://a/b", "http://[::1", "//", "javascript:x", "http://a:99999/"])
def test_redirects_to_nowhere(server: RegistryServer, connections: Connections, to: str) -> None:
    server.fail("/first", status=302, headers={"Location": to})
    refused(lambda: connections.request("GET", server.url + "/first"))


def test_redirects_of_bodies(server: RegistryServer, connections: Connections) -> None:
    server.fail("PUT /first", status=307, headers={"Location": "/second"})
    server.fail("PUT /third", status=302, headers={"Location": "/second"})
    assert connections.request("PUT", server.url + "/first", body=body_of(b"abc")).status == 404
    assert server.last("/second").body == b"abc"
    assert "no way to take a PUT" in refused(lambda: connections.request("PUT", server.url + "/third"))
    once = Body(lambda: (b"abc",), 3, again=False)
    assert "sent already" in refused(lambda: connections.request("PUT", server.url + "/first", body=once))


def test_signatures_of_addresses_are_not_shown(server: RegistryServer, connections: Connections) -> None:
    server.fail("/first", status=302, headers={"Location": "http://me:pw@example.com/x?X-Amz-Signature=s3cret"})
    text = refused(lambda: connections.request("GET", server.url + "/first"))
    assert "s3cret" not in text and "pw@" not in text and "example.com/x" in text


def test_a_host_that_calls_itself_http_behind_tls_stays_at_https() -> None:
    assert follow("https://a/v2/x", "http://a/v2/up?_state=1") == "https://a/v2/up?_state=1"
    assert follow("https://a:5000/v2/x", "http://a/v2/up") == "https://a:5000/v2/up"
    assert follow("https://a/v2/x", "http://a:80/v2/up") == "http://a:80/v2/up"
    assert follow("https://a/v2/x", "http://b/v2/up") == "http://b/v2/up"
    assert follow("https://a/v2/x", " /a b\u00e9%20?x=[1]\n&y=z ") == "https://a/a%20b%E9%20?x=[1]%0A&y=z"
    assert follow("https://a/v2/x", "up?a=b#c") == "https://a/v2/up?a=b"
    assert with_query("https://a/u?_state=x%3D", "digest=d") == "https://a/u?_state=x%3D&digest=d"
    assert with_query("https://a/u", "digest=d") == "https://a/u?digest=d"


# ---- TLS -----------------------------------------------------------------------------------------------------


def test_tls(authority: Authority, other: RegistryServer) -> None:
    with RegistryServer(tls=authority.server()) as server:

        def ping(url: str = "", **settings: object) -> int:
            endpoint = Endpoint(server.url, **settings)  # type: ignore[arg-type]
            with Connections(endpoint, environ={}, timeouts=QUICK) as connections:
                return connections.request("GET", url or server.url + "/v2/").status

        assert ping(ca_files=(str(authority.ca),)) == 200
        text = refused(ping)
        assert "its certificate is not to be trusted" in text and f"certs.d/{server.host}/ca.crt" in text
        assert ping(insecure=True) == 200
        server.fail("/first", status=302, headers={"Location": other.url + "/v2/"})
        assert "not encrypted" in refused(lambda: ping(server.url + "/first", ca_files=(str(authority.ca),)))
        assert ping(server.url + "/first", insecure=True) == 200
    with pytest.raises(UsageError, match=r"nothing\.crt: cannot be used for .*: No such file"):
        ping(ca_files=("/nothing.crt",))


def test_authorities_are_read_where_they_count(
    server: RegistryServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the system's takes longer than a small answer."""
    monkeypatch.setattr("ssl.create_default_context", lambda: pytest.fail("they are read"))
    with Connections(Endpoint(server.url), environ={}) as connections:
        assert connections.request("GET", server.url + "/v2/").status == 200
    with RegistryServer(tls=authority.server()) as secure:
        insecure = Endpoint(secure.url, True)
        with Connections(insecure, environ={}) as connections:
            assert connections.request("GET", secure.url + "/v2/").status == 200


def test_plain_where_tls_is_expected(server: RegistryServer) -> None:
    url = server.url.replace("http:", "https:")
    with Connections(Endpoint(url), environ={}) as connections:
        assert "speaks no TLS" in refused(lambda: connections.request("GET", url + "/v2/"))


def test_client_certificates(authority: Authority) -> None:
    certificate, key = authority.certificate("client")
    with RegistryServer(tls=authority.server(wants_client=True)) as server:
        endpoint = Endpoint(server.url, ca_files=(str(authority.ca),), client_cert=(str(certificate), str(key)))
        with Connections(endpoint, environ={}) as connections:
            assert connections.request("GET", server.url + "/v2/").status == 200
            elsewhere = server.url.replace("localhost", "127.0.0.1")  # it is for the endpoint only
            refused(lambda: connections.request("GET", elsewhere + "/v2/"))
        with Connections(endpoint._replace(client_cert=None), environ={}) as connections:
            refused(lambda: connections.request("GET", server.url + "/v2/"))
        bad = endpoint._replace(client_cert=(str(certificate), str(authority.ca)))
        with Connections(bad, environ={}) as connections, pytest.raises(UsageError, match="cannot be used"):
            connections.request("GET", server.url + "/v2/")


def test_plain_http_is_for_this_machine_or_for_those_who_say_so() -> None:
    require_tls("http://localhost:5000", False)
    require_tls("http://[::1]:5000", False)
    require_tls("http://example.com", True)
    with pytest.raises(RegistryError, match="plain HTTP"):
        Connections(Endpoint("http://example.com"), environ={})
    for bad in ("example.com", "ftp://a", "http://", "http://a b/", "https://\u00e4/", "http://a:x/", "http://a\n/"):
        with pytest.raises(RegistryError, match="not an http or https address"):
            origin_of(bad)
    assert origin_of("https://A/") == origin_of("https://a:443/x") != origin_of("http://a/")
    assert is_loopback("127.1.2.3") and not is_loopback("localhost.example.com")


# ---- proxies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url,environ,expected",
    [
        ("https://a.com/", {}, ""),
        ("https://a.com/", {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ("https://a.com/", {"https_proxy": "p:1"}, "http://p:1"),
        ("https://a.com/", {"HTTP_PROXY": "http://p:1"}, ""),
        ("http://a.com/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://a.com/", {"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, ""),
        ("https://a.com/", {"ALL_PROXY": "socks5://p:1"}, "socks5://p:1"),
        ("https://a.com/", {"ALL_PROXY": "http://q", "HTTPS_PROXY": "http://p"}, "http://p"),
        ("https://localhost:5000/", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://127.0.0.1/", {"HTTPS_PROXY": "http://p"}, ""),
        ("https://a.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "b.com, a.com"}, ""),
        ("https://x.a.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a.com"}, ""),
        ("https://xa.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a.com"}, "http://p"),
        ("https://a.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": ".a.com"}, "http://p"),
        ("https://x.a.com/", {"HTTPS_PROXY": "http://p", "no_proxy": "*.A.com"}, ""),
        ("https://a.com:8443/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a.com:8443"}, ""),
        ("https://a.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "a.com:8443"}, "http://p"),
        ("https://a.com/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "*"}, ""),
        ("https://10.1.2.3/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8"}, ""),
        ("https://11.1.2.3/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "10.0.0.0/8,x/y"}, "http://p"),
        ("https://[fd00::1]/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "[fd00:0::1]:443"}, ""),
        ("https://[fd00::1]/", {"HTTPS_PROXY": "http://p", "NO_PROXY": "fd00::/8"}, ""),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], expected: str) -> None:
    assert proxy_for(url, environ) == expected


def test_through_a_proxy(server: RegistryServer, authority: Authority) -> None:
    with forward_proxy(server.host) as (proxy, seen):
        endpoint = Endpoint("http://registry.test", insecure=True)
        with Connections(endpoint, environ={"http_proxy": proxy}) as connections:
            assert connections.request("GET", "http://registry.test/v2/").read_all(10) == b"{}"
        assert seen[0].startswith("GET http://registry.test/v2/ ") and "proxy-authorization: basic " in seen[0].lower()
    with (
        RegistryServer(tls=authority.server()) as secure,
        forward_proxy(f"127.0.0.1:{secure.host[10:]}") as (proxy, seen),
    ):
        endpoint = Endpoint("https://registry.test", ca_files=(str(authority.ca),))
        with Connections(endpoint, environ={"HTTPS_PROXY": proxy}) as connections:
            url = "https://registry.test/v2/"
            assert connections.request("GET", url, headers={"Authorization": "Bearer t0p"}).read_all(10) == b"{}"
        assert seen[0].startswith("CONNECT registry.test:443 ") and "t0p" not in seen[0]
        assert "Proxy-Authorization" not in secure.last("GET").headers


def test_a_proxy_that_is_not_there() -> None:
    environ = {"HTTPS_PROXY": "http://me:s3cret@127.0.0.1:1"}
    with Connections(Endpoint("https://registry.test"), environ=environ) as connections:
        text = refused(lambda: connections.request("GET", "https://registry.test/v2/"))
    assert text.startswith("registry.test: proxy 127.0.0.1:1: Connection refused") and "s3cret" not in text
    connections = Connections(Endpoint("https://registry.test"), environ={"ALL_PROXY": "socks5://me:s3cret@x"})
    if find_spec("socks") is None:
        with pytest.raises(UsageError, match="socks5://x: SOCKS proxies need PySocks"):
            connections.request("GET", "https://registry.test/v2/")
    connections = Connections(Endpoint("https://registry.test"), environ={"ALL_PROXY": "gopher://x"})
    with pytest.raises(UsageError, match="gopher://x: not the address of a proxy"):
        connections.request("GET", "https://registry.test/v2/")


def test_lines() -> None:
    assert one_line("a\n\x1b[31mb  c\u202e d") == "a [31mb c d"
    assert len(one_line("x" * 1000)) == 303
    hide(["a-k3y", "k3y", "", "is"])
    assert one_line("your key is a-k3y, not k3y") == "your key is ***, not ***"
    assert shown_url("https://u:p@h/x?y=z#f") == "https://h/x"
    assert shown_url("http://[bad?x") and "secret" not in shown_url("http://u:secret@[bad")


def test_authority_files(authority: Authority, tmp_path: Path) -> None:
    bad = tmp_path / "bad.crt"
    bad.write_text("no certificate")
    connections = Connections(Endpoint("https://localhost:1", ca_files=(str(bad),)), environ={})
    with pytest.raises(UsageError, match="give a PEM file"):
        connections.request("GET", "https://localhost:1/v2/")
