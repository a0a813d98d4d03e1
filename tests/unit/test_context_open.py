"""Opening contexts: what words mean, where contexts come from, Dockerfiles and ignore files, what is left behind."""

from __future__ import annotations

import gzip
import http.server
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fastlayer.builder.context import dockerfiles, fetch, scratch
from fastlayer.builder.context.beneath import open_beneath
from fastlayer.builder.context.context import open_context
from fastlayer.builder.context.sources import GitPlace, Source, git_place, parse_named, parse_source
from fastlayer.errors import DockerfileError, FastlayerError, LayerError, LimitError, OperandError, UsageError
from tests.conftest import require
from tests.unit.test_context_tree import make, put

DOCKERFILE = b"FROM scratch\nCOPY . /\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing may be left in it."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def tar_of(files: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.name = name
            entry.size = len(data) if isinstance(data, bytes) else 0
            archive.addfile(entry, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    found = tarfile.TarInfo("x")
    found.type, found.linkname = kind, target
    return found


# ---- what the word means ----


@pytest.mark.parametrize(
    ("word", "kind", "place"),
    [
        (".", "directory", "."),
        ("nothere", "directory", "nothere"),
        ("dir:///x/y", "directory", "/x/y"),
        ("tar:///x.tar", "tar", "/x.tar"),
        ("/etc/passwd", "tar", "/etc/passwd"),
        ("-", "stdin", "-"),
        ("tar://stdin", "stdin", "-"),
        ("http://host/x.tar", "http", "http://host/x.tar"),
        ("HTTPS://host/x.tar?a=b#c", "http", "HTTPS://host/x.tar?a=b#c"),
        ("https://host/x.git", "git", "https://host/x.git"),
        ("a@b", "directory", "a@b"),
    ],
)
def test_words(word: str, kind: str, place: str) -> None:
    assert parse_source(word)[:2] == (kind, place)


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("https://host/x.git#main:sub/dir", GitPlace("https://host/x.git", "main", "sub/dir")),
        ("https://u:p@host:8/x.git#:sub", GitPlace("https://u:p@host:8/x.git", "", "sub")),
        ("git://host/x#v1", GitPlace("git://host/x", "v1")),
        ("ssh://git@host/x#refs/pull/1/head", GitPlace("ssh://git@host/x", "refs/pull/1/head")),
        ("git@host:me/x.git#b:c", GitPlace("git@host:me/x.git", "b", "c")),
        ("git@host:me/x", GitPlace("git@host:me/x")),
        ("github.com/me/x#b", GitPlace("https://github.com/me/x", "b")),
        ("git://host/x#refs/heads/main#0123456789", GitPlace("git://host/x", "0123456789", "", "0123456789")),
        ("https://host/x.git?branch=b&subdir=s", GitPlace("https://host/x.git", "refs/heads/b", "s")),
        ("https://host/x.git?tag=t&checksum=abcdef0", GitPlace("https://host/x.git", "refs/tags/t", "", "abcdef0")),
        ("https://host/x.git?submodules=false", GitPlace("https://host/x.git", submodules=False)),
        ("https://host/x", None),
        ("./x.git#main", None),
        ("http://host/x.tar.gz", None),
    ],
)
def test_repositories(word: str, place: GitPlace | None) -> None:
    assert git_place(word) == place


@pytest.mark.parametrize(
    "word",
    [
        "",
        "a\0b",
        "s3://bucket/x",
        "ftp://host/x",
        "https://host/x.git#-upload-pack=x",
        "https://host/x.git#a b",
        "git@host:x y",
        "https://host/x.git?what=1",
        "https://host/x.git?ref=a#b",
        "https://host/x.git?commit=zzz",
        "https://host/x.git#main#nohex",
    ],
)
def test_words_that_mean_nothing(word: str) -> None:
    with pytest.raises(UsageError):
        parse_source(word)


