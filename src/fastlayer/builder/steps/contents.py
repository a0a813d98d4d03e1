"""What was copied, remembered in detail, so that the first difference can be named when the cache has nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.errors import FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.context.merkle import Nodes
    from fastlayer.builder.copying.gather import Gathered
    from fastlayer.builder.workshop import Workshop
    from fastlayer.metadata.database import Database

Details = list[list[str]]  # path in its tree, digest


def details(gathered: Gathered) -> Details:
    """Of each thing that is copied from a scanned tree its digest."""
    found: Details = []
    for tree, path in gathered.picked():
        found.append([path.decode("utf-8", "surrogateescape"), tree.digest(path).hex()])
    return found


def remember(shop: Workshop, gathered: Gathered) -> None:
    """Writes the nodes of what is copied, those that are not there yet."""
    from fastlayer.builder.context.merkle import write_nodes

    for tree, path in gathered.picked():
        write_nodes(shop.store.database, tree, [path])  # type: ignore[arg-type]


def difference(database: Database, old: Details, new: Details, others: Nodes = lambda _: None) -> str:
    """The first one, in words. ``others``: nodes that are not in the database."""
    from fastlayer.builder.context.merkle import either, first_difference, nodes_of

    before: dict[str, str] = dict(map(tuple, old))  # type: ignore[arg-type]
    for path, digest in new:
        if path not in before:
            return f"{path or '/'} is copied now"
        if before[path] == digest:
            continue
        try:
            with database.read() as db:
                nodes = either(nodes_of(db), others)
                found = first_difference(bytes.fromhex(before[path]), bytes.fromhex(digest), nodes)
        except FastlayerError:
            found = None
        if found is None:
            return f"the content of {path or '/'} has changed"
        name = found.path.decode("utf-8", "backslashreplace")
        whole = f"{path}/{name}" if path and name else path or name
        return {"added": f"{whole} is new", "removed": f"{whole} is gone"}.get(
            found.what, f"the {found.what} of {whole or '/'} has changed"
        )
    return "other files are copied"
