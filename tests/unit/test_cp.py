"""Copies between roots: names, merging, owners, archives, and that nothing leads out of a root. Both engines."""

from __future__ import annotations

import io
import itertools
import os
import socket
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastlayer import _backend
from fastlayer.container.cp import archive
from fastlayer.container.cp.copying import copy, extract
from fastlayer.container.cp.spot import Side
from fastlayer.errors import FastlayerError, LayerError, NotFoundError, OperandError, UsageError
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.stores import tree

WHEN = 978_307_200  # seconds


class Roots:
    """Two roots: ``inside`` has a label, ``outside`` has none."""

    def __init__(self, place: Path) -> None:
        self.inside = tree(place / "inside", {"etc/passwd": "root", "data/": "", "full/x": "old", "full/keep": "kept"})
        self.outside = tree(place / "outside", {"f": "1", "d/x": "2", "d/sub/y": "3"})
        os.utime(self.outside / "d/x", (WHEN, WHEN))
        os.utime(self.outside / "d", (WHEN, WHEN))

    def into(self, source: str, dest: str, **more: Any) -> tuple[str, ...]:
        with side(self.outside, source) as a, side(self.inside, dest, "c:") as b:
            return copy(a, b, **more)

    def out(self, source: str, dest: str, **more: Any) -> tuple[str, ...]:
        with side(self.inside, source, "c:") as a, side(self.outside, dest) as b:
            return copy(a, b, **more)

    def tar(self, source: str, **more: Any) -> tarfile.TarFile:
        out = io.BytesIO()
        with side(self.inside, source, "c:") as a:
            archive.write(a, out, **more)
        out.seek(0)
        return tarfile.open(fileobj=out)


@contextmanager
def side(root: Path, path: str, label: str = "") -> Iterator[Side]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Side(fd, path.encode(), label)
    finally:
        os.close(fd)


@pytest.fixture
def roots(tmp_path: Path, engine: _backend.Engine) -> Roots:
    return Roots(tmp_path)


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, dest, wanted",
    [
        ("f", "/new", ["new"]),
        ("f", "new", ["new"]),
        ("f", "/data", ["data/f"]),
        ("f", "/data/", ["data/f"]),
        ("f", "/etc/passwd", []),
        ("d", "/new", ["new", "new/x", "new/sub", "new/sub/y"]),
        ("d/", "/new/", ["new", "new/x", "new/sub", "new/sub/y"]),
        ("d", "/data", ["data/d", "data/d/x", "data/d/sub", "data/d/sub/y"]),
        ("d/.", "/data", ["data/x", "data/sub", "data/sub/y"]),
        ("d/.", "/new", ["new", "new/x", "new/sub", "new/sub/y"]),
        ("d/../d/./sub", "/data/../data", ["data/sub", "data/sub/y"]),
        ("d/sub/..", "/data", ["data/d", "data/d/x", "data/d/sub", "data/d/sub/y"]),
        ("f", "/../../new", ["new"]),
        ("/", "/data", ["data/f", "data/d", "data/d/x", "data/d/sub", "data/d/sub/y"]),
    ],
)
def test_where_things_go(roots: Roots, source: str, dest: str, wanted: list[str]) -> None:
    before = names(roots.inside)
    roots.into(source, dest)
    assert names(roots.inside) == sorted([*before, *wanted])


@pytest.mark.parametrize(
    "source, dest, error, why",
    [
        ("nope", "/x", NotFoundError, "nope: no such file or directory"),
        ("f/", "/x", OperandError, "f/: is not a directory"),
        ("f/.", "/x", OperandError, "is not a directory"),
        ("f/x", "/x", OperandError, "f is not a directory"),
        ("nope/x", "/x", NotFoundError, "there is no directory nope on the way"),
        ("f", "/nope/", NotFoundError, "c:/nope/: no such directory"),
        ("f", "/nope/x", NotFoundError, "c:/nope/x: there is no directory nope"),
        ("d", "/etc/passwd", OperandError, "c:/etc/passwd: is not a directory"),
        ("d/.", "/etc/passwd", OperandError, "is not a directory"),
        ("f", "/etc/passwd/", OperandError, "c:/etc/passwd/: "),
        ("", "/x", UsageError, "the path is empty"),
        ("f", "", UsageError, "c:: the path is empty"),
    ],
)
def test_what_is_refused(roots: Roots, source: str, dest: str, error: type[Exception], why: str) -> None:
    before = names(roots.inside)
    with pytest.raises(error, match=why):
        roots.into(source, dest)
    assert names(roots.inside) == before


