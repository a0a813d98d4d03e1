"""``diff --upper`` on real overlay mounts: what users of a mount may do to it, and what the kernel stores for them."""

from __future__ import annotations

import functools
import io
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import fastlayer
from fastlayer._backend import Engine
from fastlayer.layer.overlay import has_user_marks
from tests.conftest import needs_root, require
from tests.filesystems import overlay
from tests.integration.command import Place

pytestmark = needs_root


class Mount:
    """``lower``, ``upper`` and, while it is mounted, ``merged``."""

    def __init__(self, where: Path) -> None:
        where.chmod(0o755)
        self.lower, self.upper, self.work = where / "lower", where / "upper", where / "work"
        for path in (self.lower, self.upper, self.work):
            path.mkdir()
        self.merged = Path()

    @contextmanager
    def mounted(self, options: str = "redirect_dir=off,metacopy=off,index=off") -> Iterator[Path]:
        shutil.copystat(self.lower, self.upper)
        with overlay([self.lower], self.upper, self.work, options) as merged:
            self.merged = merged
            yield merged

    def put(self, path: str, data: bytes = b"data", mode: int = 0o644) -> Path:
        where = self.lower / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        where.chmod(mode)
        return where

    def changes(self, userxattr: bool | None = None) -> list[str]:
        with fastlayer.diff_upper(self.upper, [self.lower], userxattr=userxattr) as found:
            return [f"{change.kind} {change.name}" for change in found]

    def whole(self) -> list[str]:
        """The same by reading both trees."""
        with fastlayer.diff(self.lower, self.merged) as found:
            return [f"{change.kind} {change.name}" for change in found]

    def layer(self, userxattr: bool | None = None) -> dict[str, bytes | None]:
        out = io.BytesIO()
        fastlayer.diff_upper(self.upper, [self.lower], out, userxattr=userxattr)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            return {entry.name: tar.extractfile(entry).read() if entry.isreg() else None for entry in tar}  # type: ignore[union-attr]


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path)


def as_nobody(*words: str | Path) -> None:
    require("setpriv")
    subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words], check=True)


def set_attributes(path: Path, **values: bytes) -> None:
    """As nobody: ``user.overlay.NAME``."""
    script = (
        "import os, sys; [os.setxattr(sys.argv[1], w.split('=')[0], w.split('=')[1].encode()) for w in sys.argv[2:]]"
    )
    words = [f"user.overlay.{name}={value.decode()}" for name, value in values.items()]
    as_nobody(sys.executable, "-c", script, path, *words)


@pytest.mark.parametrize(
    ("before", "marks"),
    [
        ([], False),
        (["setpriv", "--bounding-set", "-sys_admin"], False),  # root in a container of the initial user namespace
        (["unshare", "-Ur"], True),
    ],
)
def test_default_namespace_of_the_marks(before: list[str], marks: bool) -> None:
    require(*before[:1])
    script = (
        "import sys; sys.path = sys.argv[1:]; from fastlayer.layer import overlay; print(overlay.has_user_marks(None))"
    )
    done = subprocess.run(
        [*before, sys.executable, "-c", script, *sys.path], capture_output=True, check=True, text=True
    )
    assert done.stdout == f"{marks}\n"


def test_default_namespace_of_an_unprivileged_user() -> None:
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        os._exit(10 + has_user_marks(None))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11


# ---- how much really changed


def test_stat_reads_where_the_layer_reads(engine: Engine, mount: Mount) -> None:
    """A directory moved over another and a file moved over another: the upper directory has neither's bytes."""
    old = random.Random(3).randbytes(500_000)
    for path, data in (("b/g", old), ("d/sub/g", b"i" * 1000 + old), ("f", old), ("e/meta", old[:-1000])):
        mount.put(path, data)
    with mount.mounted("redirect_dir=on,metacopy=on") as merged:
        shutil.rmtree(merged / "b")
        (merged / "d" / "sub").rename(merged / "b")
        (merged / "e" / "meta").rename(merged / "f")
        (merged / "f").chmod(0o600)
        with fastlayer.diff(mount.lower, merged) as changes:
            expected = changes.stat()
        with fastlayer.diff_upper(mount.upper, [mount.lower]) as changes:
            assert changes.stat() == expected
    assert expected.modified_files == 2
    assert expected.changed_bytes is not None and 1000 <= expected.changed_bytes < 600_000