def test_named_contexts() -> None:
    assert parse_named("a=b") == ("a", Source("directory", "b"))
    assert parse_named("debian:12=docker-image://alpine:3@sha256:x") == (
        "debian:12",
        Source("image", "alpine:3@sha256:x"),
    )
    assert parse_named("a=oci-layout://p/q:tag@sha256:x") == ("a", Source("layout", "p/q:tag@sha256:x"))
    assert parse_named("a=target:other") == ("a", Source("stage", "other"))
    assert parse_named("a=https://h/x.git#b").source.git == GitPlace("https://h/x.git", "b")
    for bad in ("a", "a=", "=b", "a=-", "a=docker-image://", "a=target:"):
        with pytest.raises(UsageError, match="--build-context"):
            parse_named(bad)


# ---- Dockerfiles and ignore files ----


def opened(spec: Any, **options: Any) -> tuple[str, bytes, tuple[str, ...], str]:
    with open_context(spec, **options) as context:
        assert context.dockerfile is not None
        return *context.dockerfile, context.patterns, context.ignored_by


def test_dockerfiles_are_found(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OperandError, match="root: has no Dockerfile or Containerfile: name one with -f"):
        opened("root")
    put(root / "Containerfile", b"containers")
    assert opened("root") == ("Containerfile", b"containers", (), "")
    put(root / "Dockerfile", b"docker")
    assert opened("root")[:2] == ("Dockerfile", b"docker")
    put(tmp_path / "other/D", b"other")
    put(root / "D", b"in root")
    assert opened("root", dockerfile="other/D")[:2] == ("other/D", b"other")
    assert opened("root", dockerfile=str(tmp_path / "other/D"))[1] == b"other"
    assert opened("root", dockerfile="D")[1] == b"in root"  # not here, but there
    put(tmp_path / "D", b"here")
    assert opened("root", dockerfile="D")[1] == b"here"
    assert opened("root", dockerfile="-", stdin=io.BytesIO(b"piped")) == ("-", b"piped", (), "")


def test_ignore_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(root / "Dockerfile", DOCKERFILE)
    put(root / ".containerignore", "a\n")
    assert opened("root")[2:] == (("a",), ".containerignore")
    put(root / ".dockerignore", "# x\nz\n!a\n*\n")
    assert opened("root")[2:] == (("z", "!a", "*"), ".dockerignore")
    assert opened("root", dockerfile="-", stdin=io.BytesIO(b""))[2] == ("z", "!a", "*")
    put(root / "Dockerfile.dockerignore", "fifo")
    assert opened("root")[2:] == (("fifo",), "Dockerfile.dockerignore")
    put(tmp_path / "D", DOCKERFILE)
    assert opened("root", dockerfile="D")[2] == ("z", "!a", "*")
    put(tmp_path / "D.dockerignore", "q")
    assert opened("root", dockerfile="D")[2:] == (("q",), "D.dockerignore")


def test_the_dockerfile_is_read_though_it_is_ignored(root: Path) -> None:
    put(root / "Dockerfile", DOCKERFILE)
    put(root / ".dockerignore", "*")
    with open_context(str(root)) as context:
        assert context.dockerfile is not None and context.dockerfile.data == DOCKERFILE
        assert context.tree.names(b"") == []


def test_what_is_no_dockerfile(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "Dockerfile").mkdir()
    with pytest.raises(OperandError, match="is not a file"):
        opened(str(root))
    with pytest.raises(OperandError, match="no such Dockerfile"):
        opened(str(root), dockerfile="nothere")
    for bad in ("", "a\0b"):
        with pytest.raises(UsageError):
            opened(str(root), dockerfile=bad)
    monkeypatch.setattr(dockerfiles, "MAX_SIZE", 10)
    with pytest.raises(DockerfileError, match="more than 10 bytes"):
        opened(str(root), dockerfile=str(put(tmp_path / "D", b"x" * 11)))


@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"])
def test_a_pipe_in_the_context_is_not_waited_for(root: Path, name: str) -> None:
    put(root / "Dockerfile", DOCKERFILE)
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    with pytest.raises(OperandError, match=f"{name}: is not a file"):
        open_context(str(root))


def test_a_dockerfile_may_be_a_pipe(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(DOCKERFILE,))
    writer.start()
    assert opened(str(root), dockerfile=str(tmp_path / "pipe"))[1] == DOCKERFILE
    writer.join()


