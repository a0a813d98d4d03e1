"""A line is read as click reads it: every verb, lines of all sorts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.cli import commands
from fastlayer.cli.line import declare, reading
from fastlayer.cli.line.clicked import clicked

WORDS = ("", "-", "--", "a", "a b", "A=1", "x:y", "1", "0", "-1", " 7 ", "1_0", "2.5", "nan", "\u0663", "true", "False")
WORDS += ("T", "yes", "no", "on", "TRUE ", "table", "json", "{{.ID}}", "{{", "label=x", "none", "host", "auto", "gzip")
WORDS += ("64", "99999999999999999999", "-x", "--nope", "--nope=1", "-", "\udcff", "é", "0:1:2", "--rm=true", "--help")
SETTINGS = {"type", "default", "multiple", "is_flag", "callback", "expose_value", "envvar", "required", "nargs", "bare"}
SHOWN = {"help", "metavar", "show_default", "hidden"}


def verbs(group: declare.Group = commands.cli, path: str = "") -> Iterator[tuple[str, declare.Command]]:
    for verb in group.verbs:
        found = group.find(verb)
        if isinstance(found, declare.Group):
            yield from verbs(found, f"{path}{verb} ")
        else:
            yield f"{path}{verb}", found


ALL = dict(verbs())
DISTINCT = {command: verb for verb, command in reversed(ALL.items())}.values()  # `images` is `image ls`, too


def by_click(command: declare.Command, words: list[str]) -> dict[str, Any] | None:
    made = clicked(command)
    made.callback = lambda **given: given
    try:
        found = made.main(words, prog_name="x", standalone_mode=False)
    except click.ClickException:
        return None
    return found if isinstance(found, dict) else None  # else it was asked for help, and has printed it


def by_us(command: declare.Command, words: list[str]) -> dict[str, Any] | None:
    try:
        return reading.values(command, words)[0]
    except (reading.Unread, declare.LineError, ValueError):
        return None


def lines(command: declare.Command) -> st.SearchStrategy[list[str]]:
    """Lines with its flags in all forms, right values and wrong ones."""
    flags = [(flag, action) for one in command.options for flag, action in one.actions().items()]
    choices = [word for one in command.parameters for word in getattr(one.settings.get("type"), "choices", ())]
    words = st.sampled_from([*WORDS, *choices])
    switches = [flag for flag, action in flags if action is not declare.VALUE]
    valued = [flag for flag, action in flags if action is declare.VALUE]
    short = "".join(flag[1] for flag, _ in flags if len(flag) == 2)
    pieces = [words.map(lambda word: [word]), st.sampled_from(switches).map(lambda flag: [flag])]
    pieces.append(st.tuples(st.sampled_from(switches), words).map(lambda two: [f"{two[0]}={two[1]}"]))
    if valued:
        pieces.append(st.tuples(st.sampled_from(valued), words).map(list))
        pieces.append(st.tuples(st.sampled_from(valued), words).map(lambda two: [f"{two[0]}={two[1]}"]))
        pieces.append(st.tuples(st.sampled_from(valued), words).map(lambda two: [f"{two[0]}{two[1]}"]))
    pieces.append(st.text(st.sampled_from(short), min_size=1, max_size=4).map(lambda letters: [f"-{letters}"]))
    flat = st.lists(st.one_of(pieces), max_size=4).map(lambda found: [word for piece in found for word in piece])
    singles = sum(not one.many for one in command.arguments)
    operands = st.lists(st.sampled_from(["a", "b c", "0:1", "."]), min_size=singles, max_size=singles + 1)
    return st.one_of(flat, operands, st.tuples(flat, operands).map(lambda two: [*two[0], *two[1]]))


@pytest.mark.parametrize("verb", DISTINCT)
def test_every_verb_is_read_as_click_reads_it(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ALL[verb]
    seen = {"read": 0}

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(lines(command), st.sampled_from([None, "", "3", "0", "plain", "x"]))
    def check(words: list[str], environment: str | None) -> None:
        for name in ("FASTLAYER_JOBS", "BUILDKIT_PROGRESS", "FASTLAYER_PULL"):
            monkeypatch.delenv(name, raising=False)
            if environment is not None:
                monkeypatch.setenv(name, environment)
        ours, theirs = by_us(command, words), by_click(command, words)
        if ours is None and theirs is not None:
            assert any(word == "" or word.endswith("=") for word in words)  # some versions of click take it for false
            return
        assert (ours is None) == (theirs is None)
        assert repr(sorted((ours or {}).items())) == repr(sorted((theirs or {}).items()))
        seen["read"] += ours is not None

    check()
    assert seen["read"] > 3  # some lines were right


@pytest.mark.parametrize("verb", DISTINCT)
def test_verbs_say_nothing_that_is_not_read(verb: str) -> None:
    for one in ALL[verb].parameters:
        assert set(one.settings) <= SETTINGS | SHOWN
        if isinstance(one, declare.Option):
            made = click.Option(one.flags, is_flag=one.settings.get("is_flag"))
            assert made.name == one.name
        assert one.settings.get("nargs", -1) == -1


@pytest.mark.parametrize(
    ("words", "path", "debug"),
    [
        ("images", "fastlayer images", False),
        ("-D images", "fastlayer images", True),
        ("--debug images -q", "fastlayer images", True),
        ("images -qD", "fastlayer images", True),
        ("container ls", "fastlayer container ls", False),
        ("container -D ls", "fastlayer container ls", True),
        ("volume snapshots ls data", "fastlayer volume snapshots ls", False),
        ("run -i --rm box ls -D --help", "fastlayer run", False),
    ],
)
def test_verbs_are_found(words: str, path: str, debug: bool) -> None:
    found = reading.read(commands.cli, words.split())
    assert found is not None
    assert (found.path, found.debug, "debug" in found.given) == (path, debug, False)


@pytest.mark.parametrize("words", ["", "-h", "-V", "-DV", "nope", "container", "container nope", "images -h", "run -D"])
def test_what_click_looks_at(words: str) -> None:
    assert reading.read(commands.cli, words.split()) is None


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("-itd=true", "-itd"),
        ("-itd=false", "-it"),
        ("-d=false", ""),
        ("-itd=maybe", "-itd=maybe"),
        ("-ed=true", "-ed=true"),  # the value of -e
        ("--rm=T --tty=0 box -d=false", "--rm box -d=false"),
        ("--pause=false", "--no-pause"),
    ],
)
def test_switches_have_values(words: str, rest: str) -> None:
    command = ALL["commit" if "pause" in words else "run"]
    flags = reading.flags_of(command.options)
    assert reading.plain_switches(command, words.split(), flags) == rest.split()


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("", "fastlayer"),
        ("-D", "fastlayer"),
        ("nope images", "fastlayer"),
        ("images --format", "fastlayer images"),
        ("-D volume -D snapshots ls x", "fastlayer volume snapshots ls"),
        ("run run", "fastlayer run"),
    ],
)
def test_which_verb_is_meant(words: str, path: str) -> None:
    assert reading.path_of(commands.cli, words.split()) == path
