"""``content/index.json``: other tools see in the image layout what the database says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.content.store import IndexEntry, index_of
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.metadata.leases import Lease
    from fastlayer.store.store import Store


def write_index(store: Store, db: sqlite3.Connection, lease: Lease) -> None:
    """Within a write transaction, so that the latest state is the one that stays.

    Images whose layers are not all there as blobs are left out: other tools could not read them.
    """
    store.content.write_index(_entries(db), lease.id)


def index_bytes(db: sqlite3.Connection) -> bytes:
    """What ``write_index`` writes."""
    return index_of(_entries(db)).to_bytes()


def _entries(db: sqlite3.Connection) -> list[IndexEntry]:
    """The images that are there as blobs, all of them."""
    lazy = {
        str(row[0])
        for row in db.execute(  # downwards: blob_refs is found by its parents only
            "WITH RECURSIVE below(top, digest) AS (SELECT digest, digest FROM images"
            " UNION SELECT top, child FROM below CROSS JOIN blob_refs ON parent = below.digest)"
            " SELECT DISTINCT top FROM below CROSS JOIN layers ON layers.digest = below.digest WHERE present = 0"
        )
    }
    rows = db.execute("SELECT name, digest, media_type, size FROM images ORDER BY name").fetchall()
    return [
        IndexEntry(
            row["name"] if row["name"] != row["digest"] else "",
            Descriptor(row["media_type"], Digest(row["digest"]), row["size"]),
        )
        for row in rows
        if row["digest"] not in lazy
    ]
