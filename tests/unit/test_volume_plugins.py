"""Docker's volume plugins as drivers: found where Docker finds them, asked as Docker asks, and not trusted."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import DriverError, FastlayerError, InUseError, NotFoundError
from fastlayer.testing import volume_suite as suite
from fastlayer.volume.plugin import discovery
from fastlayer.volume.plugin.server import PluginServer
from fastlayer.volume.volumes import Volumes
from tests.conftest import require
from tests.stores import vfs_store
from tests.volume_drivers import ThroughStore
from tests.volume_plugins import Plugin, Unix, handler, serving


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where plugins are looked for."""
    place = tmp_path / "plugins"
    place.mkdir()
    monkeypatch.setenv("FASTLAYER_PLUGIN_PATH", f"{tmp_path / 'nothing'}:{place}")
    monkeypatch.setenv("FASTLAYER_PLUGIN_TIMEOUT", "2")
    return place


@pytest.fixture
def plugin(tmp_path: Path, places: Path) -> Iterator[Plugin]:
    (tmp_path / "theirs").mkdir()
    found = Plugin(tmp_path / "theirs")
    with serving(Unix(str(places / "tasty.sock"), handler(found))):
        yield found


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    with vfs_store(tmp_path / "store") as store:
        yield Volumes(store)


# ---- a plugin that is well -----------------------------------------------------------------------------


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
def test_it_passes_the_suite(check: Callable[[suite.Bench], None], volumes: Volumes) -> None:
    check(suite.Bench(lambda: ThroughStore(volumes, "tasty", "global")))


def test_the_life_of_a_volume(volumes: Volumes, plugin: Plugin) -> None:
    volumes.create("data", driver="tasty", options={"flavor": "sweet"}, labels={"a": "b"})
    assert plugin.options == {"data": {"flavor": "sweet"}}
    place = volumes.acquire("data", "one")
    assert place == plugin.place / "data" == volumes.acquire("data", "two")
    volumes.acquire("data", "one")
    assert plugin.mounts == {"data": {"one", "two"}}
    details = volumes.details("data")
    assert (details.scope, details.status, details.path) == ("global", {"taste": "good"}, place)
    volumes.release("one")
    with pytest.raises(InUseError):
        volumes.remove("data")
    volumes.release("two")
    assert plugin.mounts == {"data": set()} and volumes.details("data").path is None
    volumes.remove("data")
    assert not place.exists() and plugin.calls[-1] == "Remove"


def test_what_it_says_is_told(volumes: Volumes, plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DriverError, match=r"plugin tasty \(unix://.*tasty.sock\): unknown option"):
        volumes.create("data", driver="tasty", options={"color": "red"})
    assert volumes.all() == []
    volumes.create("data", driver="tasty")
    plugin.mounts["data"] = {"somebody else"}
    with pytest.raises(DriverError, match="is mounted by"):
        volumes.remove("data")
    assert [volume.name for volume in volumes.all()] == ["data"]

    def away(name: str, asked: object) -> dict[str, object]:
        raise ValueError("its disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(plugin, "on_get", away)
        with pytest.raises(NotFoundError, match=r"volume data: plugin tasty .*: its disk is away"):
            volumes.details("data")
    volumes.remove("data", force=True)
    assert volumes.all() == []


def test_a_volume_that_is_there_already(volumes: Volumes, plugin: Plugin) -> None:
    (plugin.place / "older").mkdir()
    (plugin.place / "older/file").write_text("kept")
    volumes.create("older", driver="tasty")
    assert "Create" not in plugin.calls
    assert (volumes.acquire("older", "one") / "file").read_text() == "kept"


def test_a_plugin_that_is_gone(volumes: Volumes, plugin: Plugin, places: Path) -> None:
    volumes.create("data", driver="tasty")
    (places / "tasty.sock").rename(places / "away")
    with pytest.raises(NotFoundError, match=r"volume driver tasty: no package .* no plugin"):
        volumes.acquire("data", "one")
    assert volumes.in_use() == set()
    with pytest.raises(NotFoundError):
        volumes.remove("data")
    assert [volume.name for volume in volumes.all()] == ["data"]
    volumes.remove("data", force=True)
    assert volumes.all() == []


# ---- finding ---------------------------------------------------------------------------------------------


def test_where_plugins_are(places: Path) -> None:
    (places / "sub").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(places / "sub/sub.sock"))
    (places / "spec.spec").write_text("tcp://192.0.2.1:8080\n")
    (places / "inner").mkdir()
    (places / "inner/inner.spec").write_text("unix:///run/inner.sock")
    (places / "js.json").write_text(
        '{"Name": "js", "Addr": "https://example.com", "TLSConfig": {"CAFile": "/ca", "InsecureSkipVerify": true}}'
    )
    (places / "plain.sock").write_text("no socket")
    assert discovery.find("sub") == discovery.Plugin("sub", "unix", str(places / "sub/sub.sock"))
    assert discovery.find("spec") == discovery.Plugin("spec", "http", "192.0.2.1:8080")
    assert discovery.find("inner") == discovery.Plugin("inner", "unix", "/run/inner.sock")
    tls = discovery.TlsFiles(ca="/ca", insecure=True)
    assert discovery.find("js") == discovery.Plugin("js", "https", "example.com:443", tls)
    (places / "both.json").write_text('{"Addr": "tcp://192.0.2.2:1"}')
    (places / "both.spec").write_text("tcp://192.0.2.3:1")  # comes first for Docker, too
    assert discovery.find("both") == discovery.Plugin("both", "http", "192.0.2.3:1")
    (places / "deep").mkdir()
    (places / "deep/deep.json").write_text('{"Addr": "tcp://192.0.2.4:1"}')
    assert discovery.find("deep") == discovery.Plugin("deep", "http", "192.0.2.4:1")
    assert discovery.find("plain") is None and discovery.find("nothing") is None
    listener.close()


