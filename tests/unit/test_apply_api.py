"""``fastlayer.apply`` as Python sees it; what extractors do with entries is tested with the extractors."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard

import fastlayer
from fastlayer import Limits, Progress
from fastlayer._backend import Engine
from fastlayer.errors import (
    DigestMismatchError,
    LayerFormatError,
    LimitError,
    OperandError,
    StorageError,
    UsageError,
)
from tests.conftest import needs_root
from tests.trees import ACLS


def layer(files: dict[str, bytes], directories: dict[str, int] | None = None) -> bytes:
    """A tar made by Python's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in (directories or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


PACKS = pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["tar", "gz", "zst"])
SMALL = layer({"d/x": b"content", "y": b""})
LARGE = layer({f"f{number}": bytes([number]) * 400_000 + os.urandom(300_000) for number in range(6)})


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


@PACKS
@pytest.mark.parametrize("tar", [SMALL, LARGE], ids=["small", "large"])
def test_apply_describes_what_it_applied(engine: Engine, tmp_path: Path, pack: Any, tar: bytes) -> None:
    blob = pack(tar)
    (tmp_path / "layer").write_bytes(blob)
    stats = fastlayer.apply(tmp_path / "layer", tmp_path / "out", digest=digest(blob), diff_id=digest(tar))
    (found,) = stats.layers
    assert (found.digest, found.diff_id) == (digest(blob), digest(tar))
    assert (found.size, found.tar_size) == (len(blob), len(tar))
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        members = opened.getmembers()
        assert (stats.entries, stats.payload, stats.whiteouts) == (len(members), sum(m.size for m in members), 0)
        for member in members:
            file = opened.extractfile(member)
            assert file is not None and (tmp_path / "out" / member.name).read_bytes() == file.read()
    assert names(tmp_path) == {"layer", "out"}
    assert stats.to_dict()["layers"][0]["mediaType"] == found.media_type


def test_stack_in_order_each_with_its_own_compression(engine: Engine, tmp_path: Path) -> None:
    stack = [
        layer({"a": b"1", "b": b"1"}),
        gzip.compress(layer({"a": b"2"})),
        zstandard.compress(layer({".wh.b": b""})),
    ]
    stats = fastlayer.apply([io.BytesIO(blob) for blob in stack], tmp_path / "out")
    assert names(tmp_path / "out") == {"a"} and (tmp_path / "out/a").read_bytes() == b"2"
    assert [found.digest for found in stats.layers] == [digest(blob) for blob in stack]
    assert (stats.entries, stats.whiteouts) == (4, 1)


def test_sources(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(SMALL)
    with path.open("rb") as file:
        for number, source in enumerate([path, str(path), os.fsencode(path), file]):
            fastlayer.apply(source, tmp_path / f"out{number}")
            assert names(tmp_path / f"out{number}") == {"d", "y"}
        fd = os.open(path, os.O_RDONLY)
        fastlayer.apply(fd, tmp_path / "fd")
        os.close(fd)
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writer, SMALL), os.close(writer)))
    thread.start()
    fastlayer.apply([reader], tmp_path / "pipe")
    thread.join()
    os.close(reader)
    assert names(tmp_path / "pipe") == {"d", "y"}


# ---- the target ----------------------------------------------------------------------------------------


