"""--cache-to and --cache-from as Docker spells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlayer.builder.sharing.options import CacheFrom, CacheTo, parse_cache_from, parse_cache_to
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
    ],
)
def test_cache_to(text: str, wanted: CacheTo) -> None:
    assert parse_cache_to(text) == wanted


def test_cache_from(tmp_path: Path) -> None:
    assert parse_cache_from("type=local,src=c") == CacheFrom("c")
    assert parse_cache_from(f"type=local,src=c,tag=x,digest={DIGEST}") == CacheFrom("c", "x", DIGEST)
    assert parse_cache_from(str(tmp_path)) == CacheFrom(str(tmp_path))


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "no registry"),
        ("user/app:cache", "no registry can be asked yet"),
        ("type=registry,ref=user/app", "type=registry is not supported"),
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


@pytest.mark.parametrize("text", ["type=local,dest=c", "type=local,src=c,digest=sha256:1", "type=local,src=c,mode=max"])
def test_cache_from_that_means_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--cache-from"):
        parse_cache_from(text)