def test_dockers_own_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTLAYER_PLUGIN_PATH", raising=False)
    wanted = ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"]
    assert [str(place) for place in discovery.places()] == wanted


@pytest.mark.parametrize(
    "name,text",
    [
        ("bad.spec", ""),
        ("bad.spec", "ftp://host"),
        ("bad.spec", "unix://relative"),
        ("bad.spec", "tcp://"),
        ("bad.spec", "tcp://[::1"),
        ("bad.spec", "tcp://host:99999"),
        ("bad.spec", "tcp://ho\x1bst"),
        ("bad.spec", "x" * 100_000),
        ("bad.json", "nonsense"),
        ("bad.json", "[]"),
        ("bad.json", '{"Addr": 1}'),
        ("bad.json", '{"Addr": "tcp://h:1", "TLSConfig": []}'),
        ("bad.json", '{"Addr": "tcp://h:1", "TLSConfig": {"CAFile": 1}}'),
        ("bad.json", '{"Addr": "https://localhost:1", "TLSConfig": {"CAFile": "/no/such/file"}}'),
    ],
)
def test_files_that_describe_nothing(volumes: Volumes, places: Path, name: str, text: str) -> None:
    (places / name).write_text(text)
    with pytest.raises(DriverError) as caught:
        volumes.create("data", driver="bad")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert volumes.all() == []


