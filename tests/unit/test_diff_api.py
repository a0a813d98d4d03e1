"""``fastlayer.diff`` and ``diff_upper`` as Python sees them; the engines' own rules are tested with the engines."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer import Change, ChangeKind, Progress
from fastlayer._backend import Engine
from fastlayer.errors import OperandError, StorageError, UnsafeEntryError, UsageError


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A and B: one of each kind of change."""
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        (root / "dir").mkdir(parents=True)
        (root / "dir/same").write_bytes(b"same")
        (root / "file").write_bytes(b"content" * 1000)
        (root / "target").symlink_to("dir/same")
    (a / "gone").mkdir()
    (a / "gone/below").write_bytes(b"below")
    (b / "new").write_bytes(b"new file")
    os.link(b / "new", b / "new link")
    (b / "file").write_bytes(b"Content" * 1000)
    (b / "target").unlink()
    (b / "target").symlink_to("file")
    for root in (a, b):
        for top, names, files in os.walk(root):
            for name in [*names, *files]:
                os.utime(os.path.join(top, name), ns=(10**18, 10**18), follow_symlinks=False)
        os.utime(root, ns=(10**18, 10**18))
    return a, b


def kinds(changes: fastlayer.Changes) -> dict[str, str]:
    return {change.name: str(change.kind) for change in changes}


def test_changes(engine: Engine, trees: tuple[Path, Path]) -> None:
    changes = fastlayer.diff(*trees)
    assert kinds(changes) == {"/file": "C", "/gone": "D", "/new": "A", "/new link": "A", "/target": "C"}
    assert len(changes) == 5 and changes
    assert [c.path for c in changes] == sorted(c.path for c in changes)
    found = {change.name: change for change in changes}
    file = found["/file"]
    assert file.kind is ChangeKind.MODIFY and file.what == ("content",) and file.type == "file"
    assert (file.size, file.mtime_ns, stat.S_IMODE(file.mode)) == (
        7000,
        10**18,
        (trees[1] / "file").stat().st_mode & 0o7777,
    )
    assert (
        found["/target"].type == "symlink" and found["/target"].link == b"file" and found["/target"].what == ("link",)
    )
    assert found["/new"].hardlink is None and found["/new link"].hardlink == b"new"
    assert found["/gone"].type == "dir"
    assert isinstance(file, Change) and file.path == b"file"


def test_equal_trees(engine: Engine, trees: tuple[Path, Path]) -> None:
    changes = fastlayer.diff(trees[0], trees[0])
    assert not changes and len(changes) == 0 and list(changes) == [] and changes.warnings == ()


def test_changes_can_be_iterated_twice_and_outlive_their_operands(engine: Engine, trees: tuple[Path, Path]) -> None:
    changes = fastlayer.diff(*trees)
    first = list(changes)
    changes.close()
    assert list(changes) == first


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_layer_describes_what_was_written(
    engine: Engine, trees: tuple[Path, Path], tmp_path: Path, compression: str
) -> None:
    path = tmp_path / "out"
    layer = fastlayer.diff(*trees, path, compression=compression)
    blob = path.read_bytes()
    assert layer.size == len(blob)
    assert layer.digest == "sha256:" + hashlib.sha256(blob).hexdigest()
    plain = fastlayer.diff(*trees, tmp_path / "plain.tar")
    tar = (tmp_path / "plain.tar").read_bytes()
    assert layer.diff_id == plain.digest == plain.diff_id == "sha256:" + hashlib.sha256(tar).hexdigest()
    assert layer.tar_size == len(tar)
    with tarfile.open(tmp_path / "plain.tar") as opened:
        members = opened.getmembers()
    assert [m.name for m in members] == [".wh.gone", "file", "new", "new link", "target"]
    assert (layer.entries, layer.payload) == (len(members), 7008)
    assert layer.descriptor.to_dict() == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar" + {"none": ""}.get(compression, "+" + compression),
        "digest": layer.digest,
        "size": layer.size,
    }
    assert json.loads(json.dumps(layer.to_dict()))["diff_id"] == layer.diff_id


