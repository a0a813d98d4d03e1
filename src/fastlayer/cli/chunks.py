"""``fastlayer chunks``: the content-defined chunks of a file."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.cli import options, output
from fastlayer.cli.line import declare


@declare.command("chunks")
@declare.argument("file", type=options.PATH)
@declare.option("--min", "min_size", type=declare.IntRange(min=64), default=16384, show_default=True, metavar="BYTES")
@declare.option("--avg", "avg_size", type=declare.IntRange(min=256), default=65536, show_default=True, metavar="BYTES")
@declare.option(
    "--max", "max_size", type=declare.IntRange(min=1024), default=262144, show_default=True, metavar="BYTES"
)
@declare.option("--json", "as_json", is_flag=True, help="An object per line.")
def command(**given: Any) -> int:
    """List the chunks of FILE: offset, length, blake3. Equal data gives equal chunks wherever it stands."""
    import fastlayer

    found = fastlayer.chunks(  # bytes would be data
        os.fsdecode(given["file"]), min_size=given["min_size"], avg_size=given["avg_size"], max_size=given["max_size"]
    )
    rows = ((int(row["offset"]), int(row["length"]), row["blake3"].tobytes().hex()) for row in found)
    if given["as_json"]:
        output.write_lines(
            output.json_line({"schema": 1, "offset": offset, "length": length, "blake3": key})
            for offset, length, key in rows
        )
    else:
        output.write_lines(f"{offset:>12} {length:>8} {key}".encode() for offset, length, key in rows)
    return 0
