"""Lists of things: ``--format table``, ``json``, or a template in the subset of Go's that people use with Docker.

``{{.Field}}``, ``{{json .}}``, ``{{json .Field}}``, ``{{upper .Field}}``, ``{{lower .Field}}``; ``table`` before a
template makes a table of it. ``\\t`` and ``\\n`` are understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from fastlayer.cli import output

SCHEMA = 1
Row = dict[str, Any]  # field -> value, in Docker's field names
Columns = Sequence[tuple[str, str]]  # (heading, field) of a table

_ACTION = re.compile(r"\{\{\s*(?:(json|upper|lower)\s+)?\.([A-Za-z]*)\s*\}\}")
_ANY_ACTION = re.compile(r"\{\{.*?\}\}", re.DOTALL)


def format_option(function: Any) -> Any:
    """--format."""
    return click.option(
        "--format",
        "format_",
        default="table",
        metavar="table|json|TEMPLATE",
        help="json: an object per line; or Go-style.",
    )(function)


def show(
    format_: str, columns: Sequence[tuple[str, str]], rows: Iterable[Row], right: frozenset[str] = frozenset()
) -> None:
    """Prints rows. ``columns``: (heading, field) of the table; ``right``: fields to the right."""
    if format_ == "json":
        output.write_lines(output.json_line({"schema": SCHEMA, **row}) for row in rows)
    elif format_ == "table":
        _table(columns, [[str(row[field]) for _, field in columns] for row in rows], right)
    elif format_.startswith("table "):
        _table_of(format_.removeprefix("table ").strip(), columns, rows)
    else:
        fill = template(format_)
        output.write_lines(fill(row).encode("utf-8", "surrogateescape") for row in rows)


def template(text: str) -> Callable[[Row], str]:
    """Compiles a template. Raises ``click.UsageError`` for what is not understood."""
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    for action in _ANY_ACTION.findall(text):
        if not _ACTION.fullmatch(action):
            raise click.UsageError(f"--format: {action} is not understood: use {{{{.Field}}}} or {{{{json .Field}}}}")

    def fill(row: Row) -> str:
        return _ACTION.sub(lambda found: _value(row, found[1], found[2]), text)

    return fill


def _value(row: Row, function: str | None, field: str) -> str:
    if field and field not in row:
        raise click.UsageError(f"--format: there is no field {field}: use {', '.join(row)}")
    value = row[field] if field else row
    if function == "json":
        return output.json_line(value).decode()
    text = str(value)
    return text.upper() if function == "upper" else text.lower() if function == "lower" else text


def _table(columns: Columns, cells: list[list[str]], right: frozenset[str]) -> None:
    aligned = frozenset(number for number, (_, field) in enumerate(columns) if field in right)
    output.table(tuple(heading for heading, _ in columns), [tuple(row) for row in cells], aligned)


def _table_of(text: str, columns: Columns, rows: Iterable[Row]) -> None:
    headings = {field: heading for heading, field in columns}
    fill = template(text)
    fields = [found[2] for found in _ACTION.finditer(text)]
    lines = [tuple(fill(row).split("\t")) for row in rows]
    first = fill({field: headings.get(field, field.upper()) for field in fields}) if fields else text
    heading = tuple(first.split("\t"))
    output.table(heading, lines, frozenset())
