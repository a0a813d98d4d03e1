"""``fastlayer history``: the layered making of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, rows, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.image.history import Step

COLUMNS = (
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
)
_WIDTH = 45  # characters of CREATED BY in a table
EPILOG = """\b
Examples:
  fastlayer history debian
  fastlayer history --no-trunc --format json debian
"""


@declare.command("history", epilog=EPILOG)
@declare.argument("image")
@declare.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@declare.option("--no-trunc", is_flag=True, help="Whole ids and instructions.")
@declare.option("-H", "--human/--no-human", default=True, help="Sizes and times for people (default).")
@stores.platform_option()
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """Show the steps that made IMAGE, the newest first, each with the size of its own layer.

    A step that changed only metadata has no layer and 0 B.
    """
    from fastlayer.image.history import history
    from fastlayer.image.images import Images

    with stores.open_store(given) as store:
        images = Images(store)
        steps = history(images, images.find(given["image"], stores.platform(given)))
    if given["quiet"]:
        output.write_lines(stores.short(step.id, full=given["no_trunc"]).encode() for step in steps)
        return 0
    found = [_row(step, given) for step in steps]
    rows.show(given["format_"], COLUMNS, found, frozenset({"Size"}))
    return 0


def _row(step: Step, given: dict[str, Any]) -> rows.Row:
    human, table = given["human"], rows.is_table(given["format_"])
    return {
        "ID": stores.short(step.id, full=given["no_trunc"] or given["format_"] == "json"),
        "CreatedSince": stores.ago(step.created) if human else step.created,
        "CreatedAt": step.created,
        "CreatedBy": _shortened(step.created_by, full=given["no_trunc"]) if table else step.created_by,
        "Size": output.human(step.size) if human else step.size,
        "Comment": step.comment,
        "Layer": str(step.layer or ""),
    }


def _shortened(text: str, *, full: bool) -> str:
    """On one line of a table; elsewhere it is what the image says."""
    text = " ".join(text.split())
    return text if full or len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
