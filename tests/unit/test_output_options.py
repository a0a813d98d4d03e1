"""What ``--output`` may say."""

from __future__ import annotations

import pytest

from fastlayer.builder.outputs.options import Export, kaniko_outputs, parse_output
from fastlayer.builder.outputs.write import check_export
from fastlayer.errors import UsageError


@pytest.mark.parametrize(
    "text,expected",
    [
        ("out", Export("local", "out")),
        ("./a b", Export("local", "./a b")),
        ("-", Export("tar", "-")),
        ("type=local,dest=out", Export("local", "out")),
        ("type=tar", Export("tar")),
        ("TYPE=tar,Dest=x.tar", Export("tar", "x.tar")),
        ("type=image,name=a:1", Export("image", names=("a:1",))),
        ('type=oci,"name=a:1,b:2",dest=x', Export("oci", "x", ("a:1", "b:2"))),
        ("type=oci,dest=x,compression=uncompressed", Export("oci", "x", compression="none")),
        (
            "type=oci,dest=x,compression=zstd,compression-level=19,force-compression",
            None,
        ),
        (
            "type=oci,dest=x,compression=zstd,compression-level=19,force-compression=true",
            Export("oci", "x", compression="zstd", level=19, force=True),
        ),
        ("type=oci,dest=d,tar=false", Export("oci", "d", archive=False)),
        ("type=docker", Export("docker", docker_types=True)),
        ("type=docker,oci-mediatypes=1,compression=zstd", Export("docker", compression="zstd")),
        ("type=oci,dest=x,compression=zstd:chunked", Export("oci", "x", compression="zstd:chunked")),
        ("type=docker,oci-mediatypes=1,compression=estargz", Export("docker", compression="estargz")),
        ("type=oci,oci-mediatypes=false", Export("oci", docker_types=True)),
        ("type=oci,rewrite-timestamp=true", Export("oci", rewrite_timestamp=True)),
        (
            "type=oci,annotation.Org.Key=Value=2,annotation-manifest[linux/amd64].b=c,annotation-manifest-descriptor.d=e",
            Export("oci", annotations={"Org.Key": "Value=2", "b": "c"}, descriptor_annotations={"d": "e"}),
        ),
        ("type=cacheonly", Export("cacheonly")),
        ("type=image,push=false,unpack=true", Export("image")),
        ("type=image,push=true,compression=zstd", Export("image", compression="zstd", push=True)),
        (
            "type=registry,name=h.io/x,registry.insecure=true",
            Export("image", names=("h.io/x",), push=True, insecure=True),
        ),
        ("type=local,dest=x,platform-split=false", Export("local", "x")),
    ],
)
def test_parse(text: str, expected: Export | None) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="has no `=`"):
            parse_output(text)
    else:
        assert parse_output(text) == expected


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "is empty"),
        ("dest=x", "has no type"),
        ("type=dokcer", "did you mean docker"),
        ("type=oci,push=true", "type=registry"),
        ("type=regstry", "did you mean registry"),
        ("type=local", "a directory is needed"),
        ("type=local,dest=-", "a directory is needed"),
        ("type=oci,tar=false", "a layout is a directory"),
        ("type=oci,dset=x", "did you mean dest"),
        ("type=tar,compression=gzip", "type=tar has no compression"),
        ("type=oci,compression=stargz", "did you mean estargz.*zstd:chunked or estargz"),
        ("type=oci,compression-level=x", "use a number"),
        ("type=oci,compression-level=12", "levels 0 to 9"),
        ("type=oci,compression=none,compression-level=1", "without compression"),
        ("type=oci,force-compression=maybe", "true or false"),
        ("type=docker,compression=zstd", "oci-mediatypes=true"),
        ("type=docker,compression=zstd:chunked", "oci-mediatypes=true"),
        ("type=docker,compression=estargz", "needs annotations"),
        ("type=docker,annotation.a=b", "oci-mediatypes=true"),
        ("type=oci,annotation=b", "annotation.KEY"),
        ("type=oci,annotation-index.a=b", "no index of its own"),
        ("type=local,dest=x,annotation.a=b", "for images"),
        ("type=local,dest=x,platform-split=true", "one platform"),
        ('type=oci,"dest=x', "type=oci"),
        ("a,b", "has no `=`"),
        ("type=oci\nx,dest=y", "."),
    ],
)
def test_what_means_nothing(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_output(text)
    assert "\n" not in str(caught.value)


def test_stdout() -> None:
    assert parse_output("type=oci").to_stdout and parse_output("-").to_stdout
    assert parse_output("type=docker,dest=-").to_stdout
    assert not parse_output("type=oci,dest=x").to_stdout and not parse_output("out").to_stdout
    assert not parse_output("type=image").to_stdout


def test_what_is_wrong_before_a_build() -> None:
    check_export(parse_output("type=oci"), None, to_stdout=True)
    for text in ("type=oci", "type=tar", "-"):
        with pytest.raises(UsageError, match="not for a terminal"):
            check_export(parse_output(text), None, to_stdout=False)
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        check_export(parse_output("type=oci,dest=x,rewrite-timestamp=true"), None, to_stdout=False)
    for text in ("compression=gzip", "annotation.a=b", "rewrite-timestamp=true"):
        with pytest.raises(UsageError, match="type=image keeps"):
            check_export(parse_output(f"type=image,{text}"), 0, to_stdout=False)


def test_kaniko() -> None:
    assert kaniko_outputs(None, None, []) == []
    assert kaniko_outputs("x.tar", "layout", ["a"]) == [
        Export("docker", "x.tar", ("a",), docker_types=True),
        Export("oci", "layout", ("a",), archive=False),
    ]
    for given in (("", None), (None, "")):
        with pytest.raises(UsageError, match="name a"):
            kaniko_outputs(*given, [])
