"""``fastlayer images``: the images of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fastlayer.cli import output, plain, rows, stores

if TYPE_CHECKING:
    from fastlayer.image.images import Image

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
  fastlayer images --format json
  fastlayer images --format '{{.ID}} {{.Repository}}:{{.Tag}}'
"""


@click.command("images", epilog=EPILOG)
@click.argument("repository", required=False)
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("--digests", is_flag=True, help="Show what the names name, too.")
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """List images, or those of one REPOSITORY[:TAG], which may be a pattern (`*`, `?`, `[...]`)."""
    from fastlayer.image.images import Images

    with stores.store_if_any(given) as store:
        images = Images(store).all() if store is not None else []
        found = [plain.row(row, given["format_"]) for image in images for row in _rows(image, given["no_trunc"])]
    if given["repository"]:
        found = [row for row in found if _matches(row, given["repository"])]
    if given["quiet"]:
        output.write_lines(dict.fromkeys(row["ID"].encode() for row in found))
        return 0
    columns = COLUMNS
    if given["digests"]:
        columns = (*COLUMNS[:2], ("DIGEST", "Digest"), *COLUMNS[2:])
    rows.show(given["format_"], columns, found, frozenset({"Size"}))
    return 0


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


def _matches(row: rows.Row, wanted: str) -> bool:
    from fastlayer.oci.reference import parse_reference

    if set(wanted) & set("*?["):
        return any(_fits(name, wanted) for name in (row["Repository"], f"{row['Repository']}:{row['Tag']}"))
    reference = parse_reference(wanted)
    return row["Repository"] == reference.familiar_name and reference.tag in ("", row["Tag"])


def _fits(name: str, pattern: str) -> bool:
    """As in Docker, no wildcard stands for a slash."""
    from fnmatch import fnmatchcase

    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
