"""``fastlayer logs``: what a container has written."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.container.logs import Line

_FRACTION = re.compile(r"^\d[\dT:-]*\.(\d{1,9})(?:Z|[+-]\d\d:?\d\d)?$", re.ASCII)
EPILOG = """\b
Examples:
  fastlayer logs web
  fastlayer logs -f --tail 20 -t web
  fastlayer logs --since 10m --until 2024-05-01T12:00:00Z web
"""


@declare.command("logs", epilog=EPILOG)
@declare.argument("name", metavar="CONTAINER")
@declare.option("-f", "--follow", is_flag=True, help="Go on until the container has ended.")
@declare.option("-n", "--tail", default="all", metavar="N", help="The last N lines (default: all).")
@declare.option("--since", default="", metavar="TIME", help="RFC 3339, seconds since 1970, or a duration ago (10m).")
@declare.option("--until", default="", metavar="TIME", help="Likewise.")
@declare.option("-t", "--timestamps", is_flag=True, help="Show when each line came.")
@declare.option("--details", is_flag=True, hidden=True)
@stores.store_options
def command(**given: Any) -> int:
    """Show what a container has written: its standard output and error, each to ours."""
    from fastlayer.container import containers, logs
    from fastlayer.errors import RunError

    since, until = _moment("--since", given["since"]), _moment("--until", given["until"])
    tail = _tail(given["tail"])
    with stores.open_store(given) as store:
        row = containers.find(store, given["name"])
        how = containers.config_of(store, row)["HostConfig"]["LogConfig"]["Type"]
        directory = containers.directory_of(store, row.id)
    if how == "none":
        raise RunError(f"container {row.name} keeps no log: it was made with --log-driver none")
    for line in logs.read(directory, follow=given["follow"], tail=tail, since=since, until=until):
        _show(line, timestamps=given["timestamps"], flush=given["follow"])
    return 0


def _show(line: Line, *, timestamps: bool, flush: bool) -> None:
    stream = sys.stdout.buffer if line.stream == "stdout" else sys.stderr.buffer
    text = f"{line.time} {line.text}" if timestamps else line.text
    stream.write(text.encode("utf-8", "surrogateescape"))
    if flush:
        stream.flush()


def _tail(text: str) -> int | None:
    """A number that is none means all, as in Docker."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _moment(option: str, text: str) -> str:
    """RFC 3339 with nanoseconds in UTC, so that texts compare as times do."""
    if not text:
        return ""
    from fastlayer.cli import filters
    from fastlayer.container.state import timestamp

    moment = filters.until(text, option)
    fraction = _FRACTION.search(text)  # to the nanosecond: the time of a line is that of no other
    ns = int(fraction[1].ljust(9, "0")) if fraction else moment.microsecond * 1000
    return timestamp(int(moment.replace(microsecond=0).timestamp()) * 10**9 + ns)
