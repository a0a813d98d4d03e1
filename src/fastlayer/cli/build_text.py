"""The output of build steps as lines that can be printed."""

from __future__ import annotations

import re

from fastlayer.cli.plain import printable

_ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def line_of(data: bytes) -> str:
    """One line as it stands in the end on a terminal: after the last carriage return, without escape sequences."""
    shown = data.rstrip(b"\r").rsplit(b"\r", 1)[-1] if b"\r" in data else data
    shown = _ESCAPE.sub(b"", shown) if b"\x1b" in shown else shown
    return printable(shown.decode("utf-8", "replace").expandtabs())


def tail_lines(data: bytes, count: int) -> list[str]:
    """The last lines that are not empty."""
    lines = [line_of(line) for line in data.split(b"\n")[-2 * count - 1 :]]
    return [line for line in lines if line][-count:] if count else []


def excerpt(data: bytes, line: int) -> list[str]:
    """The lines of a Dockerfile around one, which is marked."""
    lines = data.decode("utf-8", "replace").split("\n")
    first, last = max(1, line - 2), min(len(lines), line + 2)
    marks = {number: ">>>" if number == line else "   " for number in range(first, last + 1)}
    return [
        f"{number:>5} | {mark} {printable(lines[number - 1].expandtabs())}".rstrip() for number, mark in marks.items()
    ]