def test_new_target_is_0755_whatever_the_umask(engine: Engine, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out")
    finally:
        os.umask(old)
    found = (tmp_path / "out").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o755, 0), "at any time the same"
    fastlayer.apply(io.BytesIO(layer({}, {"./": 0o700})), tmp_path / "private/")
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_target_by_relative_name_and_descriptor(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fastlayer.apply(io.BytesIO(SMALL), "out")
    fd = os.open("out", os.O_RDONLY)
    fastlayer.apply(io.BytesIO(layer({"z": b""})), fd)
    os.close(fd)
    assert names(tmp_path / "out") == {"d", "y", "z"}
    (tmp_path / "link").symlink_to("out")
    fastlayer.apply(io.BytesIO(layer({"w": b""})), "link")
    assert names(tmp_path / "out") == {"d", "w", "y", "z"}


def test_targets_that_cannot_be(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for target in ("file", "dangling", "no/parent", "file/x"):
        with pytest.raises(OperandError, match="give a"):
            fastlayer.apply(io.BytesIO(SMALL), tmp_path / target)
    assert names(tmp_path) == {"dangling", "file"}


def test_target_taken_meanwhile(engine: Engine, tmp_path: Path) -> None:
    def progress(_: Progress) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)

    with pytest.raises(StorageError, match="File exists"):
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", progress=progress)
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == set()


def test_nothing_is_seen_before_the_end(engine: Engine, tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def progress(_: Progress) -> None:
        seen.append(names(tmp_path))
        for entry in tmp_path.iterdir():
            assert stat.S_IMODE(entry.stat().st_mode) == 0o700

    fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", progress=progress)
    assert seen and all(found != {"out"} for found in seen) and names(tmp_path) == {"out"}


@pytest.mark.parametrize("durability", ["none", "syncfs", "fsync"])
def test_durability(engine: Engine, tmp_path: Path, durability: Any) -> None:
    for _ in range(2):  # new, then existing
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", durability=durability)
        assert names(tmp_path / "out") == {"d", "y"}


# ---- refusals --------------------------------------------------------------------------------------------


@PACKS
@pytest.mark.parametrize("which", ["digest", "diff_id"])
@pytest.mark.parametrize("tar", [SMALL, LARGE], ids=["small", "large"])
def test_wrong_digest_exposes_nothing(engine: Engine, tmp_path: Path, pack: Any, which: str, tar: bytes) -> None:
    with pytest.raises(DigestMismatchError, match=f"{which} is sha256:"):
        fastlayer.apply(io.BytesIO(pack(tar)), tmp_path / "out", **{which: digest(b"other")})
    assert names(tmp_path) == set()


def test_digests_match_layers(engine: Engine, tmp_path: Path) -> None:
    stack = [SMALL, layer({"z": b""})]
    fastlayer.apply([io.BytesIO(t) for t in stack], tmp_path / "out", digest=[None, digest(stack[1])])
    with pytest.raises(DigestMismatchError):
        fastlayer.apply([io.BytesIO(t) for t in stack], tmp_path / "o", diff_id=[digest(t) for t in reversed(stack)])
    with pytest.raises(UsageError, match="1 given for 2 layers"):
        fastlayer.apply([io.BytesIO(t) for t in stack], tmp_path / "o", digest=digest(SMALL))
    for wrong in ("sha256:123", "md5:" + "0" * 32, "sha512:" + "0" * 128):
        with pytest.raises(UsageError):
            fastlayer.apply(io.BytesIO(SMALL), tmp_path / "o", digest=wrong)


@PACKS
def test_cut_layer_leaves_nothing(engine: Engine, tmp_path: Path, pack: Any) -> None:
    blob = pack(LARGE)
    (tmp_path / "layer").write_bytes(blob[: len(blob) // 2])
    with pytest.raises(LayerFormatError, match="layer: "):
        fastlayer.apply(tmp_path / "layer", tmp_path / "out")
    assert names(tmp_path) == {"layer"}


def test_deep_staging_is_removed(engine: Engine, tmp_path: Path) -> None:
    deep = layer({"/".join(["d"] * 1500) + "/x": b""})
    with pytest.raises(DigestMismatchError):
        fastlayer.apply(io.BytesIO(deep), tmp_path / "out", diff_id=digest(b""))
    assert names(tmp_path) == set()


def test_missing_layer(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match=r"nowhere\.tar: No such file"):
        fastlayer.apply(tmp_path / "nowhere.tar", tmp_path / "out")
    with pytest.raises(OperandError, match="is a directory"):
        fastlayer.apply(tmp_path, tmp_path / "out")
    with pytest.raises(OperandError, match="not a layer"):
        fastlayer.apply([1.5], tmp_path / "out")
    with pytest.raises(OperandError, match="binary"):
        fastlayer.apply(io.StringIO("text"), tmp_path / "out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(max_entries=1), "1 entries"),
        (Limits(max_size=6), "6 bytes"),
        (Limits(max_file_size=6), "6 bytes"),
    ],
)
def test_limits(engine: Engine, tmp_path: Path, limits: Limits, what: str) -> None:
    with pytest.raises(LimitError):
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", limits=limits)
    assert names(tmp_path) == set()


def test_pax_limit(engine: Engine, tmp_path: Path) -> None:
    tar = layer({"n" * 5000: b""})
    with pytest.raises(LimitError):
        fastlayer.apply(io.BytesIO(tar), tmp_path / "out", limits=Limits(max_pax=1024))


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "zip"},
        {"durability": "maybe"},
        {"jobs": 0},
        {"uid_map": [(0, 0, 0)]},
        {"uid_map": [(0, 1, 10), (5, 100, 10)]},
        {"gid_map": [(-1, 0, 1)]},
        {"gid_map": [(0, 4294967290, 10)]},
        {"limits": Limits(max_entries=-1)},
        {"limits": Limits(max_size=1 << 70)},
        {"limits": Limits(max_pax=0)},
    ],
)
def test_wrong_arguments(engine: Engine, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", **wrong)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@PACKS
def test_interrupted_apply_leaves_nothing(
    engine: Engine, tmp_path: Path, pack: Any, error: type[BaseException]
) -> None:
    def progress(report: Progress) -> None:
        raise error

    before = threading.active_count()
    with pytest.raises(error):
        fastlayer.apply(io.BytesIO(pack(LARGE)), tmp_path / "out", progress=progress)
    assert names(tmp_path) == set() and threading.active_count() == before


def test_silent_pipe_can_be_interrupted(engine: Engine, tmp_path: Path) -> None:
    """Ctrl-C while a pipe gives nothing: within a second, and nothing is left."""
    import signal
    import time

    reader, writer = os.pipe()
    os.write(writer, SMALL[:1024])
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fastlayer.apply(reader, tmp_path / "out")
    assert time.monotonic() - started < 20
    os.close(reader)
    os.close(writer)
    assert names(tmp_path) == set()


def test_progress(engine: Engine, tmp_path: Path) -> None:
    seen: list[Progress] = []
    (tmp_path / "layer").write_bytes(SMALL)
    fastlayer.apply(tmp_path / "layer", tmp_path / "out", progress=seen.append)
    assert seen[-1] == Progress("apply", 2, len(SMALL), len(SMALL))


@needs_root
def test_id_maps(engine: Engine, tmp_path: Path) -> None:
    fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", uid_map=[(0, 100000, 10)], gid_map=[(0, 200000, 10)])
    status = (tmp_path / "out/y").stat()
    assert (status.st_uid, status.st_gid) == (100000, 200000)


@needs_root
def test_a_new_root_is_an_implied_directory(engine: Engine, tmp_path: Path) -> None:
    """Its owner is 0:0 through the maps; below a setgid directory with a default ACL it inherits nothing."""
    os.chown(tmp_path, 5, 6)
    tmp_path.chmod(0o2775)
    os.setxattr(tmp_path, "system.posix_acl_default", ACLS[0])
    fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out", uid_map=[(0, 100000, 10)], gid_map=[(0, 200000, 10)])
    fastlayer.apply(io.BytesIO(SMALL), tmp_path / "plain")
    for name, owner in (("out", (100000, 200000)), ("plain", (0, 0))):
        for path in (tmp_path / name, tmp_path / name / "d"):
            status = path.stat()
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, *owner)
            assert os.listxattr(path) == []