def test_a_dockerfile_may_be_a_link_out_of_a_directory_of_ours(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "shared", b"shared")
    (root / "Dockerfile").symlink_to("../shared")
    assert opened(str(root))[1] == b"shared"


def test_named_and_optional(root: Path) -> None:
    put(root / ".dockerignore", "z")
    for options in ({"named": True}, {"optional": True}):
        with open_context(str(root), **options) as context:  # type: ignore[arg-type]
            assert context.dockerfile is None and context.tree.find(b"z") is None
    put(root / "Dockerfile")
    put(root / "Dockerfile.dockerignore", "a")
    with open_context(str(root), named=True) as context:
        assert context.ignored_by == ".dockerignore" and context.dockerfile is None


@pytest.mark.parametrize(
    "word", ["nothere", "Dockerfile", "dir://Dockerfile", "tar://nothere", "tar://.", "Dockerfile/x"]
)
def test_bad_places(root: Path, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    put(root / "Dockerfile", DOCKERFILE)
    with pytest.raises(FastlayerError) as caught:
        open_context(word)
    assert "\n" not in str(caught.value) and word.rpartition("//")[2] in str(caught.value)


def test_a_subdirectory_is_the_context(root: Path) -> None:
    put(root / "a/Dockerfile", DOCKERFILE)
    with open_context(str(root), subdir="a") as context:
        assert context.tree.names(b"") == [b"Dockerfile", b"b", b"c", b"hard"]
    for bad in ("nothere", "z"):
        with pytest.raises(OperandError, match=bad):
            open_context(str(root), subdir=bad)


# ---- archives ----


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
@pytest.mark.parametrize("where", ["stdin", "file", "tar://"])
def test_archives(tmp_path: Path, pack: Any, where: str, temporary: Path) -> None:
    data = pack(tar_of({"Dockerfile": DOCKERFILE, "d/f": b"content", ".dockerignore": b"x\n", "x": b""}))
    file = put(tmp_path / "context.bin", data)
    spec = {"stdin": "-", "file": str(file), "tar://": f"tar://{file}"}[where]
    with open_context(spec, stdin=io.BytesIO(data)) as context:
        assert context.dockerfile == ("Dockerfile", DOCKERFILE)
        assert context.tree.names(b"") == [b".dockerignore", b"Dockerfile", b"d"]
        assert context.tree.find(b"d/f").size == 7  # type: ignore[union-attr]
        assert len(context.tree.digest(b"d")) == 32
        assert len(list(temporary.iterdir())) == 1
    assert list(temporary.iterdir()) == []


def test_the_same_files_have_the_same_digest_from_everywhere(tmp_path: Path) -> None:
    put(tmp_path / "c/Dockerfile", DOCKERFILE).chmod(0o644)
    (tmp_path / "c").chmod(0o755)
    with (
        open_context(str(tmp_path / "c")) as ours,
        open_context("-", stdin=io.BytesIO(tar_of({"Dockerfile": DOCKERFILE}))) as b,
    ):
        assert ours.tree.digest(b"Dockerfile") == b.tree.digest(b"Dockerfile")


def test_a_dockerfile_alone_on_stdin() -> None:
    with open_context("-", stdin=io.BytesIO(DOCKERFILE)) as context:
        assert context.dockerfile == ("Dockerfile", DOCKERFILE) and context.tree.names(b"") == []
    with open_context("-", stdin=io.BytesIO(DOCKERFILE + b"#" * 3000)) as context:
        assert context.dockerfile is not None and len(context.dockerfile.data) == 3000 + len(DOCKERFILE)


def test_an_archive_with_f(tmp_path: Path) -> None:
    data = tar_of({"deploy/D": b"named", "deploy/D.dockerignore": b"deploy", "f": b""})
    with open_context("-", dockerfile="deploy/D", stdin=io.BytesIO(data)) as context:
        assert context.dockerfile is not None and context.dockerfile.data == b"named"
        assert context.tree.names(b"") == [b"f"]
    put(tmp_path / "D", b"ours")
    with pytest.raises(OperandError, match="no such Dockerfile"):
        open_context("-", dockerfile=str(tmp_path / "D"), stdin=io.BytesIO(data))


def test_empty_and_damaged_stdin() -> None:
    for data, error in (
        (b"", OperandError),
        (b" \n", OperandError),
        (gzip.compress(tar_of({"Dockerfile": DOCKERFILE}))[:-9], LayerError),
        (tar_of({"f": b"x" * 5000})[:3000], LayerError),
        (b"\x04\x22\x4d\x18" + bytes(600), LayerError),  # lz4
        (gzip.compress(b"no tar"), LayerError),
        (tar_of({"f": b""}), OperandError),  # no Dockerfile
        (bytes(10240), OperandError),
    ):
        with pytest.raises(error) as caught:
            open_context("-", stdin=io.BytesIO(data))
        assert str(caught.value).startswith("stdin")


def test_stdin_cannot_be_both_or_a_terminal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="both"):
        open_context("-", dockerfile="-", stdin=io.BytesIO(b""))

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    with pytest.raises(UsageError, match="terminal"):
        open_context("-")
    with pytest.raises(UsageError, match="terminal"):
        open_context(str(root), dockerfile="-")


