"""``fastlayer diff``: what changed between two trees, or the layer that makes one of the other."""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.cli import images_as_operands as images
from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter

if TYPE_CHECKING:
    from fastlayer.layer.diff import Change, Changes
    from fastlayer.layer.stat import DiffStat, ModifiedFile
    from fastlayer.layer.writer import Layer

_FILES_PER_LOWER, _FILES_BESIDE = 5, 64  # open at once: a root, and a directory in each for both trees and their roots
SCHEMA = 1  # of every JSON object printed here; docs/cli.md lists the fields

EPILOG = """\b
Examples:
  fastlayer diff base/ new/                      the changes, one per line
  fastlayer diff --stat base/ new/               how much changed, and how much of it really
  fastlayer diff base/ new/ -o layer.tar.zst     the changes as an OCI layer
  fastlayer diff base.tar.gz+more.tar new/       a stack of layers against a directory
  fastlayer diff - new/ < base.tar.gz            a layer from stdin
  fastlayer diff base.idx new/ --exit-code       0 same, 1 differs, 2 error
  fastlayer diff --upper up --lower l1:l2 -o -   an overlay's upper directory, to stdout
  fastlayer diff debian:11 debian:12             two images of the store
  fastlayer diff work                            what was written to a writable layer, or by a container
  fastlayer diff --chunks db                     which parts of its big files changed
"""


@declare.command("diff", epilog=EPILOG)
@declare.argument("operands", nargs=-1, metavar="[A B]", type=options.PATH)
@declare.option(
    "--from",
    "from_",
    multiple=True,
    metavar="LAYER",
    type=options.WORD,
    help="A as a stack: repeat, lowest layer first.",
)
@declare.option(
    "--to", multiple=True, metavar="LAYER", type=options.WORD, help="B as a stack: repeat, lowest layer first."
)
@declare.option(
    "--upper", metavar="DIR", type=options.WORD, help="Read only this overlay upper directory (with --lower)."
)
@declare.option(
    "--lower",
    multiple=True,
    metavar="L1[:L2...]",
    type=options.WORD,
    help=r"The lower directories below --upper, top first; \: is a colon.",
)
@declare.option(
    "--userxattr/--no-userxattr",
    default=None,
    help="--upper's marks are user.overlay.* or trusted.overlay.* (default: trusted for root, else user).",
)
@declare.option("-o", "--output", metavar="FILE|-", type=options.WORD, help="Write the layer; print its descriptor.")
@declare.option(
    "--compression",
    type=declare.Choice(["none", "gzip", "zstd", "zstd:chunked", "estargz"]),
    help="Of -o; default by its extension.",
)
@declare.option("--level", type=declare.IntRange(0, 22), help="Compression level.")
@declare.option(
    "--compare",
    type=declare.Choice(["auto", "metadata", "content"]),
    default="auto",
    show_default=True,
    help="auto: prove equality cheaply, read where unsure; metadata: trust size and times; content: always read.",
)
@options.xattrs_option
@declare.option(
    "--source-date-epoch", type=declare.IntRange(min=0), metavar="SECONDS", help="Clamp later mtimes to this."
)
@declare.option("--stat", "stat_", is_flag=True, help="Totals per kind, and the bytes of files that really changed.")
@declare.option("--chunks", is_flag=True, help="Where in the modified files: offset and length of what is new.")
@declare.option("--name-only", is_flag=True, help="Print only the names.")
@declare.option("-z", "--null", is_flag=True, help="End names with NUL and quote nothing.")
@declare.option(
    "--format", "format_", type=declare.Choice(["text", "json"]), default="text", help="json: an object per line."
)
@declare.option("--exit-code", is_flag=True, help="Exit 1 if there are changes, 2 on errors.")
@options.limits_options
@options.jobs_option
@options.progress_option
@stores.platform_option()
@stores.store_options
def command(**given: Any) -> int:
    """Show what changed from A to B, or write it as an OCI layer.

    A and B are directories, saved tree indexes (`fastlayer index`), layer tars (plain, gzip, zstd, xz, bzip2;
    join several with `+`, lowest first, to make a stack; `-` is stdin), or images of the store
    (`./NAME` is always a file). One operand is the name of a writable layer: its changes against its
    image. A, C and D: added, changed, deleted.
    """
    _check(given)
    a, b = _operands(given)
    keywords = _keywords(given)
    with ExitStack() as stack:
        a, b = (images.of_operand(stack, given, value) for value in (a, b))
        return _diff(given, a, b, keywords)