def test_directories_are_merged_and_files_replaced(roots: Roots) -> None:
    tree(roots.outside / "full", {"x": "new", "more/y": "1"})
    roots.into("full", "/")
    assert (roots.inside / "full/x").read_text() == "new" and (roots.inside / "full/keep").read_text() == "kept"
    assert (roots.inside / "full/more/y").read_text() == "1"


@needs_root
def test_what_does_not_fit_is_found_first_on_btrfs_too(engine: _backend.Engine) -> None:
    with loop_fs("btrfs") as where:
        roots = Roots(where)
        tree(roots.outside / "full", {"a": "1", "z": "2"})
        tree(roots.inside / "full", {"z/y": "there"})
        before = names(roots.inside)
        with pytest.raises(OperandError, match="/z: a file does not replace a directory"):
            roots.into("full", "/")
        assert names(roots.inside) == before


@pytest.mark.parametrize("file_in", ["tree", "place"])
def test_a_file_and_a_directory_do_not_replace_each_other(roots: Roots, file_in: str) -> None:
    """Found out before anything has been moved."""
    tree(roots.outside / "full", {"a": "1", "z" if file_in == "tree" else "z/y": "2"})
    tree(roots.inside / "full", {"z/y" if file_in == "tree" else "z": "there"})
    before = names(roots.inside)
    with pytest.raises(OperandError, match=r"/z: a \w+ does not replace a \w+: remove that first"):
        roots.into("full", "/")
    assert names(roots.inside) == before
    (roots.outside / "y").write_text("1")
    (roots.outside / "z").write_text("1")
    with pytest.raises(OperandError, match="which a file does not replace" if file_in == "tree" else "is not a direc"):
        roots.into("z", "/full") if file_in == "tree" else roots.into("y", "/full/z/")


def test_not_into_itself(roots: Roots) -> None:
    with (
        side(roots.inside, "/etc", "c:") as a,
        side(roots.inside, "/etc/x", "c:") as b,
        pytest.raises(OperandError, match="c:/etc/x: lies inside c:/etc"),
    ):
        copy(a, b)
    assert names(roots.inside / "etc") == ["passwd"]


# ---- links -----------------------------------------------------------------------------------------


def test_links_at_the_end(roots: Roots) -> None:
    (roots.outside / "to-file").symlink_to("f")
    (roots.outside / "to-dir").symlink_to("d")
    roots.into("to-file", "/a")
    assert os.readlink(roots.inside / "a") == "f"
    roots.into("to-file", "/b", follow=True)
    assert (roots.inside / "b").read_text() == "1" and not (roots.inside / "b").is_symlink()
    roots.into("to-dir", "/data")
    assert os.readlink(roots.inside / "data/to-dir") == "d"
    roots.into("to-dir/", "/full")
    assert (roots.inside / "full/to-dir/x").read_text() == "2"
    (roots.inside / "link").symlink_to("full/x")
    roots.into("f", "/link")
    assert (roots.inside / "link").is_symlink() and (roots.inside / "full/x").read_text() == "1"
    (roots.inside / "dangling").symlink_to("/data/made")
    roots.into("f", "/dangling")
    assert (roots.inside / "data/made").read_text() == "1"


def test_nothing_leads_out_of_the_root(roots: Roots, tmp_path: Path) -> None:
    tree(tmp_path / "host", {"secret": "s"})
    for name, text in {
        "absolute": tmp_path / "host",
        "up": "../../../../../../../../../../.." + str(tmp_path / "host"),
        "proc": "/proc/self/root" + str(tmp_path / "host"),
        "loop": "loop",
    }.items():
        (roots.inside / name).symlink_to(text)
        with pytest.raises((NotFoundError, OperandError)):
            roots.into("f", f"/{name}/")
        with pytest.raises((NotFoundError, OperandError)):
            roots.out(f"/{name}/secret", "/stolen")
    (roots.inside / "file").symlink_to(tmp_path / "host/secret")
    with pytest.raises(NotFoundError):
        roots.into("f", "/file")
    roots.out("/file", "/stolen")
    assert (roots.outside / "stolen").is_symlink()
    assert names(tmp_path / "host") == ["secret"] and (tmp_path / "host/secret").read_text() == "s"


