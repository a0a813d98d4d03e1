"""``fastlayer context ls``: what a build context sends."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, rows
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.builder.context.context import Context
    from fastlayer.builder.context.listing import Line, Sums

FILES = (("MODE", "Mode"), ("SIZE", "Size"), ("PATH", "Path"))
DIRECTORIES = (("ENTRIES", "Entries"), ("SIZE", "Size"), ("PATH", "Path"))
SUMMARY = (("SENT", "Entries"), ("SIZE", "Size"), ("IGNORED", "Ignored"), ("SIZE IGNORED", "IgnoredSize"))
_NUMBERS = frozenset({"Size", "Entries", "Ignored", "IgnoredSize"})
EPILOG = """\b
Examples:
  fastlayer context ls                   every path that `fastlayer build .` could copy
  fastlayer context ls -d                directories with all that is in them, the largest first
  fastlayer context ls -s                totals, and what .dockerignore saves
  fastlayer context ls -f deploy/Dockerfile .      with deploy/Dockerfile.dockerignore if there is one
  tar c . | fastlayer context ls -
  fastlayer context ls --format '{{.Bytes}} {{.Path}}'
"""


@declare.command("ls", epilog=EPILOG)
@declare.argument("context", metavar="[CONTEXT]", default=".", type=options.WORD)
@declare.option(
    "-f", "--file", "file_", metavar="FILE", type=options.WORD, help="The Dockerfile whose ignore file counts."
)
@declare.option("-d", "--directories", is_flag=True, help="What is right below the context, with sums, largest first.")
@declare.option("-s", "--summary", is_flag=True, help="Totals only.")
@rows.format_option
def command(**given: Any) -> int:
    """Show what CONTEXT (a directory, archive, URL or repository; default: the current directory) sends to a build.

    What .dockerignore leaves out is not there; totals and what that saves are on stderr. Sizes are those of files.
    """
    from fastlayer.builder.context.context import open_context

    if given["directories"] and given["summary"]:
        raise declare.LineError("--directories and --summary are two lists: give one of them")
    with open_context(given["context"], dockerfile=given["file_"], optional=True) as context:
        _show(context, given)
    return 0


def _show(context: Context, given: dict[str, Any]) -> None:
    from fastlayer.builder.context import listing

    if given["summary"]:
        rows.show(given["format_"], SUMMARY, [_summary(context, listing.sums(context))], _NUMBERS)
        return
    found = listing.top_lines(context) if given["directories"] else listing.lines(context)
    columns = DIRECTORIES if given["directories"] else FILES
    rows.show(given["format_"], columns, map(_row, found), _NUMBERS)
    if rows.is_table(given["format_"]):
        sys.stdout.flush()
        print(_told(context, listing.sums(context)), file=sys.stderr)


def _row(line: Line) -> rows.Row:
    directory = stat.S_ISDIR(line.mode)
    return {
        "Path": os.fsdecode(line.path) + "/" * directory,
        "Type": line.type,
        "Mode": stat.filemode(line.mode),
        "Entries": line.entries,
        "Size": output.human(line.size) if line.type == "file" or line.entries > 1 else "",
        "Bytes": line.size,
    }


def _summary(context: Context, sums: Sums) -> rows.Row:
    unknown = sums.ignored_entries < 0
    return {
        "Context": context.name,
        "IgnoreFile": context.ignored_by,
        "Entries": sums.entries,
        "Size": output.human(sums.size),
        "Bytes": sums.size,
        "Ignored": "?" if unknown else sums.ignored_entries,
        "IgnoredSize": "?" if unknown else output.human(sums.ignored_size),
        "IgnoredBytes": None if unknown else sums.ignored_size,
        "Sockets": sums.sockets,
    }


def _told(context: Context, sums: Sums) -> str:
    text = f"{sums.entries} {'entry' if sums.entries == 1 else 'entries'}, {output.human(sums.size)}"
    if not context.ignored_by:
        return text
    name = output.display_name(context.ignored_by)
    if sums.ignored_entries < 0:
        return f"{text}; {name} leaves out what cannot all be read"
    return f"{text}; {name} leaves out {sums.ignored_entries}, {output.human(sums.ignored_size)}"
