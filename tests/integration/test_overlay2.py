"""The driver overlay2 on real file systems, as root and as somebody in a user namespace."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.drivers.overlay2 import Overlay2, layout
from fastlayer.errors import DriverError, NoSpaceError
from fastlayer.mounts import mounting, overlay, table
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import Probe
from fastlayer.snapshot.snapshotter import Snapshotter
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.integration.test_filesystems import tmpfs
from tests.integration.userns import unshared
from tests.snapshots import commit_layer, mounted, snapshots

pytestmark = needs_root
MIB = 1 << 20


@pytest.fixture(scope="module", params=["tmpfs", "xfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tmpfs() if request.param == "tmpfs" else loop_fs(request.param) as where:
        yield where


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(dir=disk))
    yield where
    subprocess.run(["rm", "-rf", "--", where], check=True)


def let_in(place: Path) -> None:
    """Opens the way to the file system of the tests for everybody."""
    for path in place.parents:
        if path.name.startswith("fastlayer-fs-") or path == place.parent:
            path.chmod(0o755)


# ---- every file system ---------------------------------------------------------------------------


def test_the_unit_tests_on_this_file_system(place: Path) -> None:
    """Once more, where whiteouts, attributes and blocks are the file system's."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_overlay2.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "FASTLAYER_TEST_TMP": str(place)},
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " skipped" not in done.stdout


def test_the_unit_tests_in_a_user_namespace(place: Path) -> None:
    """As an unprivileged user: `userxattr` instead of trusted attributes."""
    tests = ["tests/unit/test_overlay2.py", "tests/unit/test_mounts.py"]
    let_in(place)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = unshared(command, place, FASTLAYER_TEST_TMP=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_store_of_a_user_namespace_is_read_by_root(place: Path) -> None:
    """But not the other way round."""
    let_in(place)
    code = f"""
import sys
from pathlib import Path
from tests.snapshots import commit_layer, mounted, snapshots
with snapshots(Path({str(place)!r})) as found:
    commit_layer(found, "base", {{"d/": None, "d/low": b"low", "gone": b"gone"}})
    found.prepare("work", "base")
    with mounted(found, "work") as where:
        (where / "gone").unlink()
        (where / "d/low").unlink()
        (where / "d").rmdir()
        (where / "d").mkdir()
    found.commit("top", "work")
"""
    done = unshared([sys.executable, "-c", code], place)
    assert done.returncode == 0, done.stderr
    with snapshots(place) as found:
        assert layout.read(found.driver.root) == layout.Layout("overlay-userxattr")
        with mounted(found, "top") as where:
            assert os.listdir(where) == ["d"] and os.listdir(where / "d") == []
        assert {c.name for c in found.changes("top")} >= {"/gone", "/d/low"}
        upper = found.driver.root / str(found.number("top")[0]) / "diff"
        assert stat.S_ISCHR((upper / "gone").lstat().st_mode)
        assert os.getxattr(upper / "d", "user.overlay.opaque") == b"y"


def test_300_layers(place: Path) -> None:
    with snapshots(place) as found:
        parent = None
        for number in range(320):
            found.prepare("next", parent)
            diff = found.driver.root / str(found.number("next")[0]) / "diff"
            (diff / f"{number}").write_text(str(number))
            (diff / "same").write_text(str(number))
            parent = f"layer {number}"
            found.commit(parent, "next")
        with mounted(found, parent or "") as where:
            assert len(os.listdir(where)) == 321 and (where / "same").read_text() == "319"
        found.prepare("work", parent)
        mounts = found.mounts("work")
        with mounted(found, "work") as where:
            (where / "0").write_text("new")
            assert os.listdir(found.driver.root / str(found.number("work")[0]) / "diff") == ["0"]
        assert [c.name for c in found.changes("work") if c.path] == ["/0"]
        assert len(mounts[0].lowers) == 320


# ---- sharing data --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xfs() -> Iterator[Path]:
    with loop_fs("xfs") as where:
        yield where


@pytest.fixture
def sharing(xfs: Path) -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(dir=xfs))
    yield where
    subprocess.run(["rm", "-rf", "--", where], check=True)


