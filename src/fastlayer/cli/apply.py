"""``fastlayer apply``: layers onto a directory."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, output
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter

EPILOG = """\b
Examples:
  fastlayer apply base.tar.gz update.tar.zst root/   a stack, lowest first
  fastlayer apply --diff-id sha256:... layer.tar root/
  skopeo ... | fastlayer apply - root/               a layer from stdin
  fastlayer apply --format overlay layer.tar lower/  ready as an overlayfs lower directory

A target that does not exist is made beside its final name and renamed when everything is verified;
an existing target is changed in place, so a failed apply leaves it half-done (see docs/cli.md).
"""


class IdMap(declare.Kind):
    """CONTAINER:HOST:COUNT, as in /etc/subuid style tools."""

    name = "INSIDE:OUTSIDE:COUNT"

    def read(self, word: str) -> tuple[int, int, int]:
        parts = word.split(":")
        if len(parts) != 3 or not all(p.isascii() and p.isdigit() for p in parts):
            raise ValueError(f"{word!r} is not INSIDE:OUTSIDE:COUNT, for example 0:100000:65536")
        inside, outside, count = (int(p) for p in parts)
        return inside, outside, count


@declare.command("apply", epilog=EPILOG)
@declare.argument("layers", nargs=-1, required=True, metavar="LAYER... DIR", type=options.PATH)
@declare.option(
    "--format",
    "format_",
    type=declare.Choice(["dir", "overlay", "overlay-userxattr", "aufs"]),
    default="dir",
    show_default=True,
    help="dir: whiteouts are carried out; the others: converted to that storage format.",
)
@declare.option("--digest", multiple=True, metavar="sha256:HEX", help="What each layer file must hash to.")
@declare.option("--diff-id", multiple=True, metavar="sha256:HEX", help="What each uncompressed layer must hash to.")
@declare.option("--uid-map", multiple=True, type=IdMap(), help="Map owner ids (repeat).")
@declare.option("--gid-map", multiple=True, type=IdMap(), help="Map group ids (repeat).")
@declare.option("--ignore-chown", is_flag=True, help="Keep your own ids where changing owner is not allowed.")
@declare.option("--skip-devices", is_flag=True, help="Leave devices out where making them is not allowed.")
@declare.option(
    "--durability",
    type=declare.Choice(["none", "syncfs", "fsync"]),
    default="none",
    show_default=True,
    help="What must have reached the disk when this returns.",
)
@options.limits_options
@declare.option("--json", "as_json", is_flag=True, help="Print the statistics as JSON.")
@options.jobs_option
@options.progress_option
def command(**given: Any) -> int:
    """Put LAYERs onto DIR, lowest first; `-` is stdin. The codec is found from the content."""
    import fastlayer

    *names, target = given["layers"]
    if not names:
        raise declare.LineError("a layer and a directory are needed")
    if names.count(b"-") > 1:
        raise declare.LineError("stdin (`-`) can be only one of the layers")
    with Reporter(given["progress"], quiet=given["quiet"]) as report:
        stats = fastlayer.apply(
            [0 if name == b"-" else name for name in names],
            target,
            format=given["format_"],
            digest=_each(given, "digest", names),
            diff_id=_each(given, "diff_id", names),
            uid_map=given["uid_map"] or None,
            gid_map=given["gid_map"] or None,
            ignore_chown=given["ignore_chown"],
            skip_devices=given["skip_devices"],
            durability=given["durability"],
            jobs=given["jobs"],
            limits=options.limits(given),
            progress=report.callback,
        )
    output.warn(stats.warnings, given["quiet"])
    _print(stats, as_json=given["as_json"])
    return 0


def _each(given: dict[str, Any], name: str, layers: list[bytes]) -> list[str] | None:
    values = list(given[name])
    if values and len(values) != len(layers):
        raise declare.LineError(f"--{name.replace('_', '-')} is given {len(values)} times for {len(layers)} layers")
    return values or None


def _print(stats: Any, *, as_json: bool) -> None:
    if as_json:
        print(output.json_line({"schema": 1, **stats.to_dict()}).decode())
        return
    for layer in stats.layers:
        print(f"{layer.digest}  diff_id {layer.diff_id}  {layer.entries} entries  {output.human(layer.tar_size)}")
    print(f"applied {stats.entries} entries, {output.human(stats.payload)} of files, {stats.whiteouts} whiteouts")
