"""Which stages are built, and in which order."""

from __future__ import annotations

import pytest

from fastlayer.builder.dockerfile.stages import read
from fastlayer.builder.graph import plan
from fastlayer.errors import DockerfileError

FILE = b"""ARG VERSION=12
ARG BASE=debian:$VERSION
FROM ${BASE}-slim AS base
RUN a
FROM --platform=$BUILDPLATFORM golang AS tools
RUN b
FROM base AS unused
RUN c
FROM base AS test
RUN --mount=from=tools,target=/t --mount=type=$KIND,target=/c d
COPY --from=busybox:1 /bin/sh /sh
FROM scratch
COPY --from=test /x /x
COPY --from=1 /y /y
"""


def test_only_what_the_target_needs() -> None:
    found = plan(read(FILE), platforms={"BUILDPLATFORM": "linux/amd64"})
    assert [needed.stage.name for needed in found.needed] == ["base", "tools", "test", "4"]
    base, tools, test, last = found.needed
    assert (base.base, base.image, base.stages) == (None, "debian:12-slim", frozenset())
    assert (tools.image, tools.platform) == ("golang", "linux/amd64")
    assert test.base == 0 and test.image == "" and test.stages == {0, 1} and test.images == {"busybox:1"}
    assert last.image == "scratch" and last.stages == {3, 1} and not found.unset
    assert [needed.stage.name for needed in plan(read(FILE), "unused").needed] == ["base", "unused"]
    assert [
        needed.stage.number for needed in plan(read(FILE), "1", platforms={"BUILDPLATFORM": "linux/amd64"}).needed
    ] == [1]


def test_arguments_before_the_first_stage() -> None:
    platforms = {"BUILDPLATFORM": "linux/amd64"}
    assert plan(read(FILE), given={"VERSION": "13"}, platforms=platforms).arguments == {
        "VERSION": "13",
        "BASE": "debian:13",
    }
    assert plan(read(FILE), given={"BASE": "alpine"}, platforms=platforms).needed[0].image == "alpine-slim"
    assert plan(read(FILE), given={"OTHER": "x"}, platforms=platforms).arguments == {
        "VERSION": "12",
        "BASE": "debian:12",
    }
    file = read(b"ARG TARGETARCH\nARG X=$TARGETARCH\nFROM a:$X$Y")
    found = plan(file, platforms={"TARGETARCH": "arm64"})
    assert found.needed[0].image == "a:arm64" and found.unset == {"Y"}


def test_a_name_that_is_used_twice_is_the_last_before() -> None:
    found = plan(read(b"FROM a AS x\nFROM b AS x\nFROM x\nFROM x AS x"), "x")
    assert [needed.stage.number for needed in found.needed] == [1, 3]


@pytest.mark.parametrize(
    ("text", "target", "why"),
    [
        ("FROM a AS base", "bse", "no stage 'bse': did you mean base?"),
        ("FROM $X", None, "Dockerfile:1: FROM $X: is empty"),
        ("FROM --platform=$X a", None, "--platform=$X: is empty"),
        ("FROM ${X:?missing}", None, "X: missing"),
        ("ARG A=${B?no}\nFROM a", None, "Dockerfile:1: ARG"),
        ("FROM a AS x\nCOPY --from=x a b", None, "Dockerfile:2: from=x: is no stage before this one"),
        ("FROM a\nCOPY --from=later a b\nFROM b AS later", "0", "Dockerfile:2: from=later"),
        ("FROM a\nCOPY --from=1 a b\nFROM b", "0", "Dockerfile:2: from=1"),
        ("FROM a\nRUN --mount=from=0,target=/x b", None, "Dockerfile:2: from=0"),
    ],
)
def test_what_is_refused(text: str, target: str | None, why: str) -> None:
    with pytest.raises(DockerfileError) as found:
        plan(read(text.encode()), target)
    assert why in str(found.value)
