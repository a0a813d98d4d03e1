"""``fastlayer commit``: a writable layer becomes an image."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter

EPILOG = """\b
Examples:
  fastlayer commit work debian:patched -m 'security fixes'
  fastlayer commit --no-pause db db:tuned            of a container that runs on
  fastlayer commit work app:2 -c 'HEALTHCHECK --interval=30s CMD curl -f http://localhost/'
"""


@declare.command("commit", epilog=EPILOG, switches=True)
@declare.argument("name")
@declare.argument("image", required=False)
@declare.option("-m", "--message", default="", help="What was done; shown by `fastlayer history`.")
@declare.option("-a", "--author", default="", help="Who did it.")
@declare.option(
    "-c",
    "--change",
    multiple=True,
    metavar="INSTRUCTION",
    help="CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR.",
)
@declare.option(
    "-p", "--pause/--no-pause", default=None, help="A running container meanwhile (default: where that can be)."
)
@declare.option(
    "--source-date-epoch", type=declare.IntRange(min=0), metavar="SECONDS", help="Clamp later mtimes to this."
)
@declare.option("--json", "as_json", is_flag=True, help="Print the image as JSON.")
@options.jobs_option
@options.progress_option
@stores.store_options
def command(**given: Any) -> int:
    """Make IMAGE of the container or writable layer NAME: its image, and on it one layer of what was written.

    Only what was written is read. The layer stays as it is, mounted or not; a container that runs is paused while
    its layer is copied.
    """
    from fastlayer.container import writable
    from fastlayer.container.changes import apply_changes
    from fastlayer.container.commit import commit, run_config

    warnings: list[str] = []
    with stores.open_as_root(given) as store, Reporter(given["progress"], quiet=given["quiet"]) as report:
        layer = writable.find(store, given["name"])
        run = apply_changes(run_config(store, layer), given["change"]) if given["change"] else None
        image = commit(
            store,
            layer,
            given["image"],
            message=given["message"],
            author=given["author"],
            run=run,
            pause=given["pause"],
            source_date_epoch=options.source_date_epoch(given["source_date_epoch"]),
            jobs=given["jobs"],
            progress=report.callback,
            warnings=warnings,
        )
    output.warn(warnings, given["quiet"])
    top = image.layers[-1]
    if given["as_json"]:
        value = {"schema": 1, "id": image.id, "digest": image.target.digest, "names": image.names}
        print(output.json_line({**value, "diff_id": top.diff_id, "payload": top.payload}).decode())
    else:
        print(image.id)
    return 0