# ---- lower directories


def stack_of(where: Path, count: int) -> list[Path]:
    """The lowest has the bytes of a file that the upper directory has only the attributes of."""
    lowers = [where / f"l{number}" for number in range(count)]
    for path in (where / "upper", *lowers):
        path.mkdir()
    (lowers[-1] / "f").write_bytes(b"far below")
    (where / "upper" / "f").write_bytes(bytes(9))
    os.setxattr(where / "upper" / "f", "trusted.overlay.metacopy", b"")
    return lowers


@pytest.mark.parametrize("backend", ["native", "baseline"])
def test_more_lower_directories_than_open_files(tmp_path: Path, backend: str) -> None:
    where = tmp_path / "layers"
    where.mkdir()
    lowers = stack_of(where, 300)
    place = Place(tmp_path)
    words = ["diff", "--upper", where / "upper", "--lower", ":".join(map(str, lowers)), "-o", "-"]
    env = {"FASTLAYER_BACKEND": backend}
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE)
    layer = place.good(*words, env=env, preexec_fn=lambda: limit((64, 4096)))
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.extractfile("f").read() == b"far below"  # type: ignore[union-attr]
    line = place.refused(*words, env=env, preexec_fn=lambda: limit((64, 64)))
    assert line == "fastlayer: 300 lower directories: Too many open files: raise the limit (ulimit -n)"


def test_names_with_colons(mount: Mount, tmp_path: Path) -> None:
    odd = [tmp_path / name for name in ("a:b", "back\\slash", "c\\:d", "plain")]
    for number, path in enumerate(odd):
        path.mkdir()
        (path / f"f{number}").write_bytes(b"")
        (mount.upper / f"f{number}").write_bytes(b"x")
    text = ":".join(str(path).replace("\\", "\\\\").replace(":", "\\:") for path in odd)
    base = tmp_path / "place"
    base.mkdir()
    out = Place(base).good("diff", "--name-only", "--upper", mount.upper, "--lower", text)
    assert out == b"/\n/f0\n/f1\n/f2\n/f3\n"


@pytest.mark.parametrize("lower", ["l::data", "l:m::d1::d2", "::d"])
def test_data_only_directories_are_refused(tmp_path: Path, lower: str) -> None:
    line = Place(tmp_path).refused("diff", "--upper", ".", "--lower", lower, code=2)
    assert line == (
        f"fastlayer: {lower}: data-only directories (after `::`) are not supported: compare the mounted overlay"
    )


@pytest.mark.parametrize("lower", ["l:", ":l", ":"])
def test_empty_names_are_refused(tmp_path: Path, lower: str) -> None:
    line = Place(tmp_path).refused("diff", "--upper", ".", "--lower", lower, code=2)
    assert line == f"fastlayer: {lower}: an empty name: separate lower directories by one colon"


# ---- hard links


@pytest.mark.parametrize(
    "options", ["redirect_dir=on,metacopy=on,index=off", "redirect_dir=off,metacopy=off,index=off"]
)
def test_links_that_a_copy_up_breaks(engine: Engine, mount: Mount, options: str) -> None:
    for name in ("one", "two", "three"):
        os.link(mount.put(f"{name}-1"), mount.lower / f"{name}-2")
    with mount.mounted(options) as merged:
        for name in ("one-1", "two-1", "two-2", "three-1"):
            (merged / name).chmod(0o600)
            (merged / name).chmod(0o644)
        (merged / "three-2").unlink()
        upper, whole = mount.changes(), mount.whole()
        assert upper == ["C /", "C /one-1", "D /three-2", "C /two-1", "C /two-2"]
        assert [line for line in whole if line not in upper] == ["C /one-2"]  # whose link count is all that changed
        assert mount.layer().keys() == {".", "one-1", "two-1", "two-2", ".wh.three-2"}


