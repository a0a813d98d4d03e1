"""``fastlayer copy-up``: one path from a lower directory to an upper one, or files of an image to a writable layer."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.clone import print_stats
from fastlayer.cli.line import declare

EPILOG = """\b
Examples:
  fastlayer copy-up lower/ upper/ etc/passwd
  fastlayer copy-up work var/lib/db/data usr/bin/tool      into the writable layer `work`
"""


@declare.command("copy-up", epilog=EPILOG)
@declare.argument("words", nargs=-1, required=True, metavar="LOWER UPPER PATH | NAME PATH...", type=options.PATH)
@declare.option("--workdir", type=options.PATH, help="On the mount of UPPER (default: beside it).")
@declare.option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
@declare.option("-q", "--quiet", is_flag=True, help="No warnings on stderr.")
@stores.store_options
def command(**given: Any) -> int:
    """Copy PATH of LOWER to UPPER as overlayfs does on the first write: through a work directory and a rename.

    Missing parents are made with the attributes they have in LOWER; what UPPER already has stays.

    With the NAME of a writable layer, PATHs of its image are copied up ahead of time; it must not be mounted.
    """
    words = list(given["words"])
    if not os.path.isdir(words[0]):
        return _into_layer(given, os.fsdecode(words[0]), words[1:])
    if len(words) != 3:
        raise declare.LineError("a lower directory, an upper directory and a path are needed")
    import fastlayer

    lower, upper, path = words
    stats = fastlayer.copy_up(lower, upper, path, workdir=given["workdir"])
    print_stats(stats, as_json=given["as_json"], quiet=given["quiet"])
    return 0


def _into_layer(given: dict[str, Any], name: str, paths: list[bytes]) -> int:
    from fastlayer.container import writable

    if not paths:
        raise declare.LineError("the name of a writable layer and at least one path are needed")
    if given["workdir"] is not None:
        raise declare.LineError("--workdir is for an upper directory: a writable layer has its own")
    with stores.open_as_root(given) as store:
        layer = writable.find(store, name)
        shared = writable.copy_up(store, layer, [path.strip(b"/") for path in paths])
        usage = writable.usage(store, layer)
    if given["as_json"]:
        value = {"schema": 1, "name": name, "paths": len(paths), "shared_bytes": shared, "bytes": usage.bytes}
        print(output.json_line(value).decode())
    else:
        print(
            f"{len(paths)} paths: {output.human(shared)} shared with the image, {output.human(usage.bytes)} in {name}"
        )
    return 0
