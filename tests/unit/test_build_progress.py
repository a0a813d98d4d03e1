"""How builds are shown."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from fastlayer.builder.progress import Journal, Silent
from fastlayer.cli.build_progress import Lines, Objects, observer
from fastlayer.cli.build_text import excerpt, line_of, tail_lines
from fastlayer.cli.build_tree import Tree


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines on stderr, times left out."""
    return re.sub(r"\d+\.\d+", "T", capsys.readouterr().err).splitlines()


def test_lines_of_one_vertex(capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(Lines()).vertex("[1/2] RUN make") as work:
        work.output(1, b"one\ntw")
        work.output(1, b"o\nthree")
    assert shown(capsys) == ["#1 [1/2] RUN make", "#1 T one", "#1 T two", "#1 T three", "#1 DONE Ts"]


def test_cached_and_failed(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(Lines())
    with journal.vertex("a") as work:
        work.cached()
    with pytest.raises(ValueError), journal.vertex("b"):
        raise ValueError("why")
    with journal.vertex("c") as work:
        work.missed("the content of x has changed")
        work.missed("")
    assert shown(capsys) == [
        *["#1 a", "#1 CACHED", "", "#2 b", "#2 ERROR: why", ""],
        *["#3 c", "#3 not cached: the content of x has changed", "#3 DONE Ts"],
    ]


def test_several_at_once_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """What begins beside another is named when there is something to say of it."""
    journal = Journal(Lines())
    with journal.vertex("one") as one:
        with journal.vertex("two") as two:
            one.output(1, b"1\n")
            two.output(1, b"2\n")
        one.output(1, b"3\n")
    assert shown(capsys) == ["#1 one", "#1 T 1", "", "#2 two", "#2 T 2", "#2 DONE Ts", "", "#1 T 3", "#1 DONE Ts"]


def test_a_line_without_end_is_shown_in_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(Lines()).vertex("a") as work:
        work.output(1, b"x" * 10_000)
        assert len(shown(capsys)) == 2
        work.output(1, b"end\n")
    assert shown(capsys)[0] == "#1 T end"


@pytest.mark.parametrize("more", [b"", b"tab\there\n", b"\x1b[31mred\x1b[0m\n"])
def test_lines_that_come_together(capsys: pytest.CaptureFixture[str], more: bytes) -> None:
    """Whether all of them can be printed as they are or not."""
    with Journal(Lines()).vertex("a") as work:
        work.output(1, b"one\ntwo\n" + more + b"\n three \nx")
    expected = ["one", "two", *(["tab     here", "red"][b"red" in more :][:1] if more else []), "", " three", "x"]
    assert shown(capsys) == ["#1 a", *(f"#1 T {line}".rstrip() for line in expected), "#1 DONE Ts"]


def test_many_lines_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    with Journal(Lines()).vertex("a") as work:
        work.output(1, b"line\n" * 10_000)
    assert "".join(written).count(" line\n") == 10_000
    assert len(written) < 20


@pytest.mark.parametrize(
    "data,line",
    [
        (b"plain", "plain"),
        (b"a\tb", "a       b"),
        (b"10%\r50%\r100%", "100%"),
        (b"windows\r", "windows"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x07bell\x00", "\\x07bell\\x00"),
        (b"\xff", "\ufffd"),
    ],
)
def test_output_cannot_steer_a_terminal(data: bytes, line: str) -> None:
    assert line_of(data) == line


def test_tails() -> None:
    assert tail_lines(b"1\n2\n\n3\n", 2) == ["2", "3"]
    assert tail_lines(b"", 5) == [] and tail_lines(b"1\n2", 0) == []


def test_excerpts() -> None:
    data = b"FROM a\nRUN b\nRUN c\n\tRUN d\nRUN e\nRUN f"
    assert excerpt(data, 4) == [
        *[
            "    2 |     RUN b",
            "    3 |     RUN c",
            "    4 | >>>         RUN d",
            "    5 |     RUN e",
            "    6 |     RUN f",
        ]
    ]
    assert excerpt(data, 1)[0] == "    1 | >>> FROM a"


def test_objects(capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(Objects()).vertex("name", 7) as work:
        work.output(2, b"\xffx\n")
        work.note("n")
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [value["event"] for value in found] == ["begin", "output", "note", "end"]
    assert found[0] == {"schema": 1, "event": "begin", "vertex": 1, "name": "name", "line": 7}
    assert found[1]["stream"] == 2 and found[1]["data"] == "\ufffdx\n" and found[3]["error"] is None


def test_the_tree(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    journal = Journal(Tree(forced=True))
    with journal.vertex("[1/2] FROM a") as work:
        work.cached()
    with pytest.raises(ValueError), journal.vertex("[2/2] RUN b") as work:
        work.output(1, b"last words\n")
        raise ValueError("why")
    text = capsys.readouterr().err
    assert "= [1/2] FROM a  CACHED" in text and "last words" in text and "x [2/2] RUN b  ERROR" in text


def test_the_observer_of_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(observer("plain", quiet=True), Silent) and isinstance(observer("quiet", quiet=False), Silent)
    assert isinstance(observer("rawjson", quiet=False), Objects) and isinstance(observer("tty", quiet=False), Tree)
    assert isinstance(observer("auto", quiet=False), Lines)  # stderr is no terminal here
