"""What can stand on either side of a diff, and the tree that a stack of layer tars amounts to."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

import fastlayer
from fastlayer._backend import Engine
from fastlayer.errors import LayerFormatError, LimitError, OperandError, UnsafeEntryError, UsageError
from fastlayer.layer.operands import open_operand, parse
from fastlayer.layer.progress import Reporter

Entry = tuple[str, str, Any]  # name, tar type, content or target


def layer(*entries: Entry, mtime: int = 1) -> bytes:
    """A tar made by Python's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, value in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind.encode(), mtime, 0o755 if kind == "5" else 0o644
            content = value if kind == "0" else b""
            info.size = len(content)
            if kind in "12":
                info.linkname = value
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tree_of(*layers: bytes, contents: bool = False) -> dict[str, Any]:
    """path -> content, link target, or None for a directory; by way of a diff against nothing."""
    files = [io.BytesIO(one) for one in layers]
    out = io.BytesIO()
    fastlayer.diff(None, files, out)
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        for member in tar:
            if member.isdir():
                found[member.name] = None
            elif member.issym():
                found[member.name] = member.linkname
            else:
                file = tar.extractfile(member)
                found[member.name] = file.read() if file else b""
    return found


# ---- the command line's spelling ---------------------------------------------------------------


def test_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a+b.tar").touch()
    assert parse("a+b.tar") == "a+b.tar"
    assert parse("x.tar") == "x.tar"
    assert parse("x.tar+y.tar.gz") == ["x.tar", "y.tar.gz"]
    assert parse(b"x.tar+\xff+z") == [b"x.tar", b"\xff", b"z"]
    for text in ("+x", "x+", "x++y"):
        with pytest.raises(UsageError, match="LAYER\\+LAYER"):
            parse(text)


# ---- kinds of operands ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["nowhere", b"nowhere", 12345])
def test_missing_operand(engine: Engine, missing: Any, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="give a directory"):
        fastlayer.diff(missing, tmp_path)


def test_nul_in_a_name(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OperandError):
        fastlayer.diff("a\0b", tmp_path)


@pytest.mark.parametrize("value", [1.5, True, {}, object()])
def test_not_an_operand(engine: Engine, value: Any, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="not a tree"):
        fastlayer.diff(value, tmp_path)


