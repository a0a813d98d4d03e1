"""The extractor as an object: limits, errors, life cycle; without root; and the rules without openat2."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.errors import (
    LayerFormatError,
    LimitError,
    StorageError,
    UnsafeEntryError,
    UsageError,
)
from tests.applying import (
    apply,
    char,
    directory,
    fifo,
    file,
    folder,
    hardlink,
    mode,
    named,
    names,
    owner,
    put,
    symlink,
    with_xattrs,
    xattrs,
)
from tests.conftest import needs_root
from tests.corpus.tarparts import END, pax

pytestmark = needs_root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir(mode=0o755)
    return path


# ---- the object ------------------------------------------------------------------------------------------------------


def test_root_gets_its_attributes(engine: Any, target: Path) -> None:
    put(target / "x")
    apply(engine, target, with_xattrs(folder(b"./", mode=0o711, uid=3, gid=4, mtime=5), user__a=b"1"))
    assert (mode(target), owner(target), target.stat().st_mtime, xattrs(target)) == (0o711, (3, 4), 5, {"user.a": b"1"})
    assert names(target) == ["x"]


@pytest.mark.parametrize(
    "limits,layer",
    [
        ({"max_entries": 2}, file(b"a") + file(b"b") + file(b".wh.x")),
        ({"max_size": 10}, file(b"a", b"123456") + file(b"b", b"12345")),
        ({"max_file_size": 5}, file(b"a", b"123456")),
        ({"max_pax": 600}, pax(("comment", b"x" * 700)) + file(b"a")),
    ],
)
def test_limits(engine: Any, target: Path, limits: dict[str, int], layer: bytes) -> None:
    with pytest.raises(LimitError):
        apply(engine, target, layer, **limits)
    apply(engine, target, layer, **{name: value * 3 for name, value in limits.items()})


def test_limits_count_per_layer(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"a", b"12345"), file(b"b", b"12345"), max_entries=1, max_size=5)


def test_cut_archive(engine: Any, target: Path) -> None:
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd)
        extractor.begin_layer()
        extractor.feed(file(b"a", b"x" * 1000)[:-600])
        with pytest.raises(LayerFormatError):
            extractor.end_layer()
        extractor.abort()


def test_nothing_after_the_end_is_extracted(engine: Any, target: Path) -> None:
    apply(engine, target, file(b"a") + END + file(b"b"))
    assert names(target) == ["a"]


def test_calls_out_of_order(engine: Any, target: Path) -> None:
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd)
        with pytest.raises(UsageError):
            extractor.feed(file(b"a"))
        with pytest.raises(UsageError):
            extractor.end_layer()


def test_abort_closes_everything(engine: Any, target: Path) -> None:
    with directory(target) as fd:
        before = len(os.listdir("/proc/self/fd"))
        extractor = engine.extract.Extractor(fd)
        extractor.begin_layer()
        extractor.feed(file(b"a/b/c") + folder(b"d/e/f") + file(b"open", b"x" * 4000)[:1024])
        extractor.abort()
        extractor.abort()
        assert len(os.listdir("/proc/self/fd")) == before


def test_counters_run_over_all_layers(engine: Any, target: Path) -> None:
    with directory(target) as fd:
        extractor = engine.extract.Extractor(fd)
        for _ in range(2):
            extractor.begin_layer()
            extractor.feed(file(b"a", b"xyz") + file(b".wh.b") + END)
            extractor.end_layer()
        assert (extractor.entries, extractor.payload) == (4, 6)
        extractor.abort()
        assert (extractor.entries, extractor.payload) == (4, 6)


def test_fsync_gives_the_same_tree(engine: Any, target: Path) -> None:
    apply(engine, target, folder(b"d", mtime=5) + file(b"d/a", b"x"), fsync=True)
    assert (target / "d").stat().st_mtime == 5
    assert (target / "d/a").read_bytes() == b"x"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", path], capture_output=True).returncode != 0:
        pytest.skip("tmpfs cannot be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def test_full_and_read_only_targets_name_the_file(engine: Any, small: Path) -> None:
    with pytest.raises(StorageError, match=r"d/big: .*: No space left") as failed:
        apply(engine, small, file(b"d/big", b"x" * (1 << 20)))
    assert failed.value.filename == b"d/big"
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    with pytest.raises(StorageError, match=r"e: .*: Read-only file system"):
        apply(engine, small, file(b"e", b"x"))


# ---- without root ----------------------------------------------------------------------------------------------------


def as_nobody(target: Path, action: Callable[[Path], object]) -> None:
    """Runs action in a process of user 65534, to whom target is given (a fork: he may not read the code)."""
    os.chown(target, 65534, 65534)
    with directory(target) as fd:
        pid = os.fork()
        if pid == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                action(Path(f"/proc/self/fd/{fd}"))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_ignore_chown_leaves_owners_and_then_set_id_bits(engine: Any, target: Path) -> None:
    layer = file(b"d/su", b"x", mode=0o4755) + file(b"b", uid=5, mode=0o640) + file(b"own", uid=65534, gid=65534)

    def action(place: Path) -> None:
        with pytest.raises(StorageError) as failed:
            apply(engine, place, file(b"first"))
        assert failed.value.filename == b"first"
        stats = apply(engine, place, layer, ignore_chown=True)[0]
        assert len(stats.warnings) == 1
        assert "set-id" in stats.warnings[0]

    apply(engine, target)  # loads the engine's module
    as_nobody(target, action)
    assert owner(target / "d/su") == (65534, 65534)
    assert (mode(target / "d"), mode(target / "d/su"), mode(target / "b")) == (0o755, 0o755, 0o640)


def test_closed_directories_do_not_stop_their_owner(engine: Any, target: Path) -> None:
    first = folder(b"r", mode=0o555, mtime=5) + file(b"r/x") + folder(b"r/n", mode=0, mtime=6) + file(b"r/n/y")
    first += with_xattrs(file(b"ro", mode=0o444), user__a=b"1") + with_xattrs(folder(b"r/x2", mode=0o500), user__b=b"2")
    second = file(b"r/n/z") + file(b"r/.wh.x")

    def action(place: Path) -> None:
        for layer in (first, second):
            apply(engine, place, layer, ignore_chown=True)

    apply(engine, target)
    as_nobody(target, action)
    assert [mode(target / n) for n in ("r", "r/n", "ro", "r/x2")] == [0o555, 0, 0o444, 0o500]
    assert names(target) == ["r", "r/n", "r/n/y", "r/n/z", "r/x2", "ro"]
    assert ((target / "r").stat().st_mtime, (target / "r/n").stat().st_mtime) == (5, 6)
    assert (xattrs(target / "ro"), xattrs(target / "r/x2")) == ({"user.a": b"1"}, {"user.b": b"2"})
    as_nobody(target, lambda place: apply(engine, place, file(b".wh.r"), ignore_chown=True))
    assert names(target) == ["ro"]


DEVICES = (
    folder(b"dev", uid=65534, gid=65534, mtime=5)
    + char(b"dev/null", 1, 3)
    + named(b"dev/disk", b"4", major=8, minor=0)
    + hardlink(b"dev/other", b"dev/null")
    + hardlink(b"again", b"dev/other")
    + fifo(b"pipe")
    + file(b"last", b"x")
)


def test_devices_that_may_not_be_made_are_left_out_with_their_links(engine: Any, target: Path) -> None:
    put(target / "again")
    put(target / "dev/null")
    os.chown(target / "dev", 65534, 65534)

    def action(place: Path) -> None:
        with pytest.raises(StorageError) as failed:
            apply(engine, place, DEVICES, ignore_chown=True)
        assert (failed.value.errno, failed.value.op, failed.value.filename) == (errno.EPERM, "mknod", b"dev/null")
        stats = apply(engine, place, DEVICES, ignore_chown=True, skip_devices=True)[0]
        assert stats.warnings == ("4 devices not made: Operation not permitted (first: dev/null)",)
        assert (stats.entries, stats.skipped_xattrs, stats.needs_lower) == (7, 0, False)

    apply(engine, target)
    as_nobody(target, action)
    assert names(target) == ["dev", "last", "pipe"]
    assert (target / "dev").stat().st_mtime == 5


def test_devices_are_made_where_they_can_be(engine: Any, target: Path) -> None:
    (stats,) = apply(engine, target, DEVICES, skip_devices=True)
    assert stats.warnings == ()
    assert names(target) == ["again", "dev", "dev/disk", "dev/null", "dev/other", "last", "pipe"]
    assert (target / "again").stat().st_nlink == 3


def test_what_takes_the_place_of_a_device_that_was_left_out(engine: Any, target: Path) -> None:
    layer = char(b"a", 1, 3) + file(b"a", b"x") + hardlink(b"b", b"a")
    layer += char(b"d", 1, 3) + folder(b"d") + char(b"e", 1, 3) + symlink(b"e", b"a") + hardlink(b"f", b"e")
    layer += char(b"g", 1, 3) + file(b".wh.g")

    def action(place: Path) -> None:
        (stats,) = apply(engine, place, layer, ignore_chown=True, skip_devices=True)
        assert stats.warnings == ("4 devices not made: Operation not permitted (first: a)",)
        for wrong in (hardlink(b"x", b"never"), char(b"n", 1, 3) + hardlink(b"n", b"n")):
            with pytest.raises(UnsafeEntryError):
                apply(engine, place, wrong, ignore_chown=True, skip_devices=True)

    apply(engine, target)
    as_nobody(target, action)
    assert names(target) == ["a", "b", "d", "e", "f"]
    assert (target / "b").read_bytes() == b"x" and (target / "f").is_symlink()


def test_markers_after_a_device_that_was_left_out(engine: Any, target: Path) -> None:
    """They spare what the layer made; a directory that was made for nothing else goes."""
    layer = file(b"top") + file(b"d/own") + char(b"d/null", 1, 3) + file(b".wh.d") + char(b"e/f/null", 1, 3)
    layer += file(b".wh.e") + char(b"n", 1, 3) + file(b".wh.n") + hardlink(b"again", b"n") + file(b".wh..wh..opq")

    def action(place: Path) -> None:
        (stats,) = apply(engine, place, layer, ignore_chown=True, skip_devices=True)
        assert stats.warnings == ("4 devices not made: Operation not permitted (first: d/null)",)

    apply(engine, target)
    as_nobody(target, action)
    assert names(target) == ["d", "d/own", "top"]


@pytest.mark.parametrize("format", ["overlay-userxattr", "aufs"])
def test_with_markers_a_device_that_was_left_out_hides_nothing_and_that_is_said(
    engine: Any, target: Path, format: str
) -> None:
    def action(place: Path) -> None:
        options: dict[str, Any] = {"format": format, "ignore_chown": True, "skip_devices": True}
        assert apply(engine, place, file(b"x"), **options)[0].needs_lower is False
        assert apply(engine, place, char(b"null", 1, 3), **options)[0].needs_lower is True

    apply(engine, target)
    as_nobody(target, action)
    assert names(target) == ["x"]


# ---- without openat2 -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.environ.get("FASTLAYER_NO_OPENAT2") == "1", reason="this is that run")
@pytest.mark.parametrize("module", ["test_extract.py", "test_extract_formats.py", "test_containment.py"])
def test_rules_hold_without_openat2(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-qknative", "-p", "no:cacheprovider", Path(__file__).with_name(module)],
        env={**os.environ, "FASTLAYER_NO_OPENAT2": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
