"""ADD of http and git addresses, from servers of our own on this machine."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from fastlayer.builder.copying.addresses import Addresses
from fastlayer.builder.copying.gather import Gathered, Staging, gather
from fastlayer.builder.copying.git import find_commit, parse_repository
from fastlayer.builder.copying.remote import Fetched, Known, fetch, file_name
from fastlayer.errors import DigestMismatchError, DockerfileError, FastlayerError, LimitError, OperandError
from tests.conftest import require
from tests.copying import Row, Stage, all_rows, close_all, gathered, instruction, layer

BODY = b"the body of the answer\n" * 1000
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()
MODIFIED = 1_445_412_480  # Wed, 21 Oct 2015 07:28:00 GMT


class Answers(http.server.BaseHTTPRequestHandler):
    """One path for each thing a server may do."""

    seen: ClassVar[list[str]] = []

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/").replace("/", "_").replace(".", "_").replace("%20", "_") or "root"
        self.seen.append(name)
        getattr(self, f"get_{name}", self.get_missing)()

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for key, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_missing(self) -> None:
        self.answer(404)

    def get_root(self) -> None:
        self.answer(200, BODY)

    def get_dir_file_txt(self) -> None:
        if self.headers.get("If-None-Match") == '"one"':
            self.answer(304, ETag='"one"')
        else:
            self.answer(200, BODY, ETag='"one"', Last_Modified="Wed, 21 Oct 2015 07:28:00 GMT")

    def get_a_b(self) -> None:
        self.answer(200, b"space", Last_Modified="nonsense")

    def get_moved(self) -> None:
        self.answer(302, Location="/dir/file.txt")

    def get_loop(self) -> None:
        self.answer(302, Location="/loop?" + os.urandom(4).hex())

    def get_local(self) -> None:
        self.answer(302, Location="file:///etc/passwd")

    def get_short(self) -> None:
        self.answer(200, b"", Content_Length="1000")

    def get_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    def get_archive(self) -> None:
        self.answer(200, self.server.archive)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("archive")
    (place / "f").write_text("in it")
    with tarfile.open(place / "t.tar.gz", "w:gz") as tar:
        tar.add(place / "f", "f")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        found.archive = (place / "t.tar.gz").read_bytes()  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    yield
    close_all()


def get(url: str, work: Path, **options: object) -> Fetched:
    place = os.open(work, os.O_RDONLY)
    try:
        return fetch(url, place, "file", **options)  # type: ignore[arg-type]
    finally:
        os.close(place)


def test_a_file(server: str, tmp_path: Path) -> None:
    url = f"{server}/dir/file.txt?query=1"
    found = get(url, tmp_path, checksum=DIGEST)
    known = Known('"one"', DIGEST, MODIFIED * 10**9)
    assert found == Fetched("file.txt", DIGEST, len(BODY), MODIFIED * 10**9, known)
    assert (tmp_path / "file").read_bytes() == BODY
    status = (tmp_path / "file").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o600, MODIFIED * 10**9)
    (tmp_path / "file").unlink()
    again = get(url, tmp_path, known=known)
    assert (again.unchanged, again.digest, again.known) == (True, DIGEST, known)
    assert not list(tmp_path.iterdir())


def test_names_and_redirects(server: str, tmp_path: Path) -> None:
    assert file_name("https://e.x/a%20b?c=d/e") == "a b"
    assert file_name("https://e.x/a/../") == "__unnamed__"
    assert file_name("https://e.x") == "__unnamed__"
    assert file_name("https://e.x/a%2Fb") == "b"
    assert get(f"{server}/moved", tmp_path).digest == DIGEST
    assert get_row(server, "/a%20b", tmp_path)[1:] == (b"x/a b", 0)


def get_row(server: str, path: str, work: Path) -> tuple[int, bytes, int]:
    found = gathered(f"ADD {server}{path} /x/", None, work)
    row = all_rows(found.place(None, workdir="/", created_ns=7))[-1]
    return row[2] & 0o7777, row[1], row[6]


@pytest.mark.parametrize(
    "path,options,error,message",
    [
        ("/nothere", {}, OperandError, "404"),
        ("/loop", {}, OperandError, ""),
        ("/local", {}, OperandError, ""),
        ("/short", {}, OperandError, ""),
        ("/endless", {"max_bytes": 1 << 20}, LimitError, ""),
        ("/dir/file.txt", {"checksum": "sha256:" + "0" * 64}, DigestMismatchError, f"is {DIGEST}, not sha256:000"),
        ("/dir/file.txt", {"checksum": "sha256:0"}, DockerfileError, "64 hexadecimal digits"),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    server: str, tmp_path: Path, path: str, options: dict[str, object], error: type[FastlayerError], message: str
) -> None:
    with pytest.raises(error) as caught:
        get(server + path, tmp_path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        with pytest.raises(OperandError):
            get(url, tmp_path)
    with pytest.raises(OperandError):
        get("http://", tmp_path)


def test_a_server_without_tls(server: str, tmp_path: Path) -> None:
    """The numbers of TLS's errors are not the system's: 1 is no EPERM."""
    with pytest.raises(OperandError, match="SSL"):
        get(server.replace("http://", "https://") + "/x", tmp_path)


def test_add_of_an_address(server: str, tmp_path: Path) -> None:
    found = gathered(f"ADD --chown=3 {server}/dir/file.txt /x/", None, tmp_path)
    copying = found.place(None, workdir="/", created_ns=7)
    assert layer(copying, found.roots)["x/file.txt"] == ("-", 0o600, 3, 3, BODY, ())
    assert {row[6] for row in all_rows(copying)} == {7, MODIFIED * 10**9}
    assert get_row(server, "/", tmp_path) == (0o600, b"x/__unnamed__", 0)


def test_archives_from_elsewhere_are_unpacked_when_asked_for(server: str, tmp_path: Path) -> None:
    for flag, name in (("", "archive"), ("--unpack ", "f"), ("--unpack=false ", "archive")):
        found = gathered(f"ADD {flag}{server}/archive /x/", None, tmp_path)
        assert layer(found.place(None, workdir="/", created_ns=0), found.roots).keys() == {"x", f"x/{name}"}


def asked(text: str, work: Path) -> tuple[Gathered, list[Row], list[str]]:
    """What an ADD gives with what is remembered below ``work``, and what the server was asked for meanwhile."""
    Answers.seen.clear()
    staging = Staging(Stage(work / os.urandom(4).hex()).fresh, Addresses(str(work / "kept")))
    found = gather(instruction(text), None, staging)
    key, first = found.key(), list(Answers.seen)
    copying = found.place(None, workdir="/", created_ns=7)
    assert layer(copying, found.roots)["x"][4] == BODY
    assert found.key() == key
    return found, [row[:7] for row in all_rows(copying)], [*first, "|", *Answers.seen[len(first) :]]  # type: ignore[misc]


def test_what_is_known_is_not_fetched_again(server: str, tmp_path: Path) -> None:
    text = f"ADD {server}/dir/file.txt /x"
    one, rows, requests = asked(text, tmp_path)
    assert requests == ["dir_file_txt", "|"]
    two, again, requests = asked(text, tmp_path)
    assert requests == ["dir_file_txt", "|"]
    assert (two.key(), again) == (one.key(), rows)
    (content,) = (path for path in (tmp_path / "kept").iterdir() if not path.suffix)
    content.write_bytes(b"damaged")
    three, again, requests = asked(text, tmp_path)
    assert requests == ["dir_file_txt", "|", "dir_file_txt"]
    assert (three.key(), again) == (one.key(), rows)
    asked(text, tmp_path)
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(b"{}")
    assert asked(text, tmp_path)[2] == ["dir_file_txt", "|"]


def test_a_checksum_needs_no_server_for_the_key(server: str, tmp_path: Path) -> None:
    text = f"ADD --checksum={DIGEST} {server}/dir/file.txt /x"
    assert asked(text, tmp_path)[2] == ["|", "dir_file_txt"]
    assert asked(text, tmp_path)[2] == ["|"]
    assert (
        gathered(text, None, tmp_path).key() == gathered(text.replace(f"--checksum={DIGEST}", ""), None, tmp_path).key()
    )
    wrong = gathered(f"ADD --checksum=sha256:{'0' * 64} {server}/dir/file.txt /x", None, tmp_path)
    with pytest.raises(DigestMismatchError):
        wrong.place(None, workdir="/", created_ns=0)


def test_a_commit_needs_no_server_for_the_key(tmp_path: Path) -> None:
    found = gathered(f"ADD git://127.0.0.1:1/x.git#{'a' * 40} /x", None, tmp_path)
    assert len(found.key()) == 32
    with pytest.raises(OperandError):
        found.place(None, workdir="/", created_ns=0)


# ---- git


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Served by git's own daemon; its address and the working tree."""
    require("git")
    place = tmp_path_factory.mktemp("git")
    tree = place / "repo.git"
    tree.mkdir()
    git(tree, "init", "-q", "-b", "main")
    (tree / "README").write_text("one")
    (tree / "sub/deep").mkdir(parents=True)
    (tree / "sub/deep/f").write_text("deep")
    (tree / "sub/run").write_text("#!")
    (tree / "sub/run").chmod(0o755)
    (tree / "out").symlink_to("/etc")
    hook = tree / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {place}/ran\n")
    hook.chmod(0o755)
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "one")
    git(tree, "tag", "-am", "v1", "v1")
    git(tree, "checkout", "-qb", "other")
    (tree / "README").write_text("two")
    git(tree, "commit", "-qam", "two")
    git(tree, "checkout", "-q", "main")
    (place / "ran").unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--export-all", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={place}"]
    daemon = subprocess.Popen(["git", "daemon", *options], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(port)
        yield f"git://127.0.0.1:{port}/repo.git", tree
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait()
    assert not (place / "ran").exists()


def wait_for(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("git daemon does not answer")


def git(tree: Path, *words: str) -> str:
    names = {f"GIT_{who}_{what}": "t@e.x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(["git", *words], cwd=tree, env=env, check=True, capture_output=True, text=True).stdout.strip()


def added(text: str, work: Path) -> tuple[Gathered, dict[str, tuple[object, ...]]]:
    found = gathered(text, None, work)
    return found, layer(found.place(None, workdir="/", created_ns=0), found.roots)


def test_a_repository(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, tree = repository
    found, result = added(f"ADD {url} /x", tmp_path)
    assert result.keys() == {"x", "x/README", "x/out", "x/sub", "x/sub/deep", "x/sub/deep/f", "x/sub/run"}
    assert result["x/README"] == ("-", 0o644, 0, 0, b"one", ())
    assert result["x/sub/run"][:4] == ("-", 0o755, 0, 0)
    assert result["x/out"][4] == b"/etc"
    head = git(tree, "rev-parse", "HEAD")
    for text in (
        f"ADD {url}#main /y",
        f"ADD {url}#{head} /y",
        f"ADD {url}#v1 /y",
        f"ADD --checksum={head[:12]} {url} /y",
    ):
        again, same = added(text, tmp_path)
        assert {name[1:]: value for name, value in same.items()} == {name[1:]: value for name, value in result.items()}
        assert again.key() == found.key()


def test_parts_of_a_repository(repository: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = repository
    assert added(f"ADD {url}#other /x", tmp_path)[1]["x/README"][4] == b"two"
    assert added(f"ADD {url}#:sub/deep /x", tmp_path)[1].keys() == {"x", "x/f"}
    assert added(f"ADD {url}#v1:sub /x", tmp_path)[1].keys() == {"x", "x/deep", "x/deep/f", "x/run"}
    assert added(f"ADD --exclude=sub --exclude=out {url} /x", tmp_path)[1].keys() == {"x", "x/README"}
    kept = added(f"ADD --keep-git-dir {url} /x", tmp_path)[1]
    assert "x/.git/HEAD" in kept
    assert added(f"ADD --chown=4 --chmod=600 {url}#:sub/deep /x", tmp_path)[1]["x/f"][1:4] == (0o600, 4, 4)


@pytest.mark.parametrize(
    "where,error,message",
    [
        ("#nothere", OperandError, "has no branch or tag 'nothere'"),
        ("#:nothere", DockerfileError, "has no directory nothere"),
        ("#:out", DockerfileError, "has no directory out"),
        ("#:README", DockerfileError, "has no directory README"),
        ("x#main", OperandError, "git ls-remote: "),
    ],
)
def test_repositories_that_are_not_there(
    repository: tuple[str, Path], tmp_path: Path, where: str, error: type[FastlayerError], message: str
) -> None:
    with pytest.raises(error) as caught:
        added(f"ADD {repository[0]}{where} /x", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_commit(repository: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError, match="not 0000000"):
        added(f"ADD --checksum={'0' * 40} {repository[0]} /x", tmp_path)
    place = parse_repository(repository[0] + "#v1")
    assert place is not None
    assert find_commit(place) == git(repository[1], "rev-parse", "v1^{commit}")