def test_none_is_the_empty_tree(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    assert [c.name for c in fastlayer.diff(None, tmp_path) if c.path] == ["/x"]
    assert [(str(c.kind), c.name) for c in fastlayer.diff(tmp_path, None) if c.path] == [("D", "/x")]
    assert not fastlayer.diff(None, None)


def test_directory_descriptor_is_not_used_up(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(2):
            assert not fastlayer.diff(fd, tmp_path)
        os.fstat(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["tar", "gz", "zst"])
def test_tar_against_what_apply_makes_of_it(engine: Engine, tmp_path: Path, pack: Any) -> None:
    tar = layer(("./", "5", None), ("d/", "5", None), ("d/x", "0", b"x" * 5000), ("l", "2", "d/x"), ("h", "1", "d/x"))
    path = tmp_path / "a.tar"
    path.write_bytes(pack(tar))
    fastlayer.apply(path, tmp_path / "tree")
    for compare in ("auto", "metadata", "content"):
        assert not list(fastlayer.diff(path, tmp_path / "tree", compare=compare))
        assert not list(fastlayer.diff(tmp_path / "tree", path, compare=compare))
    status = (tmp_path / "tree/d/x").stat()
    (tmp_path / "tree/d/x").write_bytes(b"x" * 4999 + b"y")
    os.utime(tmp_path / "tree/d/x", ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert {c.name: c.what for c in fastlayer.diff(path, tmp_path / "tree")} == {
        "/d/x": ("content",),
        "/h": ("content",),
    }
    assert not list(fastlayer.diff(path, tmp_path / "tree", compare="metadata"))


def test_file_that_is_no_layer(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no tar at all" * 100)
    with pytest.raises(LayerFormatError, match="/x: "):
        fastlayer.diff(tmp_path / "x", tmp_path)


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), zstandard.compress(b"")], ids=["tar", "gz", "zst"])
def test_an_empty_file_is_no_layer(engine: Engine, tmp_path: Path, content: bytes) -> None:
    """A download that was cut, an index that was not written: not the empty tree."""
    (tmp_path / "x").write_bytes(content)
    for operand in (tmp_path / "x", [tmp_path / "x"], io.BytesIO(content)):
        with pytest.raises(LayerFormatError, match="is empty"):
            fastlayer.diff(operand, None)
    with pytest.raises(LayerFormatError, match="/x: is empty"):
        fastlayer.apply(tmp_path / "x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dev_null_is_no_layer(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(LayerFormatError, match="/dev/null: is empty"):
        fastlayer.diff(os.devnull, tmp_path)


class Endless(io.RawIOBase):
    """A layer, and then zeros for ever."""

    def __init__(self, start: bytes) -> None:
        self._start = io.BytesIO(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._start.readinto(buffer)
        if not count:
            count = len(buffer)
            buffer[:] = bytes(count)
        return count


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gz"])
def test_an_endless_source_ends(engine: Engine, tmp_path: Path, pack: Any) -> None:
    tar = pack(layer(("x", "0", b"x")))
    for word in (lambda: fastlayer.diff(Endless(tar), None), lambda: fastlayer.apply(Endless(tar), tmp_path / "out")):
        with pytest.raises(LayerFormatError, match="256 MiB"):
            word()
    with pytest.raises(LayerFormatError, match="/dev/zero: more than 256 MiB follow"):
        fastlayer.diff("/dev/zero", None)


def test_directory_in_a_stack(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(OperandError, match="is a directory"):
        fastlayer.diff([tmp_path], None)


def test_root_is_not_compared_with_a_tar_without_one(engine: Engine, tmp_path: Path) -> None:
    tar = io.BytesIO(layer(("x", "0", b"")))
    (tmp_path / "x").touch()
    os.utime(tmp_path / "x", (1, 1))
    os.chown(tmp_path / "x", 0, 0) if os.geteuid() == 0 else None
    assert b"" not in {c.path for c in fastlayer.diff(tar, tmp_path)}


def test_index_without_contents_cannot_be_b_of_a_layer(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    index = fastlayer.index(tmp_path / "t")
    with pytest.raises(OperandError, match="no file contents"):
        fastlayer.diff(None, index, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


# ---- stacks ------------------------------------------------------------------------------------------


def test_stack_later_layers_win(engine: Engine) -> None:
    lower = layer(("d/", "5", None), ("d/a", "0", b"old"), ("d/b", "0", b"b"))
    upper = layer(("d/a", "0", b"new"))
    assert tree_of(lower, upper) == {"d": None, "d/a": b"new", "d/b": b"b"}


def test_stack_whiteout_hides_lower_only_whatever_its_position(engine: Engine) -> None:
    lower = layer(("d/", "5", None), ("d/a", "0", b"old"), ("d/b", "0", b"b"))
    for upper in (
        layer(("d/new", "0", b"n"), (".wh.d", "0", b"")),
        layer((".wh.d", "0", b""), ("d/new", "0", b"n")),
    ):
        assert tree_of(lower, upper) == {"d": None, "d/new": b"n"}
    assert tree_of(lower, layer((".wh.d", "0", b""))) == {}


def test_stack_opaque_directory(engine: Engine) -> None:
    lower = layer(("d/", "5", None), ("d/e/", "5", None), ("d/e/a", "0", b"old"), ("x", "0", b"x"))
    for entries in (
        [("d/e/n", "0", b"n"), ("d/.wh..wh..opq", "0", b"")],
        [("d/.wh..wh..opq", "0", b""), ("d/e/n", "0", b"n")],
    ):
        assert tree_of(lower, layer(*entries)) == {"d": None, "d/e": None, "d/e/n": b"n", "x": b"x"}
    assert tree_of(lower, layer((".wh..wh..opq", "0", b""))) == {}


def test_stack_lookalike_whiteouts_do_nothing(engine: Engine) -> None:
    lower = layer(("opqX", "0", b"a"), (".wh", "0", b"b"))
    upper = layer((".wh..wh.plnk", "0", b""), (".wh..wh..opqX", "0", b""), (".wh.missing/x", "0", b""))
    assert tree_of(lower, upper) == {"opqX": b"a", ".wh": b"b"}


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.."])
def test_stack_whiteout_of_nothing_is_refused(engine: Engine, name: str) -> None:
    with pytest.raises(UnsafeEntryError, match="whiteout"):
        tree_of(layer(("d/", "5", None), (name, "0", b"")))


def test_stack_parents_are_resolved_inside(engine: Engine) -> None:
    lower = layer(("usr/lib/", "5", None), ("lib", "2", "/usr/lib"), ("up", "2", "../../usr"))
    upper = layer(("lib/x", "0", b"x"), ("up/y", "0", b"y"))
    found = tree_of(lower, upper)
    assert found["usr/lib/x"] == b"x" and found["usr/y"] == b"y" and found["lib"] == "/usr/lib"


def test_stack_symlink_loop_is_refused(engine: Engine) -> None:
    with pytest.raises(UnsafeEntryError, match="too many symbolic links"):
        tree_of(layer(("a", "2", "b"), ("b", "2", "a"), ("a/x", "0", b"")))


def test_stack_hard_links_across_layers(engine: Engine) -> None:
    lower = layer(("a", "0", b"content"))
    assert tree_of(lower, layer(("b", "1", "/a"))) == {"a": b"content", "b": b"content"}
    for target in ("missing", ".", "../a"):
        with pytest.raises(UnsafeEntryError):
            tree_of(lower, layer(("b", "1", target)))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/.."])
def test_stack_names_with_dotdot_are_refused(engine: Engine, name: str) -> None:
    with pytest.raises(UnsafeEntryError):
        tree_of(layer((name, "0", b"")))


def test_stack_names_the_layer_at_fault(engine: Engine, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tar", tmp_path / "bad.tar"
    good.write_bytes(layer(("x", "0", b"")))
    bad.write_bytes(layer(("../x", "0", b"")))
    with pytest.raises(UnsafeEntryError, match=r"bad\.tar: "):
        fastlayer.diff([good, bad], None)


def test_deep_trees_do_not_recurse(engine: Engine) -> None:
    deep = "/".join(["d"] * 1500)
    lower = layer((deep + "/x", "0", b"x"))
    assert tree_of(lower, layer((".wh.d", "0", b""), ("e", "0", b"e"))) == {"e": b"e"}


# ---- contents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "gz"])
def test_contents_of_a_tar_after_listing(engine: Engine, tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "b.tar"
    path.write_bytes(pack(layer(("x", "0", b"x" * 3000), ("y", "0", b"y" * 700))))
    with fastlayer.diff(None, path) as changes:
        assert [c.name for c in changes] == ["/x", "/y"]
        changes.write(tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert [tar.extractfile(name).read() for name in ("x", "y")] == [b"x" * 3000, b"y" * 700]  # type: ignore[union-attr]


def test_sparse_files_of_a_tar(engine: Engine, tmp_path: Path) -> None:
    import subprocess

    with open(tmp_path / "s", "wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    subprocess.run(["tar", "-C", tmp_path, "--sparse", "-cf", tmp_path / "s.tar", "s"], check=True)
    assert os.path.getsize(tmp_path / "s.tar") < 1 << 20
    fastlayer.diff(None, tmp_path / "s.tar", tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.extractfile("s").read() == (tmp_path / "s").read_bytes()  # type: ignore[union-attr]
    (tmp_path / "t").mkdir()
    os.rename(tmp_path / "s", tmp_path / "t/s")
    assert "content" not in [word for c in fastlayer.diff(tmp_path / "s.tar", tmp_path / "t") for word in c.what]


def test_pipes_are_spooled(engine: Engine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    import threading

    tar = gzip.compress(layer(("x", "0", b"x" * 3000)))
    writer = threading.Thread(target=lambda: fifo.write_bytes(tar))
    writer.start()
    fastlayer.diff(None, fifo, tmp_path / "out.tar")
    writer.join()
    with tarfile.open(tmp_path / "out.tar") as tar_file:
        assert tar_file.extractfile("x").read() == b"x" * 3000  # type: ignore[union-attr]


def test_close_releases_descriptors(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(gzip.compress(layer(("x", "0", b"x"))))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        operand = open_operand([tmp_path / "a.tar"], contents=True, keys=True, report=Reporter(None), jobs=1)
        operand.close()
        with pytest.raises(OperandError):
            fastlayer.diff(tmp_path, tmp_path / "missing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_target_that_no_table_holds(engine: Engine, tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("l")
        info.type, info.linkname = tarfile.SYMTYPE, "x/" * 40000
        tar.addfile(info)
    with pytest.raises(LimitError, match="link target of 80000 bytes is too long"):
        list(fastlayer.diff(tmp_path, io.BytesIO(data.getvalue())))


def test_a_file_that_is_not_open_for_reading(engine: Engine, tmp_path: Path) -> None:
    with open(tmp_path / "w", "wb") as file, pytest.raises(OperandError, match="not open for reading"):
        fastlayer.diff(file, None)


def test_an_operand_that_expands_too_far_is_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlayer.layer.expand._RATIO_FREE", 1 << 20)
    (tmp_path / "bomb").write_bytes(gzip.compress(layer(("zeros", "0", bytes(8 << 20)))))
    with pytest.raises(LimitError, match="max_ratio"):
        len(fastlayer.diff(None, tmp_path / "bomb"))
