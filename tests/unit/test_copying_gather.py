"""COPY and ADD from end to end: here-documents, archives, addresses, keys, and the engine's table at the end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.builder.copying.archives import is_archive
from fastlayer.errors import DockerfileError, FastlayerError, LayerError
from tests.copying import CREATED, all_rows, close_all, folder, gathered, layer, planned
from tests.unit.test_architecture import loaded_by
from tests.unit.test_copying_sources import make


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    yield
    close_all()


def tar(*names: str, **more: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o640, 1_400_000_000
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o711
            else:
                info.size = len(name)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(name.encode()))
    return out.getvalue()


def link(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        archive.addfile(info)
    return out.getvalue()


def test_copying_of_paths_loads_little() -> None:
    heavy = ("subprocess", "tempfile", "shlex", "urllib", "http", "email", "numpy", "blake3", "sqlite3", "tarfile")
    before = loaded_by("import fastlayer.builder.dockerfile.stages", heavy)
    assert loaded_by("import fastlayer.builder.copying.gather", heavy) == before


# ---- here-documents


def test_here_documents(tmp_path: Path) -> None:
    text = 'COPY <<one <<"two" <<-three /x/\n$A "q"\none\n$A \\$\ntwo\n\t\ttabs $A\n\tthree\n'
    found, copying = planned(text, None, None, tmp_path, env={"A": "value"})
    assert layer(copying, found.roots) == {
        "x": ("d", 0o755, 0, 0, (0, 0), ()),
        "x/one": ("-", 0o644, 0, 0, b'value "q"\n', ()),
        "x/two": ("-", 0o644, 0, 0, b"$A \\$\n", ()),
        "x/three": ("-", 0o644, 0, 0, b"tabs value\n", ()),
    }
    assert {row[6] for row in all_rows(copying)} == {CREATED}
    assert gathered(text, None, tmp_path, env={"A": "value"}).key() == found.key()
    assert gathered(text, None, tmp_path, env={"A": "other"}).key() != found.key()


def test_one_here_document_as_a_file(tmp_path: Path) -> None:
    found, copying = planned("COPY --chmod=755 --chown=3 <<EOF /run.sh\n#!/bin/sh\nEOF\n", None, None, tmp_path)
    assert layer(copying, found.roots) == {"run.sh": ("-", 0o755, 3, 3, b"#!/bin/sh\n", ())}


def test_two_here_documents_of_one_name(tmp_path: Path) -> None:
    found, copying = planned("COPY <<E <<E /x/\n1\nE\n2\nE\n", None, None, tmp_path)
    assert layer(copying, found.roots).keys() == {"x", "x/E"}


# ---- archives


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make(tmp_path / "tree", "plain")
    data = tar("d/", "d/f", "implied/g")
    (root / "t.tar").write_bytes(data)
    (root / "t.gz").write_bytes(gzip.compress(data))
    (root / "t.bz2").write_bytes(bz2.compress(data))
    (root / "t.xz").write_bytes(lzma.compress(data))
    (root / "named.txt").write_bytes(data)
    (root / "text.tar.gz").write_bytes(gzip.compress(b"no tar " * 1000))
    (root / "broken.gz").write_bytes(b"\x1f\x8b\x08garbage")
    (root / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (root / "empty.tar").write_bytes(bytes(10240))
    (root / "nothing").write_bytes(b"")
    (root / "cut.tar").write_bytes(tar("d/f", "big" * 30)[:1536])
    (root / "l").symlink_to("t.tar")
    return root


ARCHIVES = {"t.tar", "t.gz", "t.bz2", "t.xz", "named.txt", "cut.tar"}


def test_archives_are_told_by_their_content(tree: Path) -> None:
    files = folder(tree)
    found = {name.decode() for name in files.names(b"") if is_archive(files, files.find(name))}  # type: ignore[arg-type]
    assert found == ARCHIVES


@pytest.mark.parametrize("name", sorted(ARCHIVES - {"cut.tar"} | {"l"}))
def test_add_extracts(tree: Path, tmp_path: Path, name: str) -> None:
    found, copying = planned(f"ADD {name} /x", tree, None, tmp_path)
    assert layer(copying, found.roots) == {
        "x": ("d", 0o755, 0, 0, (0, 0), ()),
        "x/d": ("d", 0o711, 0, 0, (0, 0), ()),
        "x/d/f": ("-", 0o640, 0, 0, b"d/f", ()),
        "x/implied": ("d", 0o755, 0, 0, (0, 0), ()),
        "x/implied/g": ("-", 0o640, 0, 0, b"implied/g", ()),
    }


@pytest.mark.parametrize("name", ["plain", "text.tar.gz", "broken.gz", "a.zip", "empty.tar", "nothing"])
def test_add_copies_what_is_no_archive(tree: Path, tmp_path: Path, name: str) -> None:
    found, copying = planned(f"ADD {name} /x", tree, None, tmp_path)
    assert layer(copying, found.roots)["x"][0] == "-"


def test_unpack_can_be_switched_off(tree: Path, tmp_path: Path) -> None:
    off = gathered("ADD --unpack=false t.tar /x", tree, tmp_path)
    on = gathered("ADD t.tar /x", tree, tmp_path)
    copied = gathered("COPY t.tar /x", tree, tmp_path)
    assert off.key() == copied.key() != on.key()
    assert layer(off.place(None, workdir="/", created_ns=0), off.roots)["x"][0] == "-"


def test_a_damaged_archive_is_an_error(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"^cut\.tar: "):
        planned("ADD cut.tar /x", tree, None, tmp_path)


def test_owners_of_archives(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", "other")
    (tree / "t").write_bytes(tar("d/", "d/f", "i/g", uid=7, gid=8))
    found, copying = planned("ADD t /x", tree, None, tmp_path)
    result = layer(copying, found.roots)
    assert result["x/d/f"][2:4] == result["x/d"][2:4] == (7, 8)
    found, copying = planned("ADD --chown=3 --chmod=777 t /x", tree, None, tmp_path)
    result = layer(copying, found.roots)
    assert result["x/d/f"][1:4] == (0o640, 3, 3)
    assert (result["x"][2:4], result["x/i"][2:4]) == ((3, 3), (0, 0))


def test_an_archive_onto_what_is_there(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", "other")
    (tree / "t").write_bytes(tar("lib/", "lib/f", "usr/", "i/g", "was-dir", "was-file/", "was-file/x"))
    lower = make(tmp_path / "lower", "usr/lib/old", "lib -> usr/lib", "i/old", "was-dir/x", "was-file")
    (lower / "i").chmod(0o1700)
    found, copying = planned("ADD t /", tree, lower, tmp_path)
    result = layer(copying, found.roots)
    kinds = {os.fsdecode(row[1]): row[0] for row in all_rows(copying)}
    assert kinds == {
        "usr": "A",
        "usr/lib": "A",
        "usr/lib/f": "A",
        "i": "P",
        "i/g": "A",
        "was-dir": "A",
        "was-file": "A",
        "was-file/x": "A",
    }
    assert (result["usr"][1], result["usr/lib"][1], result["i"][1]) == (0o711, 0o711, 0o1700)


@pytest.mark.parametrize("data", [tar("../out"), tar("/abs/../../out"), link("l", "/etc") + tar("l/out")])
def test_hostile_archives_stay_inside(tmp_path: Path, data: bytes) -> None:
    tree = make(tmp_path / "tree", "other")
    (tree / "t").write_bytes(data.replace(bytes(10240), b""))
    before = sorted(os.listdir(tmp_path))
    try:
        found, copying = planned("ADD t /x", tree, None, tmp_path)
        assert all(row[1] == b"x" or row[1].startswith(b"x/") for row in all_rows(copying))
        assert found.roots
    except FastlayerError as exc:
        assert "\n" not in str(exc)
    assert not os.path.exists("/etc/out")
    assert [name for name in os.listdir(tmp_path) if not name.startswith("staging")] == before


# ---- what addresses may be


@pytest.mark.parametrize(
    "text,message",
    [
        ("COPY https://u:secret@example.com/x /x", "COPY https://example.com/x: is an address, which only ADD fetches"),
        ("COPY git@example.com:a/b.git /x", "is an address, which only ADD fetches"),
        ("ADD --checksum=sha256:00 plain /x", "--checksum: is for http and git addresses only"),
        ("ADD --checksum=sha256:00 https://e.x/a https://e.x/b /x", "--checksum: can be given for one source only"),
        ("ADD --checksum=md5:00 https://e.x/a /x", "use sha256: and 64 hexadecimal digits"),
        ("ADD --checksum=xyz https://e.x/a.git /x", "use the hexadecimal digits of a commit"),
        ("ADD https://e.x/a.git?branch=a&tag=b /x", "names what it means twice"),
        ("ADD https://e.x/a.git#main:../.. /x", "leaves the repository"),
        ("ADD ftp://e.x/a /x", "not found"),
        ("ADD repo.git#main /x", "not found"),
        ("ADD github.com/a/b /x", "not found"),
    ],
)
def test_addresses_that_are_refused(tree: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        gathered(text, tree, tmp_path)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


# ---- keys


def test_the_key_leaves_out_target_and_owner(tree: Path, tmp_path: Path) -> None:
    key = gathered("COPY plain /x", tree, tmp_path).key()
    assert key == gathered("COPY --chown=5 plain /elsewhere/", tree, tmp_path).key()
    assert key != gathered("COPY --chmod=600 plain /x", tree, tmp_path).key()
    assert key != gathered("COPY --from=s plain /x", tree, tmp_path, keep_owner=True).key()
    assert key != gathered("COPY named.txt /x", tree, tmp_path).key()


def test_what_link_needs_of_the_tree_below(tree: Path, tmp_path: Path) -> None:
    for flags, needed in [
        ("", True),
        ("--link", False),
        ("--link --chown=5:6", False),
        ("--link --chown=:6", False),
        ("--link --chown=app", True),
        ("--link --chown=5:staff", True),
        ("--link --chmod=755", True),
    ]:
        assert gathered(f"COPY {flags} plain /x", tree, tmp_path).needs_lower is needed, flags
    lower = make(tmp_path / "lower", "etc/passwd", "x/y")
    (lower / "etc/passwd").write_text("app:x:12:34::/:\n")
    found, copying = planned("COPY --link --chown=app plain /x/y", tree, lower, tmp_path)
    assert layer(copying, found.roots)["x"] == ("d", 0o755, 12, 34, (0, 0), ())


def test_names_of_owners_are_those_of_the_image(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "real/passwd", "etc -> real")
    (lower / "real/passwd").write_text("app:x:12:34::/:\n")
    found, copying = planned("COPY --chown=app plain /x", tree, lower, tmp_path)
    assert layer(copying, found.roots)["x"][2:4] == (12, 34)
    assert ("owner", (12, 34)) in copying.facts
    os.unlink(lower / "real/passwd")
    (lower / "real/passwd").symlink_to("/etc/passwd")  # a loop inside, the host's outside
    with pytest.raises(DockerfileError):
        planned("COPY --chown=root plain /x", tree, lower, tmp_path)
    with pytest.raises(DockerfileError, match="no user 'app'"):
        planned("COPY --chown=app plain /x", tree, None, tmp_path)