def _diff(given: dict[str, Any], a: Any, b: Any, keywords: dict[str, Any]) -> int:
    with Reporter(given["progress"], quiet=given["quiet"]) as report:
        keywords["progress"] = report.callback
        reads = given["stat_"] or given["chunks"]
        once = given["output"] is not None and not (reads or given["exit_code"])
        if once and not isinstance(b, images.WritableLayer):
            layer = _write_at_once(given, a, b, keywords)
            differs = None
        else:
            changes = _compute(given, a, b, keywords)
            differs = bool(changes)
            layer = None
            if given["output"] is not None:
                layer = changes.write(_target(given), **_layer_keywords(given, report.callback))
            statistics = changes.stat() if given["stat_"] else None
            modified = list(changes.modified()) if given["chunks"] else None
    if layer is not None:
        _print_layer(layer, given)
        output.warn(layer.warnings, given["quiet"])
    if given["stat_"]:
        assert statistics is not None
        _print_stat(statistics, given["format_"], file=_side(given))
    if given["chunks"]:
        assert modified is not None
        _print_modified(modified, given["format_"], file=_side(given))
    if layer is None:
        if not reads:
            _print_changes(changes, given)
        output.warn(changes.warnings, given["quiet"])
    return 1 if given["exit_code"] and differs else 0


def _check(given: dict[str, Any]) -> None:
    """Options that would have no effect together are wrong usage."""
    if given["output"] is None:
        for name in ("compression", "level", "source_date_epoch"):
            if given[name] is not None:
                raise declare.LineError(f"--{name.replace('_', '-')} is about the layer: give -o, too")
    listing = [word for word, name in (("--name-only", "name_only"), ("-z", "null")) if given[name]]
    for word in listing:
        for other, is_given in (
            ("-o", given["output"] is not None),
            ("--stat", given["stat_"]),
            ("--chunks", given["chunks"]),
            ("--format json", given["format_"] == "json"),
        ):
            if is_given:
                raise declare.LineError(
                    f"{word} is about the list of changes, {other} prints something else: leave one out"
                )


def _operands(given: dict[str, Any]) -> tuple[Any, Any]:
    """A and B from the positional operands, --from and --to; (None, None) with --upper."""
    if (given["upper"] is None) != (not given["lower"]):
        raise declare.LineError("--upper and --lower go together")
    if given["userxattr"] is not None and given["upper"] is None:
        raise declare.LineError("--userxattr is about the marks of --upper: give --upper, too")
    names = list(given["operands"])
    wanted = (not given["from_"]) + (not given["to"])
    if given["upper"] is not None:
        if names or given["from_"] or given["to"]:
            raise declare.LineError("--upper compares with --lower: give no other operands")
        return None, None
    if len(names) == 1 and wanted == 2:
        return None, images.writable_layer(given, names[0])
    if len(names) != wanted:
        raise declare.LineError(f"{wanted} operands are needed, not {len(names)}")
    from fastlayer.layer.operands import parse

    a: Any = list(given["from_"]) or parse(names.pop(0))
    b: Any = list(given["to"]) or parse(names.pop(0))
    a, b = _with_stdin(a), _with_stdin(b)
    if _reads_stdin(a) and _reads_stdin(b):
        raise declare.LineError("stdin (`-`) can be only one of the operands")
    return a, b


def _with_stdin(value: Any) -> Any:
    """`-` is descriptor 0, alone or in a stack."""
    if isinstance(value, list):
        if sum(os.fsencode(name) == b"-" for name in value) > 1:
            raise declare.LineError("stdin (`-`) can be only one of the operands")
        return [0 if os.fsencode(name) == b"-" else name for name in value]
    return 0 if os.fsencode(value) == b"-" else value


def _reads_stdin(value: Any) -> bool:
    return value == 0 or (isinstance(value, list) and 0 in value)


def _keywords(given: dict[str, Any]) -> dict[str, Any]:
    keywords = {"compare": given["compare"], "xattrs": given["xattrs"], "jobs": given["jobs"]}
    limits = {name: given[name] for name in given if name.startswith("max_") and given[name] is not None}
    if given["upper"] is None:
        return {**keywords, "limits": options.limits(given)}
    if limits:
        raise declare.LineError("limits are for layers that are read: --upper reads none")
    return keywords


def _layer_keywords(given: dict[str, Any], progress: Any) -> dict[str, Any]:
    return {
        "compression": given["compression"],
        "level": given["level"],
        "source_date_epoch": options.source_date_epoch(given["source_date_epoch"]),
        "jobs": given["jobs"],
        "progress": progress,
    }


def _target(given: dict[str, Any]) -> Any:
    if given["output"] == "-":
        if sys.stdout.isatty():
            raise declare.LineError("a layer is not for a terminal: redirect stdout or name a file")
        return sys.stdout.buffer
    return given["output"]


def _lowers(given: dict[str, Any]) -> list[str]:
    from fastlayer.layer.overlay import split_lowers

    names = [name for text in given["lower"] for name in split_lowers(text)]
    _allow_open_files(_FILES_PER_LOWER * len(names))
    return names


