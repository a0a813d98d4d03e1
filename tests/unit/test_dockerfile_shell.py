"""Variables, quotes and escapes in the words of a Dockerfile."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.builder.dockerfile.pattern import Pattern
from fastlayer.builder.dockerfile.shell import Lexer
from fastlayer.errors import DockerfileError

ENV = {"A": "hello", "B": "", "PATH": "/usr/bin:/bin", "FILE": "/srv/app.tar.gz", "SPACE": "one two", "É": "accent"}
SHELL = Lexer("\\")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("$A", "hello"),
        ("${A}x", "hellox"),
        ("$Ax", ""),
        ("$", "$"),
        ("$$A", "A"),  # the parameter `$` of a shell, which is not set
        ("a$/b", "a$/b"),
        ("'$A'", "$A"),
        ('"$A"', "hello"),
        ('"a\\"b"', 'a"b'),
        ('"a\\nb"', "a\\nb"),
        ("a\\nb", "anb"),
        ("\\$A", "$A"),
        ("\\\\$A", "\\hello"),
        ("a\\", "a"),
        ("${N:-word}", "word"),
        ("${B:-word}", "word"),
        ("${B-word}", ""),
        ("${N-word}", "word"),
        ("${A:-word}", "hello"),
        ("${A:+word}", "word"),
        ("${B:+word}", ""),
        ("${B+word}", "word"),
        ("${N+word}", ""),
        ("${N:-${A}}", "hello"),
        ("${N:-${M:-$A}}!", "hello!"),
        ("${N:-'a b'}", "a b"),
        ("${A:?}", "hello"),
        ("${A?x}", "hello"),
        ("${B?x}", ""),
        ("${FILE#*/}", "srv/app.tar.gz"),
        ("${FILE##*/}", "app.tar.gz"),
        ("${FILE%.*}", "/srv/app.tar"),
        ("${FILE%%.*}", "/srv/app"),
        ("${FILE#nothing}", "/srv/app.tar.gz"),
        ("${A#h?l}", "lo"),
        ("${A/l/L}", "heLlo"),
        ("${A//l/L}", "heLLo"),
        ("${A/l*/}", "he"),
        ("${PATH//\\//_}", "_usr_bin:_bin"),
        ("${A//?/x}", "xxxxx"),
        ("${N/a/b}", ""),
        ("$1", ""),
        ("${12}a", "a"),
        ("$É", "accent"),
    ],
)
def test_what_becomes_of_a_word(text: str, wanted: str) -> None:
    assert SHELL.word(text, ENV) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("'a", "second '"),
        ('"a', 'second "'),
        ("${A", "`}`"),
        ("${", "`}`"),
        ("${}", "bad substitution"),
        ("${:-a}", "bad substitution"),
        ("${{A}}", "bad substitution"),
        ("${A:-b", "`}`"),
        ("${A!b}", "unsupported modifier"),
        ("${A:=b}", "unsupported modifier"),
        ("${N:?give it}", "N: give it"),
        ("${B:?}", "B: must be set and not empty"),
        ("${N?}", "N: must be set"),
        ("${A/b}", "`/` is missing"),
        ("${A/b/c", "`}` is missing"),
        ("${A#\\x}", "means nothing"),
        ("${A:-" * 200, "substitutions in each other"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(DockerfileError) as found:
        SHELL.word(text, ENV)
    assert why in str(found.value)


def test_the_other_escape() -> None:
    assert Lexer("`").word("a`$A\\$A", ENV) == "a$A\\hello"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a  b", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        ("a\\ b c", ["a b", "c"]),
        ("$SPACE", ["one", "two"]),
        ('"$SPACE"', ["one two"]),
        ("x$SPACE'y z'", ["xone", "twoy z"]),
        ("''", []),
        ("", []),
    ],
)
def test_words(text: str, wanted: list[str]) -> None:
    assert SHELL.words(text, ENV) == wanted


def test_what_can_be_left_as_it_is() -> None:
    raw = Lexer("\\", raw_quotes=True, raw_escapes=True)
    assert raw.word("'a' \"b\" \\c $A", ENV) == "'a' \"b\" \\c hello"
    assert Lexer("\\", keep_unset=True).word("$N ${N} ${N:-w} ${N/a/b} $A", ENV) == "$N ${N} ${N:-w} ${N/a/b} hello"
    assert Lexer("\\", plain_quotes=True).word("it's $A", ENV) == "it's hello"
    found = SHELL.expand("$A ${N:-$B} ${M+x}", ENV)
    assert found.used == {"A", "B"} and found.missing == {"N", "M"}


VALUES = st.text("ab/.", max_size=8)
PATTERNS = st.text("ab/.*?", max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, PATTERNS), min_size=30, max_size=30))
def test_patterns_are_those_of_a_shell(cases: list[tuple[str, str]]) -> None:
    """bash agrees, where it means the same: it has brackets, too, and a slash ends the pattern of ``/``."""
    lines, ours = [], []
    for value, pattern in cases:
        for kind, greedy in (("#", False), ("##", True), ("%", False), ("%%", True)):
            lines.append(f"v='{value}'; printf '%s\\n' \"${{v{kind}{pattern}}}\"")
            trim = Pattern(pattern).without_prefix if kind[0] == "#" else Pattern(pattern).without_suffix
            ours.append(trim(value, greedy))
        if pattern and "/" not in pattern and pattern[0] not in "#%":
            for kind, everywhere in (("/", False), ("//", True)):
                lines.append(f"v='{value}'; printf '%s\\n' \"${{v{kind}{pattern}/X}}\"")
                ours.append(Pattern(pattern).replaced(value, "X", everywhere=everywhere))
    bash = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    theirs = bash.stdout.split("\n")[:-1]
    for line, mine, other in zip(lines, ours, theirs, strict=True):
        assert mine == other, line


def test_many_stars_take_no_time() -> None:
    """A matcher that tries one thing after the other would not come back."""
    value = "a" * 20_000
    pattern = Pattern("*a" * 30 + "*b")
    assert pattern.without_prefix(value, False) == value
    assert pattern.replaced(value, "x", everywhere=True) == value
    assert Pattern("*?" * 30 + "b").without_suffix(value, True) == value
