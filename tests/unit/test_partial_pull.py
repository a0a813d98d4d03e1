"""Pulling in part: what moves, what comes of it, and everything that can be wrong with a chunked layer."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container.mounting import temporary
from fastlayer.errors import LayerError
from fastlayer.image.images import Images
from fastlayer.store.collect import collect
from fastlayer.store.store import Store
from tests.chunkedlayers import PREFIX, Layer, estargz, publish, zstd_chunked
from tests.conftest import needs_root
from tests.partialpulls import Pulled, pulled
from tests.registry_server import RegistryServer
from tests.stores import vfs_store

pytestmark = needs_root

_RANDOM = random.Random(6)
FILES = {
    "d/": b"",
    **{f"d/f{number}": _RANDOM.randbytes(3000 + 100 * number) for number in range(60)},
    "empty": b"",
    "big": _RANDOM.randbytes(400_000),
    "zeros": bytes(50_000),
}
NEWER = {**FILES, "d/f7": _RANDOM.randbytes(4000), "d/new": b"new"}

FIRST = zstd_chunked(FILES)

MAKERS: dict[str, Any] = {
    "zstd:chunked": zstd_chunked,
    "zstd:chunked without tar-split": lambda files, **more: zstd_chunked(files, split=False, **more),
    "eStargz": estargz,
    "eStargz of others": lambda files, **more: estargz(files, apart=False, **more),
}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


def tree_of(store: Store, tag: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with temporary(store, Images(store).find(f"localhost/app:{tag}")) as mounted:
        for parent, _, names in os.walk(mounted):
            for name in names:
                path = Path(parent) / name
                found[os.fspath(path.relative_to(mounted))] = path.read_bytes()
    return found


def files_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: body for path, body in files.items() if not path.endswith("/")}


def pull(store: Store, server: RegistryServer, tag: str, *layers: Layer) -> Pulled:
    publish(server, "app", tag, layers)
    return pulled(store, server, "app", tag)


def moved(server: RegistryServer, layer: Layer) -> float:
    return server.sent.get(str(layer.descriptor["digest"]), 0) / len(layer.blob)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("many", [True, False], ids=["many ranges", "one range"])
def test_only_what_is_new_is_fetched(store: Store, server: RegistryServer, kind: str, many: bool) -> None:
    server.many_ranges = many
    first, second = MAKERS[kind](FILES, chunk=100_000), MAKERS[kind](NEWER, chunk=100_000)
    assert pull(store, server, "1", first) == ([None], [])
    (stats,), warnings = pull(store, server, "2", second)
    assert warnings == []
    assert stats is not None
    if many:
        assert stats.fetched == server.sent[str(second.descriptor["digest"])]
    found = tree_of(store, "2")
    assert ("stargz.index.json" in found) == ("eStargz" in kind)
    assert files_of(NEWER) == {path: body for path, body in found.items() if path != "stargz.index.json"}
    assert stats.fetched < 0.02 * len(second.blob)  # of a second try it would be more
    assert stats.has_blob and store.content.has(second.descriptor["digest"])


def test_nothing_is_asked_for_without_chunks_or_contents(store: Store, server: RegistryServer) -> None:
    layer = zstd_chunked(FILES)
    assert pull(store, server, "1", layer).stats == [None]
    assert len(server.calls("GET .*/blobs/")) == 2  # the configuration and all of the layer
    other = zstd_chunked(NEWER)
    assert pull(store, server, "2", other._replace(annotations={})) == ([None], [])


def test_third_version_shares_with_the_second(store: Store, server: RegistryServer) -> None:
    """Which has no blob, for it was compressed in another way, and what it has is known by its TOC."""
    added = _RANDOM.randbytes(5000)
    texts = {f"t{number}": b"".join(b"%d," % (n * n * number) for n in range(9000)) for number in range(6)}
    pull(store, server, "1", zstd_chunked({**FILES, **texts}, level=1))
    second = zstd_chunked({**NEWER, **texts}, level=19)
    (stats,), warnings = pull(store, server, "2", second)
    assert (stats and stats.has_blob, warnings) == (False, [])
    assert not store.content.has(second.descriptor["digest"])
    third = zstd_chunked({**NEWER, "d/third": added})
    (stats,), warnings = pull(store, server, "3", third)
    assert warnings == []
    assert stats is not None and moved(server, third) < 0.1
    assert tree_of(store, "3") == {**files_of(NEWER), "d/third": added}


def test_chunks_of_a_file_that_changed(store: Store, server: RegistryServer) -> None:
    big = FILES["big"]
    changed = {**FILES, "big": big[:150_000] + b"!" * 10 + big[150_010:]}
    pull(store, server, "1", zstd_chunked(FILES, chunk=50_000))
    (stats,), _ = pull(store, server, "2", zstd_chunked(changed, chunk=50_000))
    assert stats is not None and stats.fetched < 70_000
    assert tree_of(store, "2")["big"] == changed["big"]


def _place(store: Store) -> Path:
    (found,) = (store.root / "vfs").glob("*/tree/d/f3")
    return found


@pytest.mark.parametrize("how", ["changed", "shorter", "removed", "link", "directory", "fifo"])
def test_file_of_the_store_that_is_another_now(store: Store, server: RegistryServer, how: str, tmp_path: Path) -> None:
    """It is noticed, and what should be in it is fetched."""
    second = zstd_chunked(NEWER)
    pull(store, server, "1", FIRST)
    path = _place(store)
    body = path.read_bytes()
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(body)
    match how:
        case "changed":
            path.write_bytes(bytes([body[0] ^ 1]) + body[1:])
        case "shorter":
            path.write_bytes(body[:-1])
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    (stats,), warnings = pull(store, server, "2", second)
    assert warnings == []
    assert tree_of(store, "2") == files_of(NEWER)
    assert stats is not None and moved(server, second) < 0.2


def test_link_on_the_way_to_a_file(store: Store, server: RegistryServer, tmp_path: Path) -> None:
    pull(store, server, "1", FIRST)
    above = _place(store).parent
    above.rename(tmp_path / "elsewhere")
    above.symlink_to(tmp_path / "elsewhere")
    assert pull(store, server, "2", zstd_chunked(NEWER)).warnings == []
    assert tree_of(store, "2") == files_of(NEWER)


def _of(entry: str, **values: Any) -> Any:
    """Changes an entry of a TOC."""

    def edit(toc: dict[str, Any]) -> None:
        (found,) = [one for one in toc["entries"] if one["name"] == entry]
        found.update(values)

    return edit


_ZERO = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "edit,why",
    [
        (_of("d/new", digest=_ZERO), "not what the TOC says"),
        (_of("d/f7", size=4001), "diff_id|agree|not what"),
        (_of("d/f7", size=-1), "no JSON that could be one"),
        (_of("d/f7", size=True), "no JSON that could be one"),
        (_of("d/f7", size=1 << 63), "no JSON that could be one"),
        (_of("d/f7", offset=1 << 40), "contradicts itself"),
        (_of("d/f7", endOffset=1 << 40), "same bytes|behind"),
        (_of("d/f7", offset=0), "same bytes"),
        (_of("d/f7", name="../../etc/shadow"), "do not agree"),
        (_of("d/f7", name=7), "no JSON that could be one"),
        (_of("d/f7", digest=f"sha256:{'ff' * 32}"), "not what the TOC says"),
        (lambda toc: toc.update(version=2), "none of version 1"),
        (lambda toc: toc.update(entries=[1, 2]), "entries that are none"),
        (lambda toc: toc.update(entries="x"), "none of version 1"),
        (lambda toc: toc.update(tarSplitDigest="x"), "digest of a tar-split"),
        (lambda toc: toc.update(tarSplitDigest=_ZERO), "not the one that the TOC names"),
        (lambda toc: toc["entries"].append({"type": "chunk", "name": "none", "offset": 7}), "chunk of no file"),
        (lambda toc: toc["entries"].reverse(), ""),
    ],
)
def test_toc_that_lies(store: Store, server: RegistryServer, edit: Any, why: str) -> None:
    """The manifest vouches for a TOC that is wrong: what comes is the layer all the same, or it is fetched whole."""
    the_lie(store, server, edit, why, split=True)


@pytest.mark.parametrize(
    "edit",
    [
        _of("d/f7", size=4001),
        _of("d/f7", endOffset=1 << 40),
        _of("d/f7", name="../../etc/shadow"),
        _of("d/f7", digest=f"sha256:{sha256(FILES['d/f8']).hexdigest()}"),
        lambda toc: toc["entries"].reverse(),
        lambda toc: toc["entries"].clear(),
    ],
)
def test_toc_that_lies_without_tar_split(store: Store, server: RegistryServer, edit: Any) -> None:
    the_lie(store, server, edit, "", split=False)


def the_lie(store: Store, server: RegistryServer, edit: Any, why: str, *, split: bool) -> None:
    bad = zstd_chunked(NEWER, split=split, edit=edit)
    pull(store, server, "1", FIRST)
    _, warnings = pull(store, server, "2", bad)
    assert tree_of(store, "2") == files_of(NEWER)
    assert len(warnings) <= 1
    for line in warnings:
        assert "all of it is taken, because" in line and "\n" not in line
    if split and why:
        assert warnings and re.search(why, warnings[0])
        assert store.content.has(bad.descriptor["digest"])


def test_contents_of_another_file(store: Store, server: RegistryServer) -> None:
    """A TOC that gives the digest of one file to another: the tar is not the one that the configuration names."""
    files = {**NEWER, "d/f7": bytes(reversed(FILES["d/f8"]))}
    digest = f"sha256:{sha256(FILES['d/f8']).hexdigest()}"
    bad = zstd_chunked(files, edit=_of("d/f7", digest=digest))
    pull(store, server, "1", FIRST)
    _, (warning,) = pull(store, server, "2", bad)
    assert "diff_id is" in warning
    assert tree_of(store, "2") == files_of(files)
    assert store.content.has(bad.descriptor["digest"])


def _break_split(lines: list[dict[str, Any]]) -> None:
    payload = bytearray(base64.b64decode(lines[2]["payload"]))
    payload[100:107] = b"0000777"
    lines[2]["payload"] = base64.b64encode(payload).decode()


@pytest.mark.parametrize(
    "edit",
    [
        _break_split,
        lambda lines: lines.pop(6),
        lambda lines: lines.insert(0, {"type": 3, "payload": ""}),
        lambda lines: lines.insert(0, {"type": 2, "payload": "!!"}),
        lambda lines: lines.insert(0, {"type": 1, "name": "../x", "size": 5}),
        lambda lines: lines.insert(0, {"type": 1, "name": "x", "size": 1 << 70}),
        lambda lines: lines.append({"type": 2, "payload": base64.b64encode(b"x" * 512).decode()}),
        lambda lines: lines.clear(),
    ],
)
def test_split_that_lies(store: Store, server: RegistryServer, edit: Any) -> None:
    bad = zstd_chunked(NEWER, edit_split=edit)
    pull(store, server, "1", FIRST)
    _, (warning,) = pull(store, server, "2", bad)
    assert "all of it is taken, because" in warning
    assert tree_of(store, "2") == files_of(NEWER)
    assert store.content.has(bad.descriptor["digest"])


@pytest.mark.parametrize(
    "name,value",
    [
        ("manifest-checksum", _ZERO),
        ("manifest-checksum", "md5:00"),
        ("manifest-position", "1:2:3"),
        ("manifest-position", "1:2:3:2"),
        ("manifest-position", "0:10:10:1"),
        ("manifest-position", "99999999999:10:10:1"),
        ("manifest-position", f"10:{1 << 40}:10:1"),
        ("manifest-position", "20:100:100:1"),
        ("manifest-position", "-1:x:10:1"),
        ("tarsplit-position", "20:100:100"),
        ("tarsplit-position", "x"),
        (None, "sha256:" + "1" * 64),
    ],
)
def test_annotations_that_lie(store: Store, server: RegistryServer, name: str | None, value: str) -> None:
    good = zstd_chunked(NEWER)
    key = PREFIX + name if name else "containerd.io/snapshot/stargz/toc.digest"
    bad = good._replace(annotations={**good.annotations, key: value})
    pull(store, server, "1", FIRST)
    _, (warning,) = pull(store, server, "2", bad)
    assert "all of it is taken, because" in warning
    assert tree_of(store, "2") == files_of(NEWER)


@pytest.mark.parametrize("cut", [1, 20, 51, 200])
def test_footer_of_estargz_that_is_cut(store: Store, server: RegistryServer, cut: int) -> None:
    good = estargz(NEWER)
    bad = good._replace(blob=good.blob[:-cut])
    pull(store, server, "1", estargz(FILES))
    publish(server, "app", "2", [bad])
    with contextlib.suppress(LayerError):  # what is left is no gzip stream
        _, (warning,) = pulled(store, server, "app", "2")
        assert "all of it is taken, because" in warning


def test_registry_without_ranges(store: Store, server: RegistryServer) -> None:
    pull(store, server, "1", FIRST)
    server.ranges = False
    (stats,), (warning,) = pull(store, server, "2", zstd_chunked(NEWER))
    assert stats is None and "the registry gives all of it where a part was asked for" in warning
    assert tree_of(store, "2") == files_of(NEWER)


@pytest.mark.parametrize("kind", MAKERS)
def test_wrong_bytes_in_the_blob(store: Store, server: RegistryServer, kind: str) -> None:
    """Of what is fetched, anything: the whole blob is then refused, too."""
    layer = MAKERS[kind](NEWER)
    pull(store, server, "1", MAKERS[kind](FILES))
    publish(server, "app", "2", [layer])
    server.blobs["app", layer.descriptor["digest"]] = bytes(byte ^ 1 for byte in layer.blob)
    with pytest.raises(LayerError):
        pulled(store, server, "app", "2")


def test_lists_go_with_their_snapshots(store: Store, server: RegistryServer) -> None:
    pull(store, server, "1", FIRST)
    pull(store, server, "2", zstd_chunked(NEWER))
    place = store.root / "cache/contents"
    assert len(os.listdir(place)) == 2
    for path in place.iterdir():
        os.utime(path, (0, 0))
    Images(store).untag("localhost/app:1")
    collect(store)
    assert len(os.listdir(place)) == 1


def test_damaged_lists_are_of_no_use_and_do_no_harm(store: Store, server: RegistryServer) -> None:
    pull(store, server, "1", FIRST)
    pull(store, server, "2", zstd_chunked(NEWER))
    for path in (store.root / "cache/contents").iterdir():
        data = bytearray(path.read_bytes())
        data[-1000:] = os.urandom(1000)
        path.write_bytes(data)
    pull(store, server, "3", zstd_chunked({**NEWER, "x": b"x"}))
    assert tree_of(store, "3") == {**files_of(NEWER), "x": b"x"}
    for path in (store.root / "cache/contents").iterdir():
        path.write_bytes(b"x" * 100)
    pull(store, server, "4", zstd_chunked({**NEWER, "y": b"y"}))
    assert tree_of(store, "4") == {**files_of(NEWER), "y": b"y"}