def _allow_open_files(count: int) -> None:
    """Many lower directories exceed the usual limit, which the process may raise for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < count + _FILES_BESIDE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _compute(given: dict[str, Any], a: Any, b: Any, keywords: dict[str, Any]) -> Changes:
    import fastlayer

    changes: Changes
    if isinstance(b, images.WritableLayer):
        return b.changes()
    if given["upper"] is not None:
        changes = fastlayer.diff_upper(given["upper"], _lowers(given), userxattr=given["userxattr"], **keywords)
    else:
        changes = fastlayer.diff(a, b, **keywords)
    return changes


def _write_at_once(given: dict[str, Any], a: Any, b: Any, keywords: dict[str, Any]) -> Layer:
    import fastlayer

    keywords = {**keywords, **_layer_keywords(given, keywords["progress"])}
    layer: Layer
    if given["upper"] is not None:
        keywords["userxattr"] = given["userxattr"]
        layer = fastlayer.diff_upper(given["upper"], _lowers(given), _target(given), **keywords)
    else:
        layer = fastlayer.diff(a, b, _target(given), **keywords)
    return layer


def _side(given: dict[str, Any]) -> Any:
    """Where words go: stdout, unless the layer itself goes there."""
    return sys.stderr if given["output"] == "-" else sys.stdout


def _print_changes(changes: Changes, given: dict[str, Any]) -> None:
    end = b"\0" if given["null"] else b"\n"
    if given["format_"] == "json":
        lines: Iterator[bytes] = (output.json_line(_as_json(change)) for change in changes)
        output.write_lines(lines)
        return
    show = (lambda name: name) if given["null"] else output.quote
    letters = {letter: b"" if given["name_only"] else letter.encode() + b" " for letter in "ACD"}
    output.write_lines((letters[change.kind] + show(b"/" + change.path) for change in changes), end)


def _text(path: bytes) -> str:
    """The same in every locale."""
    return path.decode("utf-8", "surrogateescape")


def _as_json(change: Change) -> dict[str, Any]:
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": str(change.kind),
        "path": _text(b"/" + change.path),
        "type": change.type,
        "what": list(change.what),
    }
    if change.kind == "D":
        return value
    value |= {
        "mode": f"{stat.S_IMODE(change.mode):04o}",
        "uid": change.uid,
        "gid": change.gid,
        "size": change.size,
        "mtime_ns": change.mtime_ns,
    }
    if change.link:
        value["link"] = _text(change.link)
    if change.hardlink is not None:
        value["hardlink"] = _text(b"/" + change.hardlink)
    return value


def _print_stat(statistics: DiffStat, format_: str, file: Any) -> None:
    if format_ == "json":
        print(output.json_line({"schema": SCHEMA, **statistics.to_dict()}).decode(), file=file)
        return
    words = {"A": "added", "C": "changed", "D": "deleted"}
    rows = [("KIND", "ENTRIES", "FILES", "BYTES")]
    for letter, word in words.items():
        kind = statistics.kinds[letter]
        rows.append((word, str(kind.entries), str(kind.files), output.human(kind.bytes)))
    output.table(rows[0], rows[1:], frozenset({1, 2, 3}), file)
    if statistics.modified_files:
        print(
            _really_changed(statistics),
            file=file,
        )


def _really_changed(statistics: DiffStat) -> str:
    of = f"of {output.human(statistics.modified_bytes)} in {statistics.modified_files} modified files"
    if statistics.changed_bytes is None:
        return f"really changed: unknown {of} (an index has no contents)"
    return f"really changed: {output.human(statistics.changed_bytes)} {of} (content-defined chunks)"


def _print_modified(files: list[ModifiedFile], format_: str, file: Any) -> None:
    for found in files:
        if format_ == "json":
            print(output.json_line({"schema": SCHEMA, **found.to_dict()}).decode(), file=file)
            continue
        of = output.human(found.size)
        how = "unknown" if found.changed is None else f"{output.human(found.changed)} in {_ranges(found)}"
        print(f"{output.quote(b'/' + found.path).decode()}: {how} of {of}", file=file)
        for offset, length in found.ranges or ():
            print(f"{offset:>16} {length:>12}", file=file)


def _ranges(found: ModifiedFile) -> str:
    count = len(found.ranges or ())
    return f"{count} range{'' if count == 1 else 's'}"


def _print_layer(layer: Layer, given: dict[str, Any]) -> None:
    file = _side(given)
    if given["format_"] == "json":
        print(output.json_line({"schema": SCHEMA, **layer.to_dict()}).decode(), file=file)
        return
    output.pairs(
        [
            ("media type", layer.media_type),
            ("digest", layer.digest),
            ("size", f"{layer.size} ({output.human(layer.size)})"),
            ("diff_id", layer.diff_id),
            ("entries", str(layer.entries)),
            ("tar size", f"{layer.tar_size} ({output.human(layer.tar_size)})"),
            ("file bytes", f"{layer.payload} ({output.human(layer.payload)})"),
            *(("annotation", f"{key}={value}") for key, value in layer.annotations),
        ],
        file,
    )