def test_tcp_and_tls(volumes: Volumes, tmp_path: Path, places: Path) -> None:
    """By the certificate that the .json file names, and not without it."""
    require("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=localhost"
    subprocess.run([*words.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    (tmp_path / "theirs").mkdir()
    found = Plugin(tmp_path / "theirs")
    for name, secure in (("open", False), ("closed", True)):
        server = http.server.ThreadingHTTPServer(("localhost", 0), handler(found))
        port = server.server_address[1]
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            tls = {"CAFile": str(certificate)}
            (places / "closed.json").write_text(json.dumps({"Addr": f"tcp://localhost:{port}", "TLSConfig": tls}))
            (places / "unknown.json").write_text(json.dumps({"Addr": f"https://localhost:{port}"}))
        else:
            (places / "open.spec").write_text(f"tcp://localhost:{port}")
        with serving(server):
            volumes.create(f"of-{name}", driver=name)
            assert (found.place / f"of-{name}").is_dir()
            if secure:
                with pytest.raises(DriverError, match=r"(?i)certificate"):
                    volumes.create("other", driver="unknown")


# ---- plugins that are not well -----------------------------------------------------------------------------


@contextmanager
def talking(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """A server of which only the bytes are known."""

    class Talker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                talk(self.request)
            except OSError:
                pass

    with serving(Unix(str(path), Talker)):
        yield


def reply(
    text: bytes, *, head: bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        take(connection)
        connection.sendall(head + text)

    return talk


def take(connection: socket.socket) -> None:
    """A whole request."""
    data = b""
    while not data.endswith(b"}"):
        data += connection.recv(65536)


def hang(connection: socket.socket) -> None:
    take(connection)
    time.sleep(4)


def drip(connection: socket.socket) -> None:
    take(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(60):
        connection.sendall(b" ")
        time.sleep(0.1)


def flood(connection: socket.socket) -> None:
    take(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n[")
    for _ in range(4096):
        connection.sendall(b"1," * 8192)


def headers(connection: socket.socket) -> None:
    take(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: y\r\n" % number)


ILL: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "hangs": (hang, "no answer .* within"),
    "drips": (drip, "no answer .* within"),
    "floods": (flood, "more than 4 MiB"),
    "headers": (headers, "see whether it is a volume plugin"),
    "hangs up": (lambda connection: connection.close(), "see whether it is a volume plugin"),
    "nonsense": (reply(b"\0\xff" * 50, head=b""), "see whether it is a volume plugin"),
    "no JSON": (reply(b"<html>hello\x1b[31m</html>"), "something else than a JSON object"),
    "deep JSON": (reply(b"[" * 200_000), "something else than a JSON object"),
    "a list": (reply(b"[]"), "something else than a JSON object"),
    "another plugin": (reply(b'{"Implements": ["NetworkDriver"]}'), "implements no VolumeDriver"),
    "nothing": (reply(b""), "implements no VolumeDriver"),
    "an error": (reply(b'{"Err": "on\\nfire\\u001b"}'), "on fire"),
    "a long error": (reply(b'{"Err": "' + b"x" * 100_000 + b'"}'), r"xxx\.\.\."),
    "not found": (reply(b"lost", head=b"HTTP/1.1 404 Not Found\r\n\r\n"), "status 404: lost"),
}


@pytest.mark.parametrize("kind", ILL)
def test_plugins_that_are_ill(volumes: Volumes, places: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLAYER_PLUGIN_TIMEOUT", "1" if kind in ("hangs", "drips") else "20")
    talk, why = ILL[kind]
    with talking(places / "ill.sock", talk), pytest.raises(DriverError, match=why) as caught:
        volumes.create("data", driver="ill")
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000
    assert volumes.all() == []


def test_a_handshake_that_drips(volumes: Volumes, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS: each byte begins the time of the socket anew, but not that of the call."""
    monkeypatch.setenv("FASTLAYER_PLUGIN_TIMEOUT", "1")

    def talk(connection: socket.socket) -> None:
        for byte in b"\x16\x03\x03\x40\x00\x02" + bytes(300):  # a record that says it is long
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    class Talker(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                talk(self.request)

    server = socketserver.ThreadingTCPServer(("localhost", 0), Talker)
    server.daemon_threads = True
    (places / "slow.spec").write_text(f"https://localhost:{server.server_address[1]}")
    with serving(server), pytest.raises(DriverError, match="within 1 s"):
        begun = time.monotonic()
        try:
            volumes.create("data", driver="slow")
        finally:
            assert time.monotonic() - begun < 15


def test_nobody_listens(volumes: Volumes, places: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(places / "dead.sock"))
    listener.close()
    with pytest.raises(DriverError, match=r"cannot be reached: Connection refused"):
        volumes.create("data", driver="dead")


@pytest.mark.parametrize("place", ["relative/path", "/no/such/directory", 7, "/etc/passwd", "/\0", "/\ud800"])
def test_mounted_at_no_directory(volumes: Volumes, plugin: Plugin, place: Any) -> None:
    volumes.create("data", driver="tasty")
    plugin.on_mount = lambda name, asked: {"Mountpoint": place}  # type: ignore[method-assign]
    with pytest.raises(FastlayerError, match=r"no directory|no absolute path"):
        volumes.acquire("data", "one")
    assert volumes.in_use() == set()


# ---- our own server, by our own client -----------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path: Path, places: Path) -> Iterator[Path]:
    """The root of a store that is served."""
    root = tmp_path / "served"
    server = PluginServer(places / "ours.sock", lambda: vfs_store(root))
    with serving(server):
        yield root
    server.close()


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
@pytest.mark.usefixtures("ours")
def test_our_server_passes_the_suite(check: Callable[[suite.Bench], None], volumes: Volumes) -> None:
    check(suite.Bench(lambda: ThroughStore(volumes, "ours")))


def post(path: Path, call: str, value: Any) -> tuple[int, dict[str, Any]]:
    """As curl would, with nothing of ours."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.settimeout(30)
        head = f"POST /{call} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with suppress(BrokenPipeError):  # refused before it was read
            connection.sendall(head.encode() + body)
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    status, _, rest = data.partition(b"\r\n\r\n")
    return int(status.split()[1]), json.loads(rest)


def test_what_our_server_says(ours: Path, places: Path) -> None:
    socket_ = places / "ours.sock"
    assert os.stat(socket_).st_mode & 0o777 == 0o600
    assert post(socket_, "Plugin.Activate", b"") == (200, {"Implements": ["VolumeDriver"]})
    assert post(socket_, "VolumeDriver.Capabilities", {}) == (200, {"Capabilities": {"Scope": "local"}})
    assert post(socket_, "VolumeDriver.Create", {"Name": "data", "Opts": None}) == (200, {})
    mounted = {"Mountpoint": str(ours / "volumes/data/_data")}
    assert post(socket_, "VolumeDriver.Mount", {"Name": "data", "ID": "m1"}) == (200, mounted)
    assert post(socket_, "VolumeDriver.Path", {"Name": "data"}) == (200, mounted)
    status, found = post(socket_, "VolumeDriver.List", {})
    assert status == 200 and [volume["Name"] for volume in found["Volumes"]] == ["data"]
    status, found = post(socket_, "VolumeDriver.Get", {"Name": "data"})
    assert found["Volume"]["Mountpoint"] == mounted["Mountpoint"] and found["Volume"]["CreatedAt"].endswith("Z")
    with vfs_store(ours) as store, pytest.raises(InUseError, match="plugin-m1"):
        Volumes(store).remove("data")
    assert post(socket_, "VolumeDriver.Unmount", {"Name": "data", "ID": "m1"}) == (200, {})
    assert post(socket_, "VolumeDriver.Remove", {"Name": "data"}) == (200, {})


def test_users_of_fastlayer_keep_a_volume_from_docker(ours: Path, places: Path) -> None:
    """Left-over mounts of the asking engine go with Remove; a container of ours does not."""
    socket_ = places / "ours.sock"
    post(socket_, "VolumeDriver.Create", {"Name": "data"})
    post(socket_, "VolumeDriver.Mount", {"Name": "data", "ID": "lost in a crash"})
    with vfs_store(ours) as store:
        Volumes(store).acquire("data", "container-1")
        status, found = post(socket_, "VolumeDriver.Remove", {"Name": "data"})
        assert status == 500 and "container-1" in found["Err"]
        Volumes(store).release("container-1")
    assert post(socket_, "VolumeDriver.Remove", {"Name": "data"}) == (200, {})


@pytest.mark.parametrize(
    "call,value,status,why",
    [
        ("VolumeDriver.Nothing", {}, 404, "no such call"),
        ("VolumeDriver.Create", b"nonsense", 400, "no JSON object"),
        ("VolumeDriver.Create", b"[" * 100_000, 400, "no JSON object"),
        ("VolumeDriver.Create", [], 400, "no JSON object"),
        ("VolumeDriver.Create", {}, 500, "no Name"),
        ("VolumeDriver.Create", {"Name": 7}, 500, "no Name"),
        ("VolumeDriver.Create", {"Name": "../x"}, 500, "not the name"),
        ("VolumeDriver.Create", {"Name": "data", "Opts": {"a": 1}}, 500, "object of texts"),
        ("VolumeDriver.Create", {"Name": "data", "Opts": {"color": "red"}}, 500, "no such option"),
        ("VolumeDriver.Mount", {"Name": "nothing", "ID": "x"}, 500, "no such volume"),
        ("VolumeDriver.Mount", {"Name": "nothing"}, 500, "no such volume"),
        ("VolumeDriver.Create", b"x" * ((1 << 20) + 1), 413, "more than"),
    ],
)
@pytest.mark.usefixtures("ours")
def test_requests_that_are_none(places: Path, call: str, value: Any, status: int, why: str) -> None:
    found, answer = post(places / "ours.sock", call, value)
    assert found == status and why in answer["Err"] and "\n" not in answer["Err"]


def test_a_socket_of_a_server_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    server = PluginServer(path, lambda: vfs_store(tmp_path / "root"))
    with serving(server):
        with pytest.raises(InUseError, match="another server"):
            PluginServer(path, lambda: vfs_store(tmp_path / "root"))
        assert post(path, "Plugin.Activate", b"")[0] == 200
    server.close()
    assert not path.exists()


def test_a_socket_of_systemd(tmp_path: Path) -> None:
    """It is served as it is, and stays; SIGTERM is a good end."""
    path = tmp_path / "given.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    script = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{listener.fileno()}'
    words = [
        sys.executable,
        "-m",
        "fastlayer",
        "serve",
        "volume-plugin",
        "--root",
        tmp_path / "root",
        "--driver",
        "vfs",
    ]
    server = subprocess.Popen(
        ["bash", "-c", script, "bash", *words], pass_fds=[listener.fileno()], stderr=subprocess.PIPE
    )
    try:
        assert post(path, "VolumeDriver.Create", {"Name": "data"}) == (200, {})
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=30)
    assert server.returncode == 0 and path.exists()
    assert errors.decode().splitlines() == ["fastlayer: serving volumes at the given socket"]
    listener.close()


def test_sockets_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / ("x" * 200), tmp_path / "file/below"):
        with pytest.raises(FastlayerError):
            PluginServer(path, lambda: vfs_store(tmp_path / "root"))
    assert (tmp_path / "file").read_text() == "kept"
