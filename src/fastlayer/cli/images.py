"""``fastlayer images``: the images of the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, output, rows, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.image.images import Image
    from fastlayer.store.store import Store

COLUMNS: rows.Columns = (
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
)
EPILOG = """\b
Examples:
  fastlayer images
  fastlayer images debian                 one repository
  fastlayer images 'me/app-*:1.?'         a pattern; no wildcard stands for a slash
  fastlayer images --filter label=stage=test --filter before=debian:12
  fastlayer images --format json
  fastlayer images --format '{{.ID}} {{.Repository}}:{{.Tag}}'
"""


@declare.command("images", epilog=EPILOG)
@declare.argument("repository", required=False)
@declare.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@declare.option("--no-trunc", is_flag=True, help="Whole ids.")
@filters.filter_option("dangling", "reference", "label", "before", "since", short=True)
@declare.option("--digests", is_flag=True, help="Show what the names name, too.")
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """List images, or those of one REPOSITORY[:TAG], which may be a pattern (`*`, `?`, `[...]`)."""
    with stores.store_if_any(given) as store:
        found = [] if store is None else _found(store, given)
    if given["quiet"]:
        output.write_lines(dict.fromkeys(row["ID"].encode() for row in found))
        return 0
    columns = COLUMNS
    if given["digests"]:
        columns = (*COLUMNS[:2], ("DIGEST", "Digest"), *COLUMNS[2:])
    rows.show(given["format_"], columns, found, frozenset({"Size"}))
    return 0


def _found(store: Store, given: dict[str, Any]) -> list[rows.Row]:
    from fastlayer.image.images import Images

    images = Images(store)
    meant = filters.ImageFilter(images, given["filters"])
    patterns = [filters.path_match(value) for value in given["filters"].get("reference", ())]
    named = _named(given["repository"])
    return [
        row
        for image in images.all()
        if meant(image)
        for row in _rows(image, given["no_trunc"])
        if named(row) and (not patterns or any(_fits(row, pattern) for pattern in patterns))
    ]


def _rows(image: Image, full: bool) -> list[rows.Row]:
    return [
        {
            "Repository": repository,
            "Tag": tag,
            "Digest": str(image.target.digest),
            "ID": stores.short(image.id, full=full),
            "CreatedSince": stores.ago(image.created),
            "CreatedAt": image.created,
            "Size": output.human(image.size),
            "Platform": str(image.platform),
            "Layers": len(image.layers),
        }
        for repository, tag in map(stores.familiar, image.names or [str(image.id)])
    ]


def _named(wanted: str | None) -> Callable[[rows.Row], bool]:
    """Whether a row is of REPOSITORY[:TAG], which may be a pattern."""
    from fastlayer.oci.reference import parse_reference

    if not wanted:
        return lambda _row: True
    if set(wanted) & set("*?["):
        pattern = filters.path_match(wanted)
        return lambda row: _fits(row, pattern)
    reference = parse_reference(wanted)
    return lambda row: row["Repository"] == reference.familiar_name and reference.tag in ("", row["Tag"])


def _fits(row: rows.Row, pattern: Callable[[str], bool]) -> bool:
    """The name, with its tag or without."""
    return pattern(row["Repository"]) or pattern(f"{row['Repository']}:{row['Tag']}")