def free(path: Path) -> int:
    os.sync()
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_copy_up_and_duplicate_share_blocks(sharing: Path) -> None:
    with snapshots(sharing) as found:
        commit_layer(found, "base", {"big": os.urandom(20 * MIB), "small": b"small"})
        assert found.usage("base").shared == 0
        found.prepare("work", "base")
        before = free(sharing)
        number, parents = found.number("work")
        assert found.driver.copy_up(number, parents, [b"big"]) == 20 * MIB
        used = found.driver.usage(number, parents)
        assert used.bytes >= used.shared >= 20 * MIB
        found.duplicate("copy", "work")
        assert before - free(sharing) < MIB
        with mounted(found, "work") as where, open(where / "big", "r+b") as file:
            file.write(bytes(8 * MIB))
        used = found.driver.usage(number, parents)
        assert 7 * MIB <= used.bytes - used.shared <= 9 * MIB
        assert 7 * MIB <= before - free(sharing) <= 10 * MIB


# ---- what only real root can have ----------------------------------------------------------------


def test_metacopy_and_redirects(sharing: Path) -> None:
    with snapshots(sharing) as found:
        commit_layer(found, "base", {"d/": None, "d/big": os.urandom(8 * MIB), "d/sub/": None, "d/sub/file": b"file"})
        found.prepare("work", "base", options={"metacopy": "on", "redirect_dir": "on"})
        with mounted(found, "work") as where:
            wanted = (where / "d/big").read_bytes()
            (where / "d/big").chmod(0o600)
            os.rename(where / "d", where / "renamed")
        assert found.usage("work").bytes < MIB
        number, parents = found.number("work")
        diff = found.driver.root / str(number) / "diff"
        assert os.getxattr(diff / "renamed", "trusted.overlay.redirect") == b"d"
        assert "trusted.overlay.metacopy" in os.listxattr(diff / "renamed/big")
        with found.changes("work") as changes:
            listed = {(str(c.kind), c.name) for c in changes}
        assert {("D", "/d"), ("A", "/renamed"), ("A", "/renamed/big"), ("A", "/renamed/sub/file")} <= listed
        for path in (b"renamed/big", b"renamed/sub/file"):
            with pytest.raises(DriverError, match="mount the snapshot and open the file"):
                found.driver.copy_up(number, parents, [path])
        found.duplicate("copy", "work")
        found.commit("top", "work")
    with snapshots(sharing) as found:  # the options are remembered: without them the kernel would refuse
        found.prepare("child", "top")
        for key in ("top", "copy", "child"):
            with mounted(found, key) as where:
                assert (where / "renamed/big").read_bytes() == wanted
                assert stat.S_IMODE((where / "renamed/big").stat().st_mode) == 0o600
                assert (where / "renamed/sub/file").read_bytes() == b"file" and not (where / "d").exists()