def test_compression_by_extension(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert fastlayer.diff(*trees, tmp_path / "x.tar.gz").media_type.endswith("+gzip")
    assert fastlayer.diff(*trees, str(tmp_path / "x.tar.zst")).media_type.endswith("+zstd")
    assert fastlayer.diff(*trees, os.fsencode(tmp_path / "x.tar")).media_type.endswith(".tar")
    assert fastlayer.diff(*trees, io.BytesIO()).media_type.endswith(".tar")


def test_empty_layer_is_a_valid_tar(engine: Engine, trees: tuple[Path, Path]) -> None:
    for compression, read in (("none", bytes), ("gzip", gzip.decompress)):
        out = io.BytesIO()
        layer = fastlayer.diff(trees[0], trees[0], out, compression=compression)
        assert read(out.getvalue()) == bytes(1024) and layer.entries == 0


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A tree of some 11 MiB."""
    import random

    rng = random.Random(3)
    root = tmp_path / "large"
    root.mkdir()
    for number in range(30):
        (root / f"f{number:02}").write_bytes(rng.randbytes(rng.randrange(300_000)) + b"text " * rng.randrange(80_000))
    return root


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_bytes_do_not_depend_on_jobs(engine: Engine, large: Path, compression: str) -> None:
    found = set()
    for jobs in (1, 2, 5):
        out = io.BytesIO()
        layer = fastlayer.diff(None, large, out, compression=compression, jobs=jobs)
        assert layer.digest == "sha256:" + hashlib.sha256(out.getvalue()).hexdigest()
        found.add(layer)
    assert len(found) == 1


def test_both_backends_write_the_same_bytes(large: Path, trees: tuple[Path, Path], monkeypatch: Any) -> None:
    from fastlayer import _backend

    digests = set()
    for name in ("native", "baseline"):
        monkeypatch.setattr(_backend, "_chosen", _backend._load(name))
        digests.add((fastlayer.diff(None, large, io.BytesIO()).digest, fastlayer.diff(*trees, io.BytesIO()).digest))
    assert len(digests) == 1


def test_source_date_epoch_clamps(engine: Engine, trees: tuple[Path, Path]) -> None:
    out = io.BytesIO()
    fastlayer.diff(*trees, out, source_date_epoch=12345)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert {m.mtime for m in tar if not m.name.startswith(".wh.")} == {12345}


def test_write_after_listing_is_the_same(engine: Engine, trees: tuple[Path, Path]) -> None:
    with fastlayer.diff(*trees) as changes:
        assert changes.write(io.BytesIO(), compression="gzip") == fastlayer.diff(
            *trees, io.BytesIO(), compression="gzip"
        )


def test_to_numpy(engine: Engine, trees: tuple[Path, Path]) -> None:
    changes = fastlayer.diff(*trees)
    table = changes.to_numpy()
    heap = changes.heap
    paths = [bytes(heap[row["path_off"] : row["path_off"] + row["path_len"]]) for row in table]
    assert [p for p, row in zip(paths, table, strict=True) if row["kind"] != b"P"] == [c.path for c in changes]


def test_stat(engine: Engine, trees: tuple[Path, Path]) -> None:
    statistics = fastlayer.diff(*trees).stat()
    assert statistics.kinds["A"]._asdict() == {"entries": 2, "files": 2, "bytes": 8}
    assert statistics.kinds["C"]._asdict() == {"entries": 2, "files": 1, "bytes": 7000}
    assert statistics.kinds["D"].entries == 1
    assert (statistics.modified_files, statistics.modified_bytes) == (1, 7000)
    assert 0 < statistics.changed_bytes <= 7000


def test_stat_counts_only_what_really_changed(engine: Engine, tmp_path: Path) -> None:
    import random

    content = random.Random(5).randbytes(2 << 20)
    for name, data in (("a", content), ("b", b"inserted" + content)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
    statistics = fastlayer.diff(tmp_path / "a", tmp_path / "b").stat()
    assert statistics.modified_bytes == len(content) + 8
    assert 0 < statistics.changed_bytes < 600_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"compare": "maybe"},
        {"xattrs": "some"},
        {"jobs": 0},
        {"compression": "xz"},
        {"compression": "gzip", "level": 77},
    ],
)
def test_wrong_arguments(engine: Engine, trees: tuple[Path, Path], tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        fastlayer.diff(*trees, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_progress(engine: Engine, large: Path) -> None:
    seen: list[Progress] = []
    layer = fastlayer.diff(None, large, io.BytesIO(), progress=seen.append)
    assert {report.stage for report in seen} == {"compare", "write"}
    assert seen[-1] == Progress("write", layer.entries, layer.tar_size, layer.tar_size)


# ---- the output file -------------------------------------------------------------------------------


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_failed_diff_leaves_no_output(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/.wh.name").touch()
    before = names(tmp_path)
    with pytest.raises(UnsafeEntryError, match=r"\.wh\.name"):
        fastlayer.diff(None, tmp_path / "b", tmp_path / "out.tar")
    assert names(tmp_path) == before
    (tmp_path / "out.tar").write_bytes(b"what was there")
    with pytest.raises(UnsafeEntryError):
        fastlayer.diff(None, tmp_path / "b", tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == b"what was there"
    assert names(tmp_path) == before | {"out.tar"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_diff_leaves_no_output(
    engine: Engine, large: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    import threading

    def progress(report: Progress) -> None:
        if report.stage == "write":
            raise error

    before, threads = names(tmp_path), threading.active_count()
    for compression in ("none", "gzip", "zstd"):
        with pytest.raises(error):
            fastlayer.diff(None, large, tmp_path / "out", compression=compression, progress=progress)
    assert names(tmp_path) == before and threading.active_count() == threads


def test_output_goes_through_links_and_into_fifos(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    import threading

    (tmp_path / "real").mkdir()
    (tmp_path / "link.tar").symlink_to("real/out.tar")
    digest = fastlayer.diff(*trees, tmp_path / "link.tar").digest
    assert (tmp_path / "link.tar").is_symlink() and names(tmp_path / "real") == {"out.tar"}
    os.mkfifo(tmp_path / "fifo")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "fifo").read_bytes()))
    reader.start()
    fastlayer.diff(*trees, tmp_path / "fifo")
    reader.join()
    assert "sha256:" + hashlib.sha256(received[0]).hexdigest() == digest
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    fastlayer.diff(*trees, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_output_to_descriptors_and_files(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    with open(tmp_path / "one", "wb") as one, open(tmp_path / "two", "wb", buffering=0) as two:
        digest = fastlayer.diff(*trees, one.fileno()).digest
        assert fastlayer.diff(*trees, two).digest == digest
    for name in ("one", "two"):
        assert "sha256:" + hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_output_that_cannot_be_written(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        fastlayer.diff(*trees, tmp_path / "nowhere/out.tar")
    with pytest.raises(OperandError, match="is a directory"):
        fastlayer.diff(*trees, tmp_path)
    with pytest.raises(StorageError, match="No space left"):
        fastlayer.diff(*trees, "/dev/full")
    with pytest.raises(OperandError, match="give a path"):
        fastlayer.diff(*trees, 1.5)


def test_output_inside_b_is_refused(engine: Engine, trees: tuple[Path, Path]) -> None:
    before = names(trees[1] / "dir")
    with pytest.raises(OperandError, match="inside the tree"):
        fastlayer.diff(*trees, trees[1] / "dir/out.tar")
    assert names(trees[1] / "dir") == before


def test_diff_does_not_touch_the_trees(engine: Engine, trees: tuple[Path, Path]) -> None:
    def times() -> list[tuple[int, int]]:
        found = []
        for root in trees:
            for top, _, files in os.walk(root):
                for name in [".", *files]:
                    status = os.lstat(os.path.join(top, name))
                    found.append((status.st_mtime_ns, status.st_ctime_ns))
        return found

    before = times()
    fastlayer.diff(*trees, io.BytesIO(), compare="content")
    fastlayer.diff(*trees).stat()
    assert times() == before


def test_descriptors_do_not_leak(engine: Engine, trees: tuple[Path, Path]) -> None:
    fastlayer.diff(*trees, io.BytesIO(), compression="zstd")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        fastlayer.diff(*trees, io.BytesIO(), compression="gzip")
        list(fastlayer.diff(*trees))
    assert len(os.listdir("/proc/self/fd")) == before


# ---- the upper directory ---------------------------------------------------------------------------


def test_diff_upper(engine: Engine, tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "d").mkdir(parents=True)
    (lower / "d/old").write_bytes(b"old")
    upper.mkdir()
    (upper / "new").write_bytes(b"new")
    for given in (lower, [lower]):
        found = kinds(fastlayer.diff_upper(upper, given))
        assert found.pop("/", "C") == "C"
        assert found == {"/new": "A"}
    out = io.BytesIO()
    fastlayer.diff_upper(upper, [lower], out)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert "new" in tar.getnames() and "d/old" not in tar.getnames()
    with pytest.raises(UsageError, match="at least one lower"):
        fastlayer.diff_upper(upper, [])
    with pytest.raises(OperandError):
        fastlayer.diff_upper(tmp_path / "nowhere", lower)


def test_closed_changes_can_be_read_but_not_written(engine: Engine, trees: tuple[Path, Path], tmp_path: Path) -> None:
    changes = fastlayer.diff(*trees)
    count = len(list(changes))
    changes.close()
    assert len(list(changes)) == count
    with pytest.raises(UsageError, match="closed"):
        changes.write(tmp_path / "out")
    with pytest.raises(UsageError, match="closed"):
        changes.stat()
    assert not (tmp_path / "out").exists()


def test_a_closed_descriptor_is_not_taken_for_another_operand(engine: Engine, trees: tuple[Path, Path]) -> None:
    """Opening A must not give the number of the closed B to A."""
    closed = os.open(trees[1], os.O_RDONLY)
    os.close(closed)
    for call in (fastlayer.diff, fastlayer.diff_upper):
        with pytest.raises(OperandError, match="descriptor"):
            call(trees[0], closed)


@pytest.mark.parametrize("output", ["a\0b", io.StringIO()])
def test_outputs_that_cannot_be(engine: Engine, trees: tuple[Path, Path], output: Any) -> None:
    with pytest.raises(OperandError):
        fastlayer.diff(*trees, output)