def test_round_trip_of_own_layers(engine: Engine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    for number in range(8):
        (tree / f"d/{number}").write_bytes(os.urandom(200_000) + bytes(300_000))
    for compression in ("none", "gzip", "zstd"):
        out = io.BytesIO()
        written = fastlayer.diff(None, tree, out, compression=compression)
        target = tmp_path / compression
        stats = fastlayer.apply(
            io.BytesIO(out.getvalue()), target, digest=written.digest, diff_id=written.diff_id, jobs=3
        )
        assert stats.layers[0].media_type == written.media_type
        assert not list(fastlayer.diff(tree, target, compare="content"))


def test_descriptors_do_not_leak(engine: Engine, tmp_path: Path) -> None:
    fastlayer.apply(io.BytesIO(SMALL), tmp_path / "first")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / f"out{number}")
        with pytest.raises(DigestMismatchError):
            fastlayer.apply(io.BytesIO(SMALL), tmp_path / "bad", digest=digest(b""))
    assert len(os.listdir("/proc/self/fd")) == before


def test_interrupt_after_the_rename_keeps_the_tree(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has its name is complete: cleaning up must not empty it."""
    from fastlayer.layer import libc

    rename = libc.rename_new

    def interrupted(*names: Any) -> None:
        rename(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(libc, "rename_new", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastlayer.apply(io.BytesIO(SMALL), tmp_path / "out")
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out")


@pytest.mark.parametrize("content", [bytearray(SMALL), memoryview(SMALL)])
def test_bytes_of_a_layer_are_no_descriptors(engine: Engine, tmp_path: Path, content: Any) -> None:
    with pytest.raises(OperandError, match="not a layer"):
        fastlayer.apply(content, tmp_path / "out")
    with pytest.raises(OperandError, match="not a tree"):
        fastlayer.diff(content, tmp_path)
