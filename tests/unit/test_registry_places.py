"""Places of images in skopeo's words, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import ReferenceFormatError
from fastlayer.registry.places import Place, parse_place

F = "sha256:" + "f" * 64

# what is given -> transport, path, reference, name, number, and the spelling of it
GOOD: dict[str, tuple[str, str, str, str, int, str]] = {
    "docker://alpine": ("docker", "", "docker.io/library/alpine:latest", "", -1, "docker://docker.io/library/alpine:latest"),
    "docker://quay.io/a/b:c": ("docker", "", "quay.io/a/b:c", "", -1, "docker://quay.io/a/b:c"),
    "docker://h:5000/a@" + F: ("docker", "", "h:5000/a@" + F, "", -1, "docker://h:5000/a@" + F),
    "docker://h:5000/a:1@" + F: ("docker", "", "h:5000/a:1@" + F, "", -1, "docker://h:5000/a:1@" + F),
    "alpine": ("docker", "", "docker.io/library/alpine:latest", "", -1, "docker://docker.io/library/alpine:latest"),
    "docker:dind": ("docker", "", "docker.io/library/docker:dind", "", -1, "docker://docker.io/library/docker:dind"),
    "docker": ("docker", "", "docker.io/library/docker:latest", "", -1, "docker://docker.io/library/docker:latest"),
    "oci": ("docker", "", "docker.io/library/oci:latest", "", -1, "docker://docker.io/library/oci:latest"),
    "oci/dir:x": ("docker", "", "docker.io/oci/dir:x", "", -1, "docker://docker.io/oci/dir:x"),
    "localhost:5000/a": ("docker", "", "localhost:5000/a:latest", "", -1, "docker://localhost:5000/a:latest"),
    "oci:d": ("oci", "d", "", "", -1, "oci:d"),
    "oci:d:": ("oci", "d", "", "", -1, "oci:d"),
    "oci:/a b/d:v1": ("oci", "/a b/d", "", "v1", -1, "oci:/a b/d:v1"),
    "oci:d:quay.io/a/b:c": ("oci", "d", "", "quay.io/a/b:c", -1, "oci:d:quay.io/a/b:c"),
    "oci:d:a@b+c--d": ("oci", "d", "", "a@b+c--d", -1, "oci:d:a@b+c--d"),
    "oci:d:@0": ("oci", "d", "", "", 0, "oci:d:@0"),
    "oci:d@1": ("oci", "d@1", "", "", -1, "oci:d@1"),
    "oci://d": ("oci", "//d", "", "", -1, "oci://d"),
    "oci-archive:f.tar": ("oci-archive", "f.tar", "", "", -1, "oci-archive:f.tar"),
    "oci-archive:f.tar:x:1": ("oci-archive", "f.tar", "", "x:1", -1, "oci-archive:f.tar:x:1"),
    "oci-archive:-": ("oci-archive", "-", "", "", -1, "oci-archive:-"),
    "docker-archive:f": ("docker-archive", "f", "", "", -1, "docker-archive:f"),
    "docker-archive:f:q.io/a": ("docker-archive", "f", "q.io/a:latest", "", -1, "docker-archive:f:q.io/a:latest"),
    "docker-archive:f:h:1/a:b": ("docker-archive", "f", "h:1/a:b", "", -1, "docker-archive:f:h:1/a:b"),
    "docker-archive:f:@12": ("docker-archive", "f", "", "", 12, "docker-archive:f:@12"),
    "dir:d": ("dir", "d", "", "", -1, "dir:d"),
    "dir:/d:x:y": ("dir", "/d:x:y", "", "", -1, "dir:/d:x:y"),
    "oci:\udcff": ("oci", "\udcff", "", "", -1, "oci:\udcff"),
}  # fmt: skip

BAD = {  # what is given -> a part of the line
    "": "an empty text: names no image",
    "docker://": "names no image",
    "docker:///a": "a slash too many",
    "docker://A": "capitals",
    "docker://a:": "not an image name",
    "docker://a@sha256:ff": "not an image name",
    "docker://" + "f" * 64: "an image id",
    "https://quay.io/a": "leave out the scheme",
    "oci:": "has no path",
    "oci::x": "has no path",
    "oci:d:bad name": "not the name of an image in a layout",
    "oci:d:.x": "not the name",
    "oci:d:a//b": "not the name",
    "oci:d:" + "a" * 2000: "not the name",
    "oci:d:@": "number of an image",
    "oci:d:@-1": "number of an image",
    "oci:d:@x": "number of an image",
    "oci:d:@²": "number of an image",
    "oci:d:@99999999": "number of an image",
    "oci:a\0b": "no path",
    "oci-archive:" + "a" * 5000: "no path",
    "docker-archive:": "has no path",
    "docker-archive::x": "has no path",
    "docker-archive:f:": "ends with a colon",
    "docker-archive:f:a@" + F: "knows no digests",
    "docker-archive:f:A": "capitals",
    "dir:": "has no path",
    "containers-storage:a": "cannot be reached",
    "containers-storage:[overlay@/x]a": "cannot be reached",
    "docker-daemon:a:b": "docker save",
    "tarball:x": "fastlayer import",
    "ostree:x": "cannot be reached",
    "a b": "white space",
    "a\nb": "white space",
}


@pytest.mark.parametrize("text", GOOD)
def test_places(text: str) -> None:
    place = parse_place(text)
    reference = str(place.reference) if place.reference else ""
    assert (place.transport, place.path, reference, place.name, place.number, str(place)) == GOOD[text]
    assert parse_place(str(place)) == place
    assert place.is_registry == (place.transport == "docker")


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_place_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ReferenceFormatError) as caught:
        parse_place(text)
    line = str(caught.value)
    assert BAD[text] in line
    assert "\n" not in line and len(line) < 500


def test_a_bare_name_may_be_of_the_store() -> None:
    place = parse_place("alpine:3", bare="store")
    assert (place.transport, place.name, str(place)) == ("store", "alpine:3", "alpine:3")
    assert str(place.reference) == "docker.io/library/alpine:3"
    assert parse_place("docker:dind", bare="store").transport == "store"
    assert parse_place("docker://a", bare="store").transport == "docker"
    assert parse_place("f" * 64, bare="store") == Place("store", name="f" * 64)
    assert parse_place(F, bare="store").reference is None


@given(st.text(max_size=40) | st.from_regex(r"(docker|oci|oci-archive|docker-archive|dir):[a-zA-Z0-9:@/._-]{0,30}"))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_place_that_reads_back_or_one_line(text: str) -> None:
    try:
        place = parse_place(text)
    except ReferenceFormatError as exc:
        assert "\n" not in str(exc)
    else:
        assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text", ["docker://jane:s3cret@r.io/a:1", "jane:s3cret@r.io/a", "docker://jane:s3:cr@et@r.io:5/a"]
)
def test_a_login_in_a_name_is_not_shown(text: str) -> None:
    with pytest.raises(ReferenceFormatError, match="use `fastlayer login`") as caught:
        parse_place(text)
    assert "s3" not in str(caught.value) and "r.io" in str(caught.value)
