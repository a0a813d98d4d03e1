"""What was found, for people and for machines, as ``docker build --check`` says it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastlayer.builder.lint.check import Report
from fastlayer.builder.lint.rules import LintWarning

_RULER = "-" * 20


def lines(report: Report) -> Iterator[str]:
    """The report with the lines of the file that it is about."""
    source = report.data.decode("utf-8", "replace").split("\n")
    count = len(report.warnings)
    if not report.error or count:
        yield {0: "Check complete, no warnings found."}.get(
            count, f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!"
        )
    for warning in report.warnings:
        yield ""
        yield f"WARNING: {warning.rule.name}" + (f" - {warning.rule.url}" if warning.rule.url else "")
        yield _plain(warning.message)
        yield from _excerpt(report.name, source, warning.start, warning.end)
    if report.error:
        if count:
            yield ""
        yield f"ERROR: {_plain(report.error)}"
        yield from _excerpt(report.name, source, report.error_line, report.error_line)


def summary(warnings: Sequence[LintWarning]) -> Iterator[str]:
    """For the end of a build: a line for each. Nothing when there are none."""
    if warnings:
        number = len(warnings)
        yield f" {number} warning{'s' if number > 1 else ''} found (use --check to see more):"
        yield from (f" - {_plain(str(warning))}" for warning in warnings)


def to_dict(report: Report) -> dict[str, Any]:
    """The JSON of BuildKit's lint results: ``warnings``, ``sources`` and, where there is one, ``buildError``."""
    import base64

    value: dict[str, Any] = {
        "warnings": [_warning(warning) for warning in report.warnings],
        "sources": [
            {
                "filename": report.name,
                "language": "Dockerfile",
                "data": base64.b64encode(report.data).decode(),
            }
        ],
    }
    if report.error:
        line = max(report.error_line, 1)
        value["buildError"] = {"message": report.error, "location": _location(line, line)}
    return value


def _warning(warning: LintWarning) -> dict[str, Any]:
    value = {
        "ruleName": warning.rule.name,
        "description": warning.rule.description,
        "url": warning.rule.url,
        "detail": warning.message,
        "location": _location(warning.start, warning.end),
    }
    return {key: item for key, item in value.items() if item}


def _location(start: int, end: int) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": start}, "end": {"line": end}}]}


def _excerpt(name: str, source: Sequence[str], start: int, end: int) -> Iterator[str]:
    """The lines, marked, with some around them: two, or four for a single one, above and below."""
    if not 1 <= start <= len(source):
        return
    end = min(end, len(source))
    first, last = _around(start, end, len(source))
    yield f"{_plain(name)}:{start}"
    yield _RULER
    for number in range(first, last + 1):
        mark = ">>>" if start <= number <= end else "   "
        yield f" {number:3} | {mark} {_plain(source[number - 1])}".rstrip()
    yield _RULER


def _around(start: int, end: int, count: int) -> tuple[int, int]:
    room = 4 if start == end else 2
    first, last, taken = start, end, 0
    while taken < room:
        if first > 1:
            first -= 1
            taken += 1
        if last != count:
            last += 1
            taken += 1
        taken += 1
    return first, last


def _plain(text: str) -> str:
    """One line that does nothing to a terminal."""
    text = text.rstrip("\r")
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
