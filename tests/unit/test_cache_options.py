"""--cache-to and --cache-from as Docker spells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlayer.builder.sharing.options import (
    INLINE,
    INLINE_ARGUMENT,
    CacheFrom,
    CacheTo,
    parse_cache_from,
    parse_cache_to,
    shared,
)
from fastlayer.errors import UsageError

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "text,wanted",
    [
        ("type=local,dest=c", CacheTo("c")),
        ("./c", CacheTo("./c")),
        ("/srv/c", CacheTo("/srv/c")),
        ("type=local,dest=c,mode=max,tag=main", CacheTo("c", "main", "max")),
        ("type=local,dest=c,compression=zstd,compression-level=9", CacheTo("c", compression="zstd", level=9)),
        ("type=local,dest=c,compression=uncompressed", CacheTo("c", compression="none")),
        ("type=local,dest=c,compression-level=3", CacheTo("c", level=3)),
        ("type=local,dest=c,force-compression=true,ignore-error=1", CacheTo("c", force=True, ignore_error=True)),
        ("type=local,dest=c,image-manifest=true,oci-mediatypes=true", CacheTo("c")),
        ('type=local,"dest=a,b"', CacheTo("a,b")),
        ("TYPE=local,Dest=c", CacheTo("c")),
        ("type=registry,ref=h.io/a/b:c", CacheTo("h.io/a/b:c", kind="registry")),
        ("type=registry,ref=a,mode=max", CacheTo("docker.io/library/a:latest", mode="max", kind="registry")),
        ("localhost:5000/a", CacheTo("localhost:5000/a:latest", kind="registry")),
        (
            "type=registry,ref=h.io/a,registry.insecure=true,compression=zstd,mounts=true,ignore-error=true",
            CacheTo(
                "h.io/a:latest", compression="zstd", ignore_error=True, kind="registry", insecure=True, mounts=True
            ),
        ),
        ("type=inline", INLINE),
    ],
)
def test_cache_to(text: str, wanted: CacheTo) -> None:
    assert parse_cache_to(text) == wanted


def test_cache_from(tmp_path: Path) -> None:
    assert parse_cache_from("type=local,src=c") == CacheFrom("c")
    assert parse_cache_from(f"type=local,src=c,tag=x,digest={DIGEST}") == CacheFrom("c", "x", DIGEST)
    assert parse_cache_from(str(tmp_path)) == CacheFrom(str(tmp_path))
    assert parse_cache_from("h.io/a:b") == CacheFrom("h.io/a:b", kind="registry")
    assert parse_cache_from(f"type=registry,ref=a@{DIGEST}").src == f"docker.io/library/a@{DIGEST}"


def test_inline_as_a_build_argument() -> None:
    assert shared([], [], {INLINE_ARGUMENT: "1"})["cache_to"] == (INLINE,)
    assert shared([], ["type=inline"], {INLINE_ARGUMENT: "true"})["cache_to"] == (INLINE,)
    assert shared([], [], {INLINE_ARGUMENT: "0", "A": "1"})["cache_to"] == ()


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "is empty"),
        ("a/App", "write a/app"),
        ("type=registry", "ref=HOST/NAME:TAG"),
        ("type=registry,ref=", "ref=HOST/NAME:TAG"),
        ("type=registry,ref=h/a:b:c", "h/a:b:c"),
        (f"type=registry,ref=h.io/a@{DIGEST}", "nothing can be written under a digest"),
        ("type=registry,ref=a,dest=c", "type=registry has no dest"),
        ("type=local,dest=c,mounts=true", "type=local has no mounts"),
        ("type=registry,ref=a,registry.insecure=2", "registry.insecure=2: use true or false"),
        ("type=inline,mode=max", "type=inline has no mode"),
        ("type=gha", "type=gha is not supported"),
        ("type=lokal,dest=c", "no type lokal"),
        ("dest=c", "has no type"),
        ("type=local", "dest=DIR"),
        ("type=local,dest=", "dest=DIR"),
        ("type=local,dst=c", "did you mean dest?"),
        ("type=local,dest=c,mode=most", "mode=most"),
        ("type=local,dest=c,compression=lz4", "no compression lz4"),
        ("type=local,dest=c,compression-level=x", "compression-level=x"),
        ("type=local,dest=c,compression=zstd,compression-level=99", "levels 1 to 22"),
        ("type=local,dest=c,ignore-error=perhaps", "true or false"),
        ("type=local,dest=c,tag=a/b", "tag=a/b"),
        ("type=local,x", "has no `=`"),
        ('type=local,"dest=c', "--cache-to"),
    ],
)
def test_cache_to_that_means_nothing(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_cache_to(text)
    assert words in str(caught.value) and str(caught.value).startswith("--cache-to") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["type=local,dest=c", "type=local,src=c,digest=sha256:1", "type=local,src=c,mode=max", "type=inline", "type=gha"],
)
def test_cache_from_that_means_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--cache-from"):
        parse_cache_from(text)
