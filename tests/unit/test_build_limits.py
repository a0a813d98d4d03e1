"""Dockerfiles that would take all memory or all time: they are refused, or read as fast as others."""

from __future__ import annotations

import pytest

from fastlayer.builder.dockerfile.parser import parse
from fastlayer.builder.dockerfile.shell import MAX_VALUE, Budget, Lexer
from fastlayer.builder.dockerfile.stages import read
from fastlayer.builder.effects import Given, effect
from fastlayer.builder.graph import plan
from fastlayer.builder.lint.check import check
from fastlayer.builder.state import begin, scratch
from fastlayer.errors import DockerfileError
from fastlayer.oci.platform import Platform

DOUBLE = "A=${A}${A}"


def carried_out(text: str) -> None:
    file = read(text.encode())
    state = begin(scratch(Platform("linux", "amd64")))
    given = Given({}, {}, "\\", Budget())
    for command in file.stages[0].commands:
        after = effect(state, command, given)
        assert after is not None
        state = after


@pytest.mark.parametrize("keyword", ["ENV", "ARG"])
def test_a_variable_that_doubles(keyword: str) -> None:
    lines = [f"{keyword} A=xxxxxxxxxxxxxxxx", *[f"{keyword} {DOUBLE}"] * 60]
    with pytest.raises(DockerfileError, match="variables come to more than 1048576 characters"):
        carried_out("\n".join(["FROM scratch", *lines]))


def test_a_variable_that_doubles_before_from() -> None:
    lines = ["ARG A=xxxxxxxxxxxxxxxx", *[f"ARG {DOUBLE}"] * 60, "FROM scratch"]
    with pytest.raises(DockerfileError, match=r"Dockerfile:18: .*variables come to more than"):
        plan(read("\n".join(lines).encode()))


def test_many_copies_of_a_long_variable() -> None:
    """Each of them is short enough."""
    long = "x" * (MAX_VALUE // 2)
    with pytest.raises(DockerfileError, match="variables and texts come to more than"):
        carried_out("\n".join(["FROM scratch", f"ENV A={long}", *(f"LABEL l{number}=$A" for number in range(1000))]))
    with pytest.raises(DockerfileError, match="variables and texts come to more than"):
        lines = [f"ARG A={long}", *(f"ARG A{number}=$A" for number in range(1000)), "FROM scratch"]
        plan(read("\n".join(lines).encode()))


def test_checks_of_what_doubles_end() -> None:
    lines = ["FROM scratch", "ENV A=xxxxxxxxxxxxxxxx", *[f"ENV {DOUBLE}"] * 60, *["LABEL a=$A$A$A$B"] * 2000]
    assert check("\n".join(lines).encode()).warnings is not None


def test_a_replacement_that_grows() -> None:
    env = {"A": "x" * 100_000, "B": "y" * 100_000}
    with pytest.raises(DockerfileError, match="more than 1048576 characters"):
        Lexer("\\").word("${A//x/$B}", env)
    assert Lexer("\\").word("${A//x/yy}", env) == "yy" * 100_000


def test_a_pattern_that_takes_too_long() -> None:
    with pytest.raises(DockerfileError, match="takes too long"):
        Lexer("\\").word("${A//" + "*a" * 5000 + "/x}", {"A": "a" * 100_000})


def test_a_message_shows_the_beginning_of_a_long_text() -> None:
    with pytest.raises(DockerfileError) as caught:
        Lexer("\\").word('"' + "x" * 1_000_000, {})
    assert len(str(caught.value)) < 500


def test_long_comments_and_directives_are_read_at_once() -> None:
    """Time that grows with the square of either would be hours."""
    parsed = parse(b"#a\n" * 1_000_000 + b"FROM scratch\n")
    assert len(parsed.instructions[0].comments) == 1_000_000
    parsed = parse(b"# syntax=x" + b" " * 2_000_000 + b"y \t\nFROM scratch\n")
    assert parsed.directives["syntax"][0] == "x" + " " * 2_000_000 + "y"
    assert parse(b"#a\n#\n#b\nFROM scratch\n").instructions[0].comments == ("b",)


def test_instructions_in_each_other() -> None:
    with pytest.raises(DockerfileError, match="Dockerfile:2: ONBUILD ONBUILD is not allowed"):
        read(b"FROM scratch\n" + b"onbuild " * 5000 + b"run x\n")


def test_the_number_of_a_stage_that_has_thousands_of_digits() -> None:
    file = read(b"FROM scratch\nCOPY --from=" + b"1" * 5000 + b" / /\n")
    with pytest.raises(DockerfileError, match="is no stage before this one"):
        plan(file)


def test_variables_keep_their_places() -> None:
    file = read(b"FROM scratch\nENV A=1 B=2\nENV C=3\nENV A=4\n")
    state = begin(scratch(Platform("linux", "amd64")))
    for command in file.stages[0].commands:
        state = effect(state, command, Given({}, {}, "\\", Budget())) or state
    assert [entry for entry in state.run.env if not entry.startswith("PATH=")] == ["A=4", "B=2", "C=3"]