def test_links_that_an_index_keeps(engine: Engine, mount: Mount) -> None:
    os.link(mount.put("f1"), mount.lower / "f2")
    with mount.mounted("index=on,redirect_dir=off,metacopy=off") as merged:
        (merged / "f1").chmod(0o600)
        (merged / "f1").chmod(0o644)
        assert mount.changes() == mount.whole() == []


# ---- the namespace of the marks


@pytest.mark.parametrize("options", ["redirect_dir=on,metacopy=on", "redirect_dir=off,metacopy=off,index=off"])
def test_a_user_of_the_mount_makes_no_marks(engine: Engine, mount: Mount, options: str) -> None:
    """Else he reads what the lower layer hides from him and deletes what is not his."""
    mount.put("etc/shadow", b"ROOTSECRET", 0o600)
    for name in ("kept", "hidden"):
        mount.put(f"home/{name}")
    (mount.lower / "home").chmod(0o777)
    with mount.mounted(options) as merged:
        leak, empty, folder, moved = (merged / "home" / name for name in ("leak", "empty", "folder", "moved"))
        as_nobody("sh", "-c", 'printf 0123456789 >"$1"; : >"$2"; mkdir "$3" "$4"', "sh", leak, empty, folder, moved)
        set_attributes(leak, metacopy=b"", redirect=b"/etc/shadow")
        set_attributes(empty, whiteout=b"")
        set_attributes(folder, opaque=b"y")
        set_attributes(moved, redirect=b"/etc")
        as_nobody("sh", "-c", 'chmod 700 "$1"', "sh", folder)
        assert mount.layer() == {
            "home": None, "home/empty": b"", "home/folder": None, "home/leak": b"0123456789", "home/moved": None,
        }  # fmt: skip
        assert mount.changes() == mount.whole()
    assert "trusted.overlay.opaque" not in os.listxattr(mount.upper / "home")


def test_marks_of_a_userxattr_mount_when_asked_for(engine: Engine, mount: Mount) -> None:
    mount.put("d/old")
    with mount.mounted("userxattr") as merged:
        subprocess.run(["rm", "-r", merged / "d"], check=True)
        (merged / "d").mkdir()
        (merged / "d" / "new").write_bytes(b"n")
        os.setxattr(merged / "d" / "new", "user.overlay.escaped", b"1")  # stored as user.overlay.overlay.escaped
        assert mount.changes(userxattr=True) == mount.whole() == ["C /", "C /d", "A /d/new", "D /d/old"]
        assert "D /d/old" not in mount.changes()
        with fastlayer.diff_upper(mount.upper, [mount.lower]) as found:
            assert found.warnings[0].endswith("if it was mounted with userxattr, say so")


def test_without_privileges_the_marks_are_user_overlay(mount: Mount) -> None:
    """Who cannot see trusted.* mounts with userxattr: no option is needed."""
    require("unshare")
    mount.put("d/old")
    script = """
set -e
mount -t overlay overlay -o "userxattr,lowerdir=$1,upperdir=$2,workdir=$3" "$4"
rm -r "$4/d"; mkdir "$4/d"; umount "$4"
exec "$5" -m fastlayer diff --upper "$2" --lower "$1"
"""
    merged = mount.lower.parent / "merged"
    merged.mkdir()
    words = ["unshare", "-Urm", "sh", "-c", script, "sh", mount.lower, mount.upper, mount.work, merged, sys.executable]
    done = subprocess.run(words, capture_output=True, check=False)
    if b"mount" in done.stderr:
        pytest.skip(f"no overlay in a user namespace here: {done.stderr.decode()}")
    assert (done.stdout, done.stderr) == (b"C /\nC /d\nD /d/old\n", b"")
