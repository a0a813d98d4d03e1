"""Docker's reference grammar, its normal and its familiar forms, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import ReferenceFormatError
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import Reference, is_id_prefix, parse_any, parse_reference, short_id

F = "sha256:" + "f" * 64
F512 = "sha512:" + "0f" * 64

# what is given -> full form, familiar form
GOOD: dict[str, tuple[str, str]] = {
    "alpine": ("docker.io/library/alpine", "alpine"),
    "alpine:3.20": ("docker.io/library/alpine:3.20", "alpine:3.20"),
    "alpine@" + F: ("docker.io/library/alpine@" + F, "alpine@" + F),
    "alpine:3@" + F: ("docker.io/library/alpine:3@" + F, "alpine:3@" + F),
    "library/alpine": ("docker.io/library/alpine", "alpine"),
    "docker.io/alpine": ("docker.io/library/alpine", "alpine"),
    "docker.io/library/alpine": ("docker.io/library/alpine", "alpine"),
    "index.docker.io/alpine": ("docker.io/library/alpine", "alpine"),
    "index.docker.io/library/alpine:x": ("docker.io/library/alpine:x", "alpine:x"),
    "index.docker.io/me/app": ("docker.io/me/app", "me/app"),
    "library/a/b": ("docker.io/library/a/b", "library/a/b"),
    "library/library": ("docker.io/library/library", "library"),
    "library": ("docker.io/library/library", "library"),
    "me/app": ("docker.io/me/app", "me/app"),
    "a/b/c/d/e": ("docker.io/a/b/c/d/e", "a/b/c/d/e"),
    "localhost/app": ("localhost/app", "localhost/app"),
    "localhost": ("docker.io/library/localhost", "localhost"),
    "localhost:5000": ("docker.io/library/localhost:5000", "localhost:5000"),
    "localhost:5000/app": ("localhost:5000/app", "localhost:5000/app"),
    "registry:5000/app:tag": ("registry:5000/app:tag", "registry:5000/app:tag"),
    "example.com": ("docker.io/library/example.com", "example.com"),
    "example.com:5000": ("docker.io/library/example.com:5000", "example.com:5000"),
    "example.com/app": ("example.com/app", "example.com/app"),
    "example.com/library/app": ("example.com/library/app", "example.com/library/app"),
    "Example.COM/app": ("Example.COM/app", "Example.COM/app"),
    "UPPER/app": ("UPPER/app", "UPPER/app"),
    "xn--n3h.com/myimage:xn--n3h.com": ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"),
    "127.0.0.1:5000/a/b:t": ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t"),
    "192.168.1.1": ("docker.io/library/192.168.1.1", "192.168.1.1"),
    "[2001:db8::1]/app": ("[2001:db8::1]/app", "[2001:db8::1]/app"),
    "[2001:db8::1]:5000/app:t@" + F: ("[2001:db8::1]:5000/app:t@" + F, "[2001:db8::1]:5000/app:t@" + F),
    "[::1]:5000/app": ("[::1]:5000/app", "[::1]:5000/app"),
    "a__b": ("docker.io/library/a__b", "a__b"),
    "a_b.c-d--e---f": ("docker.io/library/a_b.c-d--e---f", "a_b.c-d--e---f"),
    "foo_bar.com:8080": ("docker.io/library/foo_bar.com:8080", "foo_bar.com:8080"),
    "foo/foo_bar.com:8080": ("docker.io/foo/foo_bar.com:8080", "foo/foo_bar.com:8080"),
    "foo/foo_bar.com": ("docker.io/foo/foo_bar.com", "foo/foo_bar.com"),
    "sub-dom1.foo.com/bar/baz/quux:some-long-tag": ("sub-dom1.foo.com/bar/baz/quux:some-long-tag",) * 2,
    "b.gcr.io/test.example.com/my-app:test.example.com": ("b.gcr.io/test.example.com/my-app:test.example.com",) * 2,
    "a:_": ("docker.io/library/a:_", "a:_"),
    "a:A.b-C_": ("docker.io/library/a:A.b-C_", "a:A.b-C_"),
    "a:" + "t" * 128: ("docker.io/library/a:" + "t" * 128, "a:" + "t" * 128),
    "app@" + F512: ("docker.io/library/app@" + F512, "app@" + F512),
    "f" * 63: ("docker.io/library/" + "f" * 63, "f" * 63),
    "f" * 65: ("docker.io/library/" + "f" * 65, "f" * 65),
    "abc123": ("docker.io/library/abc123", "abc123"),
    "0": ("docker.io/library/0", "0"),
    "example.com/" + "a/" * 127 + "a": ("example.com/" + "a/" * 127 + "a",) * 2,
    "aa:5/x": ("aa:5/x", "aa:5/x"),
}

BAD = [
    "",
    ":justtag",
    "@" + F,
    "alpine:",
    "alpine@",
    "alpine:3:4",
    "alpine@sha256:" + "f" * 34,
    "alpine@sha256:" + "F" * 64,
    "alpine@sha256:" + "f" * 65,
    "alpine@md5:" + "f" * 32,
    "alpine@" + F + ":tag",
    "alpine@" + F + "@" + F,
    "validname@invaliddigest:" + "f" * 128,
    "Uppercase",
    "Uppercase:tag",
    "me/App",
    "test:5000/Uppercase/lowercase:tag",
    "docker.io/Library/alpine",
    "aa/asdf$$^/aa",
    "-a",
    "a-",
    "_a",
    "a_",
    ".a",
    "a.",
    "a..b",
    "a___b",
    "a._b",
    "a//b",
    "/a",
    "a/",
    "a/-b",
    "/",
    "//",
    "..",
    "../etc/passwd",
    "a/../b",
    "./a",
    " alpine",
    "alpine ",
    "alpine\n",
    "al pine",
    "alpine\x00",
    "alpine:tag\n",
    "älpine",
    "alpine:täg",
    "a:.t",
    "a:-t",
    "a:t/x",
    "a:" + "t" * 129,
    "[2001:db8::1]",
    "[2001:db8::1]:5000",
    "[2001:db8::1]:tag",
    "[fe80::1%eth0]:5000/app",
    "[fe80::1%@invalidzone]:5000/app",
    "https://example.com/app",
    "docker://alpine",
    "example.com:port/app",
    "-example.com/app",
    "example-.com/app",
    "exa_mple.com:5000/app",
    "example..com/app",
    "example.com:/app",
    "f" * 64,
    "example.com/" + "a/" * 128 + "a",
    "a" * 256,
    "a" * 5000,
    "a/" * 100_000,
    "*",
    "a\ud800",
]


@pytest.mark.parametrize("given_text", GOOD)
def test_normal_and_familiar_forms(given_text: str) -> None:
    full, familiar = GOOD[given_text]
    reference = parse_reference(given_text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert parse_reference(full) == reference
    assert parse_reference(familiar) == reference


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text[:40]))
def test_what_is_no_name_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ReferenceFormatError) as caught:
        parse_reference(text)
    line = str(caught.value)
    assert line.isprintable() and line.isascii() and len(line) < 500, line


def test_parts() -> None:
    reference = parse_reference("ghcr.io:443/a/b:t@" + F)
    assert reference == Reference("ghcr.io:443", "a/b", "t", F)
    assert (reference.name, reference.familiar_name) == ("ghcr.io:443/a/b", "ghcr.io:443/a/b")
    assert reference.with_tag("u") == Reference("ghcr.io:443", "a/b", "u", "")


def test_the_default_tag_is_only_for_bare_names() -> None:
    assert str(parse_reference("alpine").with_default_tag()) == "docker.io/library/alpine:latest"
    assert parse_reference("alpine:x").with_default_tag().tag == "x"
    assert parse_reference("alpine@" + F).with_default_tag().tag == ""


def test_a_wrong_tag_is_refused() -> None:
    for tag in ("", ".x", "a b", "x" * 129, "a\n"):
        with pytest.raises(ReferenceFormatError, match="not a tag"):
            parse_reference("alpine").with_tag(tag)


def test_ids_and_digests() -> None:
    assert parse_any("f" * 64) == Digest(F)
    assert parse_any(F) == Digest(F)
    assert parse_any("f" * 63) == parse_reference("f" * 63)
    assert isinstance(parse_any("alpine"), Reference)
    assert short_id(F) == "f" * 12
    assert all(is_id_prefix(text) for text in ("a", "0123456789ab", "f" * 64, F, "sha256:ab"))
    assert not any(is_id_prefix(text) for text in ("", "g", "AB", "f" * 65, "sha256:", "ab\n", "sha512:ab"))


def test_messages_say_what_to_do() -> None:
    cases = {
        "Alpine": "write alpine",
        "https://x.y/z": "scheme",
        "a b": "white space",
        "f" * 64: "image id",
        "alpine@sha256:" + "f" * 40: "64 lower-case hex digits",
    }
    for text, words in cases.items():
        with pytest.raises(ReferenceFormatError, match=words):
            parse_reference(text)


@settings(deadline=None)
@given(st.text(alphabet="abAB01.:/@_-[]%\n ", max_size=40) | st.text(max_size=60))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ReferenceFormatError as exc:
        assert str(exc).isprintable()
        return
    assert parse_reference(str(reference)) == reference == parse_reference(reference.familiar)
    assert len(reference.path) <= 255
