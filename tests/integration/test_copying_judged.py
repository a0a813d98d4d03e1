"""COPY and ADD as BuildKit does them: the layer a real docker makes of an instruction has the entries of our rows."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.errors import FastlayerError
from tests.conftest import needs_root
from tests.copying import Value, close_all, layer, planned
from tests.integration import judges

pytestmark = needs_root

# what docker 20.10's BuildKit knows; {other} is a stage with owners of its own
SAME = """
COPY a.txt /
COPY a.txt /new
COPY a.txt /new/
COPY a.txt /deep/er/new
COPY a.txt /deep/er/new/
COPY a.txt relative
COPY a.txt .
COPY a.txt ./
COPY a.txt sub/
COPY a.txt /d
COPY a.txt /d/
COPY a.txt /d/.
COPY a.txt /file
COPY a.txt /d/../up
COPY a.txt /../../up
COPY ../../a.txt /
COPY /a.txt /new
COPY a.txt /lib/new
COPY a.txt /lib
COPY a.txt /lib/
COPY a.txt /escape/new
COPY a.txt /filelink
COPY a.txt /dangling
COPY a.txt /d/dirlink
COPY a.txt b.txt /new/
COPY a.txt b.txt /d
COPY a.txt dir /new/
COPY dir a.txt /new
COPY dir /new
COPY dir /new/
COPY dir/ /new
COPY dir/. /new
COPY dir /d
COPY dir /
COPY dir/sub dir/empty /new
COPY tree1 tree2 /new
COPY tree2 tree1 /d
COPY . /all
COPY *.txt /new/
COPY ?.txt /new/
COPY [ab].txt /new/
COPY [^a].txt /new/
COPY arr[[]0].txt /new/
COPY ["sp ace.txt", "/new/"]
COPY nested/*/d2/*.txt /new/
COPY nested/*/d2 /new/
COPY d*/sub /new
COPY a.txt nothere* /new/
COPY nothere* /new/
COPY linkfile /new
COPY linkfile /new/
COPY linkdir /new
COPY linkdir/f1 /new
COPY linkabs /new/
COPY linkout /new/
COPY link* /new/
COPY dir/link /new
COPY --chown=5 a.txt /new/x
COPY --chown=5:6 a.txt /deep/er/new/
COPY --chown=someone a.txt /new/x
COPY --chown=someone:staff dir /new
COPY --chown=someone:staff dir /d
COPY --chown=7:staff a.txt /new
COPY --from=other / /new
COPY --from=other /o /new
COPY --from=other /o/ /d
COPY --from=other /o/f /new/
COPY --from=other /o/link /new/
COPY --from=other /o/abs /new/
COPY --from=other --chown=8 /o /new
COPY --from=other /o/hard* /new/
COPY special /new
ADD a.txt /new/
ADD dir /new
ADD t.tar /new
ADD t.tar /new/
ADD t.tar /d
ADD t.tar /
ADD t.tar.gz /new
ADD t.tar.bz2 /new
ADD t.tar.xz /new
ADD --chown=5:6 text.gz /new/
COPY --chmod=640 a.txt b.txt c.md /deep/er/
COPY --chmod=711 tree1 /new
COPY --chmod=711 tree1 /d
COPY --chmod=0 --chown=3 a.txt /d
ADD text.gz /new/
ADD empty.tar /new/
ADD a.txt t.tar /new/
ADD t.tar t.tar.gz /new
ADD *.txt /new/
ADD linktar /new
COPY t.tar /new/
""".strip().splitlines()

BOTH_REFUSE = """
COPY nothere /
COPY a.txt nothere /new/
COPY dir/nothere /
COPY ../nothere /
COPY a.txt /file/x
COPY a.txt /file/
COPY dir /file
COPY clash/d /
COPY clash2/ /
COPY dangle /new/
COPY dang* /new/
COPY --from=other /nothere /
ADD nothere /
ADD cut.tar /new
""".strip().splitlines()


def add(tar: tarfile.TarFile, name: str, mode: int, data: bytes | None = None, **more: object) -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, 1_600_000_000
    info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
    info.size = len(data or b"")
    for key, value in more.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data or b""))


def write_base(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name, mode in {"etc": 0o755, "d": 0o1711, "d/sub": 0o711, "usr": 0o755, "usr/lib": 0o750}.items():
            add(tar, name, mode, uid=11, gid=12)
        add(tar, "etc/passwd", 0o644, b"root:x:0:0::/:\nsomeone:x:1234:2345::/:\n")
        add(tar, "etc/group", 0o644, b"root:x:0:\nstaff:x:50:\n")
        add(tar, "file", 0o600, b"old")
        add(tar, "d/f1", 0o600, b"old f1", uid=9)
        add(tar, "d/sub/old", 0o600, b"old")
        for name, target in {
            "lib": "usr/lib",
            "escape": "../../../../usr",
            "filelink": "etc/passwd",
            "dangling": "d/made/by",
            "d/dirlink": "/usr/lib",
        }.items():
            add(tar, name, 0o777, b"", type=tarfile.SYMTYPE, linkname=target)


def write_other(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        add(tar, "o", 0o2750, uid=21, gid=22)
        add(tar, "o/f", 0o4755, b"set-id", uid=23, gid=24)
        add(tar, "o/sub", 0o700, uid=25, gid=26)
        add(tar, "o/sub/x", 0o640, b"x", uid=27, gid=28)
        add(tar, "o/link", 0o777, b"", type=tarfile.SYMTYPE, linkname="f", uid=29)
        add(tar, "o/abs", 0o777, b"", type=tarfile.SYMTYPE, linkname="/o/sub/x")
        add(tar, "o/hard1", 0o644, b"hard", uid=30)
        add(tar, "o/hard2", 0o644, b"", type=tarfile.LNKTYPE, linkname="o/hard1", uid=30)


def write_archives(context: Path) -> None:
    with tarfile.open(context / "t.tar", "w") as tar:
        add(tar, "./", 0o700, uid=41)
        add(tar, "sub", 0o2770, uid=42, gid=43)
        add(tar, "sub/in", 0o4711, b"in", uid=44, gid=45)
        add(tar, "implied/by/name", 0o640, b"name", uid=46)
        add(tar, "f1", 0o604, b"f1", uid=47)
        add(tar, "hard", 0o604, b"", type=tarfile.LNKTYPE, linkname="f1", uid=47)
        add(tar, "link", 0o777, b"", type=tarfile.SYMTYPE, linkname="../../x", uid=48)
    for suffix, tool in {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}.items():
        with open(context / f"t.tar.{suffix}", "wb") as out:
            subprocess.run([tool, "-c", context / "t.tar"], stdout=out, check=True)
    with open(context / "text.gz", "wb") as out:
        subprocess.run(["gzip", "-nc"], input=b"only text " * 100, stdout=out, check=True)
    (context / "empty.tar").write_bytes(bytes(10240))
    (context / "linktar").symlink_to("t.tar")
    with tarfile.open(context / "cut.tar", "w") as tar:
        add(tar, "big", 0o644, bytes(100_000))
    os.truncate(context / "cut.tar", 50_000)


def write_context(context: Path) -> None:
    files = {
        "a.txt": 0o644,
        "b.txt": 0o600,
        "c.md": 0o755,
        "arr[0].txt": 0o644,
        "sp ace.txt": 0o640,
        "dir/f1": 0o644,
        "dir/sub/f2": 0o4755,
        "dir/hard1": 0o644,
        "clash/d": 0o644,
        "clash2/file/x": 0o644,
        "tree1/same": 0o644,
        "tree1/sub/one": 0o644,
        "tree2/same": 0o600,
        "tree2/sub/two": 0o600,
        "special/x": 0o1644,
        "nested/d1/d2/deep.txt": 0o644,
    }
    for name, mode in files.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(mode)
    (context / "dir/empty").mkdir()
    os.link(context / "dir/hard1", context / "dir/hard2")
    for name, mode in {
        "dir": 0o750,
        "dir/sub": 0o700,
        "dir/empty": 0o1777,
        "tree1/sub": 0o700,
        "tree2/sub": 0o711,
    }.items():
        (context / name).chmod(mode)
    links = {"linkfile": "a.txt", "linkdir": "dir", "linkabs": "/a.txt", "linkout": "../../../a.txt", "dir/link": "f1"}
    links["dangle"] = "nowhere"
    for name, target in links.items():
        (context / name).symlink_to(target)
    (context / "dir/dangles").symlink_to("/nowhere/at/all")
    write_archives(context)


class Docker:
    """A docker whose command still has BuildKit in it, and the bases of all cases, built once."""

    def __init__(self, words: list[str | Path], work: Path) -> None:
        self.work = work
        self._words = words
        self.context = work / "context"
        self.context.mkdir(mode=0o755)
        write_context(self.context)
        self.lower, self.other = work / "lower", work / "other"
        for name, write, target in (("base", write_base, self.lower), ("other", write_other, self.other)):
            write(work / f"{name}.tar")
            (work / name / "build").mkdir(parents=True)
            shutil.copy(work / f"{name}.tar", work / name / "build")
            target.mkdir(exist_ok=True)
            subprocess.run(["tar", "--numeric-owner", "-xpf", work / f"{name}.tar", "-C", target], check=True)
            (work / name / "build/Dockerfile").write_text(f"FROM scratch\nADD {name}.tar /\n")
            assert self.run("build", "-t", name, work / name / "build").returncode == 0
        shutil.rmtree(self.other / "build")

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        return subprocess.run([*self._words, *words], env=env, capture_output=True)

    def layer(self, line: str) -> dict[str, Value] | str:
        """The entries of the layer of an instruction, or why it was refused."""
        file = self.work / "Dockerfile"
        file.write_text(f"FROM other AS other\nFROM base\nWORKDIR /d\n{line}\n")
        done = self.run("build", "-t", "case", "-f", file, self.context)
        if done.returncode:
            return done.stderr.decode()[-600:]
        saved = self.run("save", "case")
        with tarfile.open(fileobj=io.BytesIO(saved.stdout)) as image:
            manifest = json.load(image.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
            data = image.extractfile(manifest["Layers"][-1])
            config = json.load(image.extractfile(manifest["Config"]))  # type: ignore[arg-type]
            assert data is not None
            if len(manifest["Layers"]) == 1 or config["history"][-1].get("empty_layer"):
                return {}
            with tarfile.open(fileobj=data) as tar:
                return entries(tar)


def entries(tar: tarfile.TarFile) -> dict[str, Value]:
    found: dict[str, Value] = {}
    same: dict[str, list[str]] = {}
    for info in tar:
        name = info.name.strip("/")
        if info.islnk():
            same.setdefault(info.linkname.strip("/"), [info.linkname.strip("/")]).append(name)
            continue
        kind = "-" if info.isreg() else "d" if info.isdir() else "l" if info.issym() else "c"
        what: object = (info.devmajor, info.devminor)
        if kind == "-":
            file = tar.extractfile(info)
            assert file is not None
            what = file.read()
        elif kind == "l":
            what = info.linkname.encode()
        found[name] = (kind, 0o777 if kind == "l" else info.mode & 0o7777, info.uid, info.gid, what, ())
    for first, names in same.items():
        for name in names:
            found[name] = (*found[first][:5], tuple(sorted(names)))
    found.pop("", None)
    return found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    judge = judges.Docker()
    judges.need(judge)
    work = Path("/dev/shm") / f"copying-{os.getpid()}"
    judges.fresh(work)
    try:
        with judge.daemon(work) as words:
            yield Docker([command_with_buildkit(), *words[1:]], work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def command_with_buildkit() -> str:
    """A docker that needs no plugin for it: the one that came with the daemon."""
    for directory in ("/usr/bin", "/usr/local/bin"):
        command = f"{directory}/docker"
        if os.access(command, os.X_OK):
            version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
            if version.startswith("Docker version 20."):
                return command
    pytest.skip("no docker with BuildKit of its own")


def ours(docker: Docker, line: str) -> dict[str, Value] | str:
    from_other = "--from=other" in line
    tree = docker.other if from_other else docker.context
    try:
        found, copying = planned(line, tree, docker.lower, docker.work, workdir="/d", keep_owner=from_other)
        return layer(copying, found.roots)
    except FastlayerError as exc:
        return str(exc)
    finally:
        close_all()


@pytest.mark.parametrize("line", SAME)
def test_the_same_layer(docker: Docker, line: str) -> None:
    mine, theirs = ours(docker, line), docker.layer(line)
    assert mine == theirs


@pytest.mark.parametrize("line", BOTH_REFUSE)
def test_both_refuse(docker: Docker, line: str) -> None:
    mine, theirs = ours(docker, line), docker.layer(line)
    assert isinstance(mine, str), mine
    assert isinstance(theirs, str), theirs
    assert "\n" not in mine