def test_hostile_archives_touch_nothing(tmp_path: Path, temporary: Path) -> None:
    secret = put(tmp_path / "secret", b"secret")
    outside = str(secret)
    for name, files in {
        "up": {"../../evil": b"x", "Dockerfile": DOCKERFILE},
        "absolute": {str(tmp_path / "evil"): b"x", "Dockerfile": DOCKERFILE},
        "through": {"l": link(str(tmp_path)), "l/evil": b"x", "Dockerfile": DOCKERFILE},
        "dockerfile": {"Dockerfile": link(outside)},
        "dockerfile up": {"Dockerfile": link("../" * 20 + outside)},
        "ignore": {"Dockerfile": DOCKERFILE, ".dockerignore": link(outside)},
        "hard": {"Dockerfile": link(outside, tarfile.LNKTYPE)},
        "loop": {"Dockerfile": link("Dockerfile")},
        "fifo": {"Dockerfile": link("", tarfile.FIFOTYPE)},
    }.items():
        try:
            with open_context("-", stdin=io.BytesIO(tar_of(files))) as context:  # type: ignore[arg-type]
                assert context.dockerfile is not None and context.dockerfile.data == DOCKERFILE, name
                assert context.patterns == ()
        except FastlayerError as exc:
            assert "\n" not in str(exc)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "temporary"], name
        assert secret.read_bytes() == b"secret" and list(temporary.iterdir()) == []


def test_beneath(root: Path) -> None:
    (root / "a/up").symlink_to("../../../../z")
    (root / "abs").symlink_to("/a/c")
    (root / "etc").symlink_to("/etc")
    fd = os.open(root, os.O_RDONLY)
    for path, wanted in (("a/up", "z"), ("abs/d", "a/c/d"), ("a/../z", "z"), ("../../z", "z"), ("/a//b", "a/b")):
        found = open_beneath(fd, path)
        assert os.path.samestat(os.fstat(found), os.stat(root / wanted)), path
        os.close(found)
    for path in ("etc/passwd", "nothere", "z/x", "a/b/..", "fifo/x"):
        with pytest.raises(OSError):
            os.close(open_beneath(fd, path))
    before = len(os.listdir("/proc/self/fd"))
    os.close(open_beneath(fd, "", os.O_RDONLY | os.O_DIRECTORY))
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


# ---- where things are unpacked ----


def test_unpacked_in_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with open_context("-", stdin=io.BytesIO(tar_of({"Dockerfile": DOCKERFILE})), store=store):
        (place,) = (store / "cache/unpacked").iterdir()
        assert stat.S_IMODE((store / "cache").stat().st_mode) == 0o700
        with scratch.Scratch(store) as other:  # leaves the other one, which is alive
            assert place.exists() and os.path.dirname(other.path) == str(place.parent)
    assert list((store / "cache/unpacked").iterdir()) == []
    put(store / "cache/unpacked/fastlayer-context-dead/d/f")
    put(store / "cache/unpacked/mine")
    with scratch.Scratch(store):
        assert len(list((store / "cache/unpacked").iterdir())) == 2
    assert [path.name for path in (store / "cache/unpacked").iterdir()] == ["mine"]


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    code = "import os, sys; from fastlayer.builder.context import scratch; scratch.Scratch(sys.argv[1]); os.kill(0, 9)"
    subprocess.run([sys.executable, "-c", code, str(store)], check=False, start_new_session=True)
    assert len(list((store / "cache/unpacked").iterdir())) == 1
    with scratch.Scratch(store):
        assert len(list((store / "cache/unpacked").iterdir())) == 1


