"""Lists of things: ``--format table``, ``json``, or a template in Go's manner (``template.py``).

``table`` before a template makes a table of it. JSON has the text as it is; tables and templates show what could steer
a terminal instead of sending it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastlayer.cli import output
from fastlayer.cli.line import declare
from fastlayer.cli.plain import printable

SCHEMA = 1
Row = dict[str, Any]  # field -> value, in Docker's field names
Columns = Sequence[tuple[str, str]]  # (heading, field) of a table
_TABLE = "table "
_SHOWN = 200  # characters of a template that a message shows


class Fields(Row):
    """A JSON object with fields that a template can ask for though they are not shown."""

    def __init__(self, shown: Row, hidden: Row) -> None:
        super().__init__(shown)
        self._hidden = hidden

    def __missing__(self, key: str) -> Any:
        return self._hidden[key]


def format_option(function: Any) -> Any:
    """--format. What is no template is refused before any work."""
    return declare.option(
        "--format",
        "format_",
        default="table",
        metavar="table|json|TEMPLATE",
        callback=_checked,
        help="json: an object per line; or Go-style.",
    )(function)


def is_table(format_: str) -> bool:
    """Whether the list is for people: columns, in which long text may be shortened."""
    return format_ == "table" or format_.startswith(_TABLE)


def show(format_: str, columns: Columns, rows: Iterable[Row], right: frozenset[str] = frozenset()) -> None:
    """Prints rows. ``columns``: (heading, field) of the table; ``right``: fields to the right."""
    if format_ == "json":
        output.write_lines(output.json_line({"schema": SCHEMA, **row}) for row in rows)
    elif format_ == "table":
        _table(columns, [[printable(str(row[field])) for _, field in columns] for row in rows], right)
    elif format_.startswith(_TABLE):
        _table_of(format_.removeprefix(_TABLE).strip(), columns, rows)
    else:
        filled = _filled(format_, rows)
        output.write_lines(line.encode("utf-8", "surrogateescape") for line in filled)


def _checked(format_: str) -> str:
    """Nothing is the table, as in Docker. Raises ``declare.LineError`` for what is no template."""
    if format_ in ("", "table", "json"):
        return format_ or "table"
    from fastlayer.cli.template import TemplateSyntaxError, compile_template

    try:
        compile_template(format_.removeprefix(_TABLE))
    except TemplateSyntaxError as exc:
        raise declare.LineError(f"--format {printable(format_[:_SHOWN])}: {exc}") from None
    return format_


def _filled(text: str, rows: Iterable[Row]) -> Iterable[str]:
    from fastlayer.cli.template import compile_template

    with _refusing():
        yield from map(compile_template(text).render, rows)


@contextmanager
def _refusing() -> Iterator[None]:
    """What a list has not got is wrong usage."""
    from fastlayer.cli.template import TemplateValueError

    try:
        yield
    except TemplateValueError as exc:
        raise declare.LineError(f"--format: {exc}") from None


def _table(columns: Columns, cells: list[list[str]], right: frozenset[str]) -> None:
    aligned = frozenset(number for number, (_, field) in enumerate(columns) if field in right)
    output.table(tuple(heading for heading, _ in columns), [tuple(row) for row in cells], aligned)


def _table_of(text: str, columns: Columns, rows: Iterable[Row]) -> None:
    from fastlayer.cli.template import HEADINGS, compile_template

    headings = {field: heading for heading, field in columns}
    titles = compile_template(text, HEADINGS)
    lines = [line.split("\t") for line in _filled(text, rows)]
    with _refusing():
        heading = titles.render({field: headings.get(field, field.upper()) for field in titles.fields})
    cells = [heading.split("\t"), *lines]
    width = max(map(len, cells))  # an {{if}} makes more of some rows
    header, *padded = [(*row, *[""] * (width - len(row))) for row in cells]
    output.table(header, padded, frozenset())