def test_links_that_change_meanwhile(roots: Roots, tmp_path: Path) -> None:
    """As in a container that runs: a directory becomes a link to one outside and back, all the time."""
    host = tree(tmp_path / "host", {"secret": "s"})
    place, aside = roots.inside / "data", roots.inside / "aside"
    aside.mkdir()
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            with suppress(OSError):  # a copy may have made what is in the way
                place.rename(aside / str(number))
                place.symlink_to(host)
            with suppress(OSError):
                place.unlink()
                (aside / str(number)).rename(place)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(60):
            try:
                roots.into("f" if number % 2 else "d", "/data/")
                roots.out("/data/secret", "/stolen")
            except FastlayerError:
                pass  # what was found is gone
    finally:
        stop.set()
        thread.join()
    assert names(host) == ["secret"] and not (roots.outside / "stolen").exists()


# ---- attributes ------------------------------------------------------------------------------------


@needs_root
def test_attributes_and_owners(roots: Roots) -> None:
    tool = roots.outside / "d/x"
    for path in (roots.outside / "d", tool):
        os.chown(path, 1000, 1001)
    tool.chmod(0o4755)
    os.setxattr(tool, "user.note", b"kept")
    os.link(tool, roots.outside / "d/again")
    os.mkfifo(roots.outside / "d/fifo")
    os.utime(roots.outside / "d", (WHEN, WHEN))
    roots.into("d", "/new")
    made = roots.inside / "new/x"
    status = made.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1001, 0o4755)
    assert status.st_mtime == WHEN and os.getxattr(made, "user.note") == b"kept"
    assert (roots.inside / "new/again").stat().st_ino == status.st_ino
    assert stat.S_ISFIFO((roots.inside / "new/fifo").stat().st_mode)
    top = (roots.inside / "new").stat()
    assert (top.st_uid, top.st_mtime) == (1000, WHEN)
    roots.out("/new", "/mine", owner=(0, 0))
    mine = roots.outside / "mine/x"
    assert (mine.stat().st_uid, stat.S_IMODE(mine.stat().st_mode), mine.stat().st_mtime) == (0, 0o4755, WHEN)
    assert (roots.outside / "mine").stat().st_uid == 0 and (roots.outside / "mine").stat().st_mtime == WHEN
    roots.out("/new/x", "/kept")
    assert (roots.outside / "kept").stat().st_uid == 1000


@needs_root
def test_capabilities_stay(roots: Roots) -> None:
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    tool = roots.inside / "tool"
    tool.write_text("x")
    os.chown(tool, 1000, 1000)
    tool.chmod(0o755)
    os.setxattr(tool, "security.capability", value)
    roots.out("/tool", "/tool", owner=(0, 0))
    assert os.getxattr(roots.outside / "tool", "security.capability") == value
    assert (roots.outside / "tool").stat().st_uid == 0


