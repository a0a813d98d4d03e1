"""The corpus of Dockerfiles: what a case says, and its context laid out with everything that git cannot hold.

A case is a folder of ``tests/corpus/dockerfiles``: its files are the context, ``case.json`` says the rest:

why      one line: what it shows
judges   who builds the Dockerfile as it is: buildkit, legacy, buildah (default: all); the first is the reference
older    who builds ``Dockerfile.older`` instead: the same image in an older language; history and layers may differ
args, secrets, target, file   what the command line gives
options  more words of every command line; {context} and, with an agent, {agent} stand for paths, {SERVER} as below
given    how the context is given: a directory (the default), ``tar``: that as a tar on stdin, or an address
agent    whether there is an agent for ssh, without identities
make     parts of the context that git cannot hold, see ``_MAKERS``
serve    what a web server on this machine has; its address is the build argument SERVER
fails    words (a regular expression) that our error must have; every judge has to refuse, too
differs  judge -> {what: why}: where this judge's image is another than the reference's, all of it and nothing else
unsteady judge -> {what: why}: where it sometimes is
stubs    what is there only because something was mounted on it: judges may keep it, we do not
prints   what a container of the image prints on stdout
base     ``debian`` when the big base image is needed
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CORPUS = Path(__file__).parents[1] / "corpus/dockerfiles"
JUDGES = ("buildkit", "legacy", "buildah")
STAMP = 1_700_000_000  # seconds; the time of every file of a context
_OURS_ALONE = ("case.json", "Dockerfile.older")


class Case(NamedTuple):
    """One folder of the corpus; the fields are those of ``case.json``."""

    name: str
    path: Path
    why: str
    judges: tuple[str, ...] = JUDGES
    older: tuple[str, ...] = ()
    args: Mapping[str, str] = {}
    secrets: Mapping[str, str] = {}
    target: str | None = None
    file: str | None = None
    make: tuple[Mapping[str, Any], ...] = ()
    serve: Mapping[str, Any] = {}
    fails: str | None = None
    differs: Mapping[str, Mapping[str, str]] = {}
    unsteady: Mapping[str, Mapping[str, str]] = {}
    stubs: tuple[str, ...] = ()
    prints: str | None = None
    base: str = "busybox"
    options: tuple[str, ...] = ()
    given: str = "directory"
    agent: bool = False

    @property
    def builders(self) -> list[str]:
        """The judges that build it, the reference first."""
        return [*self.judges, *self.older]

    @property
    def dockerfile(self) -> Path:
        """The file with the instructions, in the corpus."""
        names = [self.file] if self.file else ["Dockerfile", "Containerfile"]
        return next(self.path / name for name in names if (self.path / name).exists())


def load(path: Path) -> Case:
    """Reads a case; KeyError for a field that nobody knows."""
    value = json.loads((path / "case.json").read_text())
    if unknown := value.keys() - set(Case._fields[2:]):
        raise KeyError(f"{path.name}: {sorted(unknown)}")
    for key in ("judges", "older", "make", "stubs", "options"):
        value[key] = tuple(value.get(key, JUDGES if key == "judges" else ()))
    return Case(name=path.name, path=path, **value)


def cases() -> list[Case]:
    return [load(path.parent) for path in sorted(CORPUS.glob("*/case.json"))]


# ---- the context


def stage(case: Case, place: Path, *, older: bool = False) -> Path:
    """Lays the context out in ``place/context``: fixed modes, owners and times, whatever git made of them."""
    target = place / "context"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(case.path, target, symlinks=True, ignore=shutil.ignore_patterns(*_OURS_ALONE))
    for directory, directories, files in os.walk(target):
        for name in [".", *directories, *files]:
            _plain(Path(directory, name))
    for step in case.make:
        kind = next(kind for kind in _MAKERS if kind in step)
        path = target / step[kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        _MAKERS[kind](path, step)
        if "mode" in step:
            path.chmod(int(step["mode"], 8))
    if older:
        shutil.copyfile(case.path / "Dockerfile.older", target / (case.file or "Dockerfile"))
    for directory, directories, files in os.walk(target, topdown=False):
        for name in [*directories, *files, "."]:
            os.utime(os.path.join(directory, name), (STAMP, STAMP), follow_symlinks=False)
    return target


def _plain(path: Path) -> None:
    if not path.is_symlink():
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _file(path: Path, step: Mapping[str, Any]) -> None:
    path.write_bytes(step.get("text", "").encode() * step.get("times", 1))


def _directory(path: Path, step: Mapping[str, Any]) -> None:
    path.mkdir(exist_ok=True)


def _link(path: Path, step: Mapping[str, Any]) -> None:
    path.symlink_to(step["to"])


def _hard(path: Path, step: Mapping[str, Any]) -> None:
    path.hardlink_to(path.parent / step["to"])


def _fifo(path: Path, step: Mapping[str, Any]) -> None:
    os.mkfifo(path)


def _tar(path: Path, step: Mapping[str, Any]) -> None:
    """An archive; ``compress``: "", gz, bz2 or xz. Its files belong to 7:8, whoever unpacks them."""
    with tarfile.open(path, "w:" + step.get("compress", ""), format=tarfile.PAX_FORMAT) as tar:
        for name, content in step["files"].items():
            _member(tar, name, content)


def _member(tar: tarfile.TarFile, name: str, content: str | Mapping[str, Any]) -> None:
    given = {"text": content} if isinstance(content, str) else content
    info = tarfile.TarInfo(name.rstrip("/"))
    info.mtime, info.uid, info.gid = STAMP - 1000, given.get("uid", 7), given.get("gid", 8)
    info.mode = int(given.get("mode", "0755" if name.endswith("/") else "0644"), 8)
    data = given.get("text", "").encode()
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
    elif "link" in given:
        info.type, info.linkname = tarfile.SYMTYPE, given["link"]
    elif "hard" in given:
        info.type, info.linkname = tarfile.LNKTYPE, given["hard"]
    else:
        info.size = len(data)
    tar.addfile(info, io.BytesIO(data) if info.isreg() else None)


def _deb(path: Path, step: Mapping[str, Any]) -> None:
    """A package for apt, with the files that are given, and the index of its folder."""
    work = path.with_suffix(".making")
    for name, text in step["files"].items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
        (work / name).chmod(0o755)
    (work / "DEBIAN").mkdir()
    control = {"Package": path.name.split("_")[0], "Version": path.name.split("_")[1], "Architecture": "all"}
    control |= {"Maintainer": "nobody <nobody@fastlayer.invalid>", "Description": "a part of a test"}
    text = "".join(f"{key}: {value}\n" for key, value in control.items())
    (work / "DEBIAN/control").write_text(text)
    for found in [work, *work.rglob("*")]:
        os.utime(found, (STAMP, STAMP))
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    run(
        ["dpkg-deb", "--root-owner-group", "-b", work, path],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(STAMP)},
    )
    shutil.rmtree(work)
    size, digest = path.stat().st_size, run(["sha256sum", path]).stdout.decode().split()[0]
    (path.parent / "Packages").write_text(f"{text}Filename: ./{path.name}\nSize: {size}\nSHA256: {digest}\n\n")


def _wheel(path: Path, step: Mapping[str, Any]) -> None:
    """A wheel of a package with the files that are given."""
    import zipfile

    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    files = {
        **step["files"],
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(member, (2023, 11, 14, 22, 13, 20)), text)


def _pip(path: Path, step: Mapping[str, Any]) -> None:
    """pip itself, as it is installed here, without compiled files."""
    import pip

    ignored = shutil.ignore_patterns("__pycache__", "*.exe")
    shutil.copytree(Path(pip.__file__).parent, path / "pip", ignore=ignored)


_MAKERS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "file": _file,
    "directory": _directory,
    "link": _link,
    "hard": _hard,
    "fifo": _fifo,
    "tar": _tar,
    "deb": _deb,
    "wheel": _wheel,
    "pip": _pip,
}


# ---- the agent


@contextlib.contextmanager
def agent(case: Case, place: Path) -> Iterator[Path]:
    """The socket of an agent without identities, while the block runs; of a case that wants none it is not there."""
    path = place / "agent"
    if not case.agent:
        yield path
        return
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        threading.Thread(target=_answer, args=(listening,), daemon=True).start()
        try:
            yield path
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _answer(listening: socket.socket) -> None:
    """SSH_AGENT_IDENTITIES_ANSWER with none, to whatever is asked (draft-ietf-sshm-ssh-agent, 3.5)."""
    with contextlib.suppress(OSError):  # it is closed
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                while connection.recv(1024):
                    connection.sendall(b"\0\0\0\5\x0c\0\0\0\0")


# ---- the web


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served(case: Case, place: Path, port: int = 0) -> Iterator[dict[str, str]]:
    """The build arguments of a case while its web server runs. ``port``: 0 for any that is free."""
    if not case.serve:
        yield dict(case.args)
        return
    root = place / "served"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in case.serve.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (root / name).write_text(content)
            os.utime(root / name, (STAMP, STAMP))
        else:
            _repository(root / name, content)
    handler = functools.partial(_Handler, directory=os.fspath(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield {**case.args, "SERVER": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.shutdown()


def _repository(bare: Path, files: Mapping[str, str]) -> None:
    """A bare git repository with one commit, ready to be fetched as plain files."""
    work = bare.with_suffix(".work")
    who = {f"GIT_{role}_{key}": "a@fastlayer.invalid" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    when = {f"GIT_{role}_DATE": f"{STAMP} +0000" for role in ("AUTHOR", "COMMITTER")}
    env = {**os.environ, **who, **when, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str | Path) -> None:
        subprocess.run(["git", *words], check=True, capture_output=True, env=env)

    git("init", "-q", "-b", "master", work)
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    git("-C", work, "add", ".")
    git("-C", work, "commit", "-q", "-m", "one")
    git("-C", work, "tag", "v1")
    git("clone", "-q", "--bare", work, bare)
    git("-C", bare, "update-server-info")
    shutil.rmtree(work)