def test_keys_are_remembered_in_the_store(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    put(root / "Dockerfile", DOCKERFILE)
    for _ in range(2):
        with open_context(str(root), store=store) as context:
            context.tree.digest(b"")
    assert len(list((store / "cache/contexts").iterdir())) == 1


# ---- http ----


class Handler(http.server.BaseHTTPRequestHandler):
    archive = tar_of({"Dockerfile": DOCKERFILE, "f": b"x"})
    seen: ClassVar[list[tuple[str, str | None]]] = []
    other = ""

    def do_GET(self) -> None:
        status, headers, body = {
            "/context.tar.gz": (200, {"ETag": '"1"'}, gzip.compress(self.archive)),
            "/Dockerfile": (200, {}, DOCKERFILE),
            "/moved": (302, {"Location": "/Dockerfile"}, b""),
            "/file": (302, {"Location": "file:///etc/passwd"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
            "/short": (200, {"Content-Length": "100"}, b"x"),
        }.get(self.path, (404, {}, b"no"))
        self.seen.append((self.path, self.headers.get("Authorization")))
        if self.path == "/elsewhere":
            status, headers = 302, {"Location": self.other + "/Dockerfile"}
        if self.headers.get("If-None-Match") == '"1"':
            status, body = 304, b""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_contexts_from_the_network(server: str) -> None:
    with open_context(server + "/context.tar.gz") as context:
        assert context.dockerfile == ("Dockerfile", DOCKERFILE) and context.tree.names(b"") == [b"Dockerfile", b"f"]
    for path in ("/Dockerfile", "/moved"):
        with open_context(server + path) as context:
            assert context.dockerfile == ("Dockerfile", DOCKERFILE) and context.tree.names(b"") == []


def test_servers_that_do_not_give(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, why in (("/nothere", "404"), ("/file", "file"), ("/loop", "infinite"), ("/short", "1")):
        with pytest.raises(OperandError, match=why) as caught:
            open_context(server.replace("//", "//me:password@") + path)
        assert "password" not in str(caught.value)
    with pytest.raises(OperandError, match="refused"):
        open_context("http://127.0.0.1:1/x")
    with pytest.raises(LimitError, match="more than 5 bytes"):
        fetch.fetch(server + "/Dockerfile", bytearray().extend, max_bytes=5)


def test_passwords_are_for_one_host(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "other", server.replace("127.0.0.1", "localhost"))
    Handler.seen.clear()
    with open_context(server.replace("//", "//me:pass%20word@") + "/elsewhere") as context:
        assert context.dockerfile is not None and "pass" not in context.name
    assert Handler.seen == [("/elsewhere", "Basic bWU6cGFzcyB3b3Jk"), ("/Dockerfile", None)]


def test_what_is_known_is_not_fetched_again(server: str) -> None:
    data = bytearray()
    found = fetch.fetch(server + "/context.tar.gz", data.extend)
    assert found.size == len(data) and not found.known
    again = fetch.fetch(server + "/context.tar.gz", data.extend, etag=found.headers["etag"])
    assert again.known and len(data) == found.size


# ---- git ----


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require("git")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(put(tmp_path / "gitconfig", "[user]\nname=n\nemail=e@x\n")))
    found = tmp_path / "r.git"
    git(tmp_path, "init", "-q", "-b", "main", str(found))
    for number, ref in enumerate(("one", "two")):
        put(found / "Dockerfile", b"FROM scratch\n# %d\n" % number)
        put(found / "sub/Dockerfile", b"sub %d" % number)
        os.chmod(put(found / "run"), 0o755)
        if not number:
            (found / "out").symlink_to("/")
        git(found, "add", ".")
        git(found, "commit", "-q", "-m", ref)
        git(found, "tag", ref)
    git(found, "branch", "old", "one")
    return found


def git(where: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=where, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "form", ["#", "#main", "#two", "#one", "#old", "#COMMIT", "#SHORT", "#main#COMMIT", "#refs/heads/old"]
)
def test_repositories_are_checked_out(repository: Path, form: str) -> None:
    commit = git(repository, "rev-parse", "one")
    spec = str(repository) + form.replace("COMMIT", commit).replace("SHORT", commit[:8])
    if form == "#":
        spec += "HEAD"
    old = form in ("#one", "#old", "#COMMIT", "#SHORT", "#refs/heads/old", "#main#COMMIT")
    with open_context(spec) as context:
        assert context.commit == git(repository, "rev-parse", "one" if old else "two")
        assert context.dockerfile is not None and context.dockerfile.data == b"FROM scratch\n# %d\n" % (not old)
        assert context.tree.names(b"") == [b"Dockerfile", b"out", b"run", b"sub"]
        run = context.tree.find(b"run")
        assert run is not None and run.mode == stat.S_IFREG | 0o755


def test_subdirectories_of_repositories(repository: Path) -> None:
    with open_context(f"{repository}#one:sub") as context:
        assert context.dockerfile == ("Dockerfile", b"sub 0") and context.tree.names(b"") == [b"Dockerfile"]
    for bad in ("nothere", "run", "out/etc"):
        with pytest.raises(OperandError, match=bad):
            open_context(f"{repository}#one:{bad}")
    with open_context(f"{repository}#one:out") as context:  # the root of the repository, not of the machine
        assert context.tree.names(b"") == [b"Dockerfile", b"out", b"run", b"sub"]


def test_a_commit_that_was_not_meant(repository: Path) -> None:
    other = GitPlace(str(repository), "main", commit=git(repository, "rev-parse", "one"))
    with pytest.raises(OperandError, match="is at commit"):
        open_context(Source("git", "x", other))


def test_refs_that_are_not_there(repository: Path, tmp_path: Path) -> None:
    for ref in ("nothere", "0123456789", "x" * 40, "1" * 40):
        with pytest.raises(OperandError) as caught:
            open_context(f"{repository}#{ref}")
        assert "\n" not in str(caught.value) and "r.git" in str(caught.value)
    with pytest.raises(OperandError):
        open_context(Source("git", "x", GitPlace(str(tmp_path / "nothere.git"))))


def test_a_repository_runs_nothing_here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "trap"
    templates = tmp_path / "templates/hooks"
    hook = put(templates / "post-checkout", f"#!/bin/sh\ntouch {trap}\n")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(templates.parent))
    git(repository, "config", "uploadpack.packObjectsHook", f"touch {trap};")
    put(repository / ".gitattributes", "* filter=evil\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "filter")
    with open_context(f"{repository}#main") as context:
        assert context.tree.find(b".git") is None
    with pytest.raises(OperandError):
        open_context(Source("git", "x", GitPlace(f"ext::touch {trap}")))
    assert not trap.exists()


def test_submodules_are_no_files_of_ours(repository: Path, tmp_path: Path) -> None:
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "inner")
    git(repository, "commit", "-q", "-m", "submodule")
    with pytest.raises(OperandError, match="submodule"):
        open_context(f"{repository}#main")
    place = git_place(f"{repository}#main")
    assert place is not None
    with open_context(Source("git", "x", place._replace(submodules=False))) as context:
        assert context.tree.names(b"inner") == []


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nothere")
    with pytest.raises(OperandError, match="git program is not installed"):
        open_context(f"{repository}#main")


def test_inside_a_hook_of_another_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nothere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nothere/index")
    os.umask(umask := os.umask(0o077))
    try:
        os.umask(0o077)
        with open_context(f"{repository}#main") as context:
            found = context.tree.find(b"Dockerfile")
            assert found is not None and found.mode == stat.S_IFREG | 0o644
    finally:
        os.umask(umask)