def test_nothing_of_a_failure_stays(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer.container.cp import put

    def fail(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(put, "_check", fail)
    before, time = names(roots.inside), (roots.inside / "full").stat().st_mtime_ns
    with pytest.raises(OSError, match="No space left"):
        roots.into("d/.", "/full")
    with pytest.raises(OSError, match="No space left"):
        roots.into("d", "/new")
    assert names(roots.inside) == before and (roots.inside / "full").stat().st_mtime_ns == time


def test_sockets(roots: Roots) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(roots.outside / "d")
        try:
            one.bind("sock")
        finally:
            os.chdir(here)
        assert any("socket" in warning for warning in roots.into("d", "/new"))
        with pytest.raises(OperandError, match="is a socket"):
            roots.into("d/sock", "/new/")
    assert names(roots.inside / "new") == ["sub", "sub/y", "x"]


@needs_root
def test_across_mounts(roots: Roots) -> None:
    """A volume in the way is filled, and a file that is a mount point is written to."""
    volume = roots.inside / "full/volume"
    volume.mkdir()
    tree(roots.outside / "full", {"x": "n", "volume/v": "1"})
    hosts = tree(roots.outside / "other", {"hosts": "mounted"}) / "hosts"
    (roots.inside / "etc/hosts").touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", volume], check=True)
    subprocess.run(["mount", "--bind", hosts, roots.inside / "etc/hosts"], check=True)
    try:
        roots.into("full", "/")
        assert (volume / "v").read_text() == "1" and names(volume) == ["v"]
        roots.into("f", "/etc/hosts")
        assert hosts.read_text() == "1" and (roots.inside / "etc/hosts").read_text() == "1"
        assert names(roots.inside / "etc") == ["hosts", "passwd"]
    finally:
        subprocess.run(["umount", volume], check=True)
        subprocess.run(["umount", roots.inside / "etc/hosts"], check=True)
    assert names(volume) == []


@needs_root
def test_what_is_mounted_elsewhere_stays_mounted(roots: Roots) -> None:
    """A file that is a mount point in a container is none here: a rename would take the mount away in there."""
    (roots.inside / "full/hosts").touch()
    (roots.inside / "full/null").touch()
    hosts = tree(roots.outside / "other", {"hosts": "mounted"}) / "hosts"
    tree(roots.outside / "full", {"hosts": "merged", "new": "1"})
    script = 'mount --bind "$1" "$2/hosts" && mount --bind /dev/null "$2/null" && echo ready && exec cat'
    mounted = ["unshare", "--mount", "sh", "-c", script, "sh", str(hosts), str(roots.inside / "full")]
    with subprocess.Popen(mounted, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        try:
            assert other.stdout.readline() == b"ready\n"
            there = Path(f"/proc/{other.pid}/root{roots.inside}")

            def into(source: str, dest: str) -> None:
                with side(roots.outside, source) as a, side(there, dest, "c:") as b:
                    copy(a, b)

            into("f", "/full/hosts")
            assert hosts.read_text() == "1" and (there / "full/hosts").samefile(hosts)
            into("full", "/")
            assert hosts.read_text() == "merged" and (there / "full/new").read_text() == "1"
            with pytest.raises(OperandError, match="c:/full/null: is mounted there"):
                into("f", "/full/null")
            tree(roots.outside / "full", {"null": "x", "new": "2"})
            with pytest.raises(OperandError, match="/null: is mounted there"):
                into("full", "/")
            assert (there / "full/null").is_char_device() and (there / "full/new").read_text() == "1"
        finally:
            other.stdin.close()
    assert (roots.inside / "full/hosts").read_text() == ""


@needs_root
def test_devices_outside_are_not_replaced(roots: Roots) -> None:
    os.mknod(roots.outside / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.symlink("null", roots.outside / "link")
    os.mkfifo(roots.outside / "fifo")
    for name in ("null", "link", "fifo"):
        with pytest.raises(OperandError, match=f"{name}: is neither a file nor a directory"):
            roots.out("etc/passwd", name)
    assert (roots.outside / "null").is_char_device() and (roots.outside / "fifo").is_fifo()
    os.mknod(roots.inside / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    roots.into("f", "/null")  # in a layer it is but a name
    assert (roots.inside / "null").read_text() == "1"


# ---- archives --------------------------------------------------------------------------------------


def test_out_as_a_tar(roots: Roots) -> None:
    os.link(roots.inside / "full/x", roots.inside / "full/y")
    (roots.inside / "full/link").symlink_to("x")
    with roots.tar("/full") as tar:
        assert tar.getnames() == ["full", "full/keep", "full/link", "full/x", "full/y"]
        assert tar.getmember("full/y").islnk() and tar.getmember("full/y").linkname == "full/x"
        assert tar.extractfile("full/x").read() == b"old"  # type: ignore[union-attr]
    with roots.tar("/full/.") as tar:
        assert [name for name in tar.getnames() if name not in ("", ".")] == ["keep", "link", "x", "y"]
    with roots.tar("/full/x") as tar:
        assert tar.getnames() == ["x"] and tar.extractfile("x").read() == b"old"  # type: ignore[union-attr]
    with roots.tar("/full/link") as tar:
        assert tar.getmember("link").linkname == "x"
    with roots.tar("/full/link", follow=True) as tar:
        assert tar.getnames() == ["x"]
    with pytest.raises(NotFoundError):
        roots.tar("/nope")


def _tar(**files: bytes) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    out.seek(0)
    return out


def test_in_as_a_tar(roots: Roots) -> None:
    with side(roots.inside, "/full", "c:") as dest:
        extract(_tar(x=b"new", a__b=b"1"), dest)
        assert (roots.inside / "full/x").read_text() == "new" and (roots.inside / "full/a/b").read_text() == "1"
        assert (roots.inside / "full/keep").read_text() == "kept"
        before = names(roots.inside)
        with pytest.raises(LayerError):
            extract(io.BytesIO(_tar(z=os.urandom(100_000)).getvalue()[:50_000]), dest)
        with pytest.raises(LayerError):
            extract(_tar(**{"..__..__escape": b"x"}), dest)
        assert names(roots.inside) == before
    for path in ("/nope", "/full/x"):
        with side(roots.inside, path, "c:") as dest, pytest.raises(OperandError, match="a directory that exists"):
            extract(_tar(x=b"1"), dest)
