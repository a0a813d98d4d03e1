"""`.dockerignore`: the results of the table are those of Docker's own matcher (moby/patternmatcher)."""

from __future__ import annotations

import time

import pytest

from fastlayer.builder.dockerfile.ignore import Matcher, read_patterns
from fastlayer.errors import DockerfileError

PATHS = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "x.md",
    "docs/x.md",
    "docs/sub/y.md",
    "README.md",
    ".git",
    ".git/config",
    "node_modules",
    "node_modules/m/i.js",
    "src/node_modules/z",
    "a*b",
    "dir/.hidden",
    "dir/file",
]
CASES = [
    (["*.md"], "0000100100000000"),
    (["**/*.md"], "0000111100000000"),
    (["*"], "1111111111111111"),
    (["**"], "1111111111111111"),
    (["*", "!a"], "0100111111111111"),
    (["*", "!docs"], "1111100111111111"),
    (["**", "!**/*.md"], "1111000011111111"),
    (["*.md", "!README.md"], "0000100000000000"),
    (["*.md", "!README*.md", "README-secret.md"], "0000100000000000"),
    (["a"], "1011000000000000"),
    (["/a"], "0000000000000000"),
    (["a/"], "1011000000000000"),
    (["a/*"], "0011000000000000"),
    (["a/**"], "0011000000000000"),
    (["a/b"], "0011000000000000"),
    (["./a/./b"], "0011000000000000"),
    (["a/../b"], "0100000000000000"),
    (["**/node_modules"], "0000000000111000"),
    (["node_modules"], "0000000000110000"),
    (["**/.*"], "0000000011000010"),
    ([".*"], "0000000011000000"),
    ([".git", "!.git/config"], "0000000010000000"),
    (["docs", "!docs/x.md"], "0000001000000000"),
    (["docs/**", "!docs/sub"], "0000010000000000"),
    (["docs/*", "!docs/sub/y.md"], "0000010000000000"),
    (["?"], "1111000000000000"),
    (["?/b"], "0011000000000000"),
    (["[ab]"], "1111000000000000"),
    (["[^a]"], "0100000000000000"),
    (["[a-c]/b"], "0011000000000000"),
    (["a\\*b"], "0000000000000100"),
    (["a*b"], "0000000000000100"),
    (["**b"], "0111001000000100"),
    (["a**"], "1011000000000100"),
    (["**/b/**"], "0001000000000000"),
    (["docs/**/y.md"], "0000001000000000"),
    (["d*/s*/*.m?"], "0000001000000000"),
    (["dir/f*", "!dir/file", "dir/*"], "0000000000000011"),
    (["  a  "], "1011000000000000"),
    (["! a"], "0000000000000000"),
    (["a", "!a/b", "a/b/c"], "1001000000000000"),
    (["**/**/**/c"], "0001000000000000"),
    (["*/*/*"], "0001001000011000"),
    (["."], "0000000000000000"),
    ([".."], "0000000000000000"),
    (["../a"], "0000000000000000"),
    (["!a"], "0000000000000000"),
]


@pytest.mark.parametrize(("patterns", "wanted"), CASES)
def test_what_is_left_out(patterns: list[str], wanted: str) -> None:
    matcher = Matcher(patterns)
    assert {path: matcher.excludes(path) for path in PATHS} == {
        path: digit == "1" for path, digit in zip(PATHS, wanted, strict=True)
    }


def test_the_file() -> None:
    data = b"\xef\xbb\xbf# comment\n  a/ \r\n\n! b\n/c//d\n #no comment\n!\n/\n./x/../y\n"
    assert read_patterns(data) == ["a", "!b", "c/d", "#no comment", "!", "/", "y"]


@pytest.mark.parametrize("pattern", ["!", "[a", "[]", "[^]", "[b-a]", "a\\", "[a-]"])
def test_what_means_nothing(pattern: str) -> None:
    with pytest.raises(DockerfileError, match="pattern"):
        Matcher([pattern])


def test_many_stars_take_no_time() -> None:
    """A regular expression would not come back from these."""
    names = ["a" * 255, "/".join(["a"] * 500)]
    begin = time.monotonic()
    for pattern in ("*a" * 60 + "b", "**/a/" * 60 + "b", "*" + "?*" * 60 + "b", "a**a" * 30 + "b"):
        assert not any(Matcher([pattern]).descend(name)[0] for name in names)
    assert time.monotonic() - begin < 20


def test_taking_back_is_known_beforehand() -> None:
    """Nothing has to be looked at below a directory that is left out, unless something may be taken back."""
    assert Matcher(["a", "!a/b"]).takes_back and not Matcher(["a", "b"]).takes_back
    assert not Matcher([]) and Matcher(["a"])