def test_no_metacopy_in_a_user_namespace(place: Path) -> None:
    let_in(place)
    code = (
        "from fastlayer.drivers.overlay2 import Overlay2; from pathlib import Path\n"
        f"try: Overlay2(Path({str(place)!r})).check_options({{'metacopy': 'on'}}, 'active')\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    done = unshared([sys.executable, "-c", code], place)
    assert done.stdout.startswith("DriverError driver overlay2: metacopy is for root only"), done


@pytest.mark.parametrize("detached", [True, False])
def test_idmapped_layers(sharing: Path, monkeypatch: pytest.MonkeyPatch, detached: bool) -> None:
    """What the users of the container own is stored as if there were no map."""
    if not detached:
        monkeypatch.setattr(overlay, "_takes_detached", lambda mount: False)
    with snapshots(sharing) as found:
        commit_layer(found, "base", {"./": None, "file": b"file"})
        found.prepare("work", "base", options={"id_map": "0:100000:65536"})
        with mounted(found, "work") as where:
            assert (where / "file").stat().st_uid == 100_000 == where.stat().st_uid
            root_of_the_mapped = ["setpriv", "--reuid=100000", "--regid=100000", "--clear-groups"]
            script = "echo changed > file && echo new > new"
            done = subprocess.run([*root_of_the_mapped, "sh", "-c", script], cwd=where, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert (where / "new").stat().st_uid == 100_000
        diff = found.driver.root / str(found.number("work")[0]) / "diff"
        assert [(diff / name).stat().st_uid for name in ("new", "file", ".")] == [0, 0, 0]
        assert {c.name for c in found.changes("work")} >= {"/file", "/new"}


# ---- refusals ------------------------------------------------------------------------------------


def test_an_overlay_cannot_lie_on_an_overlay(place: Path) -> None:
    for name in ("lower", "upper", "work"):
        (place / name).mkdir()
    options = (f"upperdir={place / 'upper'}", f"workdir={place / 'work'}")
    with mounting.temporary([Mount("overlay", "overlay", options, (str(place / "lower"),))]) as where:
        verdict = Overlay2.probe(where)
        assert not verdict.works and "overlay cannot be written to through overlayfs" in verdict.why
        assert "keep the store on ext4, XFS" in verdict.remedy
        assert os.listdir(where) == []


def test_a_root_that_is_read_only(place: Path) -> None:
    with mounting.temporary([Mount("bind", str(place), ("ro",))]) as where:
        verdict = Overlay2.probe(where)
    assert not verdict.works and "Read-only file system" in verdict.why


def test_without_rights_and_with_those_of_a_namespace(place: Path) -> None:
    let_in(place)
    code = (
        "from fastlayer.drivers.overlay2 import Overlay2; from pathlib import Path\n"
        f"print(*Overlay2.probe(Path({str(place)!r})), sep='|')"
    )
    done = unshared([sys.executable, "-c", code], place)
    assert done.stdout == "True||\n", done
    done = unshared(["setpriv", "--bounding-set=-sys_admin", "--", sys.executable, "-c", code], place)
    assert done.stdout.startswith("False|not permitted to mount|run as root, or inside `fastlayer unshare`"), done
    assert os.listdir(place) == []


def test_a_kernel_without_overlayfs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer.errors import StorageError

    def refuse() -> overlay.Means:
        raise StorageError(19, "fsopen", b"overlay")

    monkeypatch.setattr(overlay, "means", refuse)
    assert Overlay2.probe(place) == Probe(
        False, "this kernel has no overlayfs", "load its module (modprobe overlay), or use the driver vfs"
    )


def test_a_full_file_system() -> None:
    with loop_fs("ext4", 20 * MIB) as where, snapshots(where) as found:
        commit_layer(found, "base", {"file": bytes(3 * MIB)})
        found.prepare("work", "base")
        with open(where / "filler", "wb") as file, contextlib.suppress(OSError):
            while file.write(bytes(MIB)):
                file.flush()
        number, parents = found.number("work")
        with pytest.raises(NoSpaceError, match="No space left"):
            found.driver.copy_up(number, parents, [b"file"])
        before = found.driver.numbers()
        with pytest.raises(NoSpaceError):
            fill(found, number)
        assert found.driver.numbers() == before
        (where / "filler").unlink()
        found.remove("work")


def fill(found: Snapshotter, number: int) -> None:
    """What is in the upper directory does not fit a second time."""
    diff = found.driver.root / str(number) / "diff"
    room = os.statvfs(diff)
    (found.driver.root.parent / "filler").unlink()
    with open(diff / "half", "wb") as file:
        file.write(os.urandom(room.f_blocks * room.f_frsize * 6 // 10))
    try:
        found.duplicate("copy", "work")
    finally:
        (found.driver.root.parent / "filler").touch()


# ---- killed --------------------------------------------------------------------------------------


def test_killed_while_it_removes(sharing: Path) -> None:
    """The next call finishes, wherever the first was."""
    (sharing / "overlay2").mkdir()
    driver = Overlay2(sharing / "overlay2")
    for round_number in range(6):
        driver.create(1, [], "active")
        for top in range(60):
            (sharing / f"overlay2/1/diff/{top}").mkdir()
            for name in range(60):
                (sharing / f"overlay2/1/diff/{top}/{name}").write_bytes(b"x")
        code = (
            "from fastlayer.drivers.overlay2 import Overlay2; from pathlib import Path\n"
            f"d = Overlay2(Path({str(driver.root)!r})); print(1, flush=True); d.remove(1)"
        )
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(0.004 * round_number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        driver.remove(1)
        assert driver.numbers() == set()


def test_nothing_stays_mounted() -> None:
    """After all tests above."""
    left = [entry.target for entry in table.entries() if b"fastlayer-mount" in entry.target]
    assert left == []
