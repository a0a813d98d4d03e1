"""Which drivers hold the snapshot of a layer, and the layer's tar from one of them.

A layer that was committed under one driver may have no blob: its only form is that driver's snapshot. The encoder
gives the same bytes for it at any time, so another driver reads the tar as it is made; nothing is written between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.errors import CorruptStoreError, DigestMismatchError, DriverError, FastlayerError, NotFoundError
from fastlayer.image.pipe import piped
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store


class Nowhere:
    """A file that takes everything and keeps nothing: for digests without blobs."""

    name = "nowhere"

    def write(self, data: Any) -> int:
        return len(data)


def holders(store: Store, name: str) -> list[str]:
    """The drivers that have the committed snapshot ``name``, in the order in which they got it.

    The first is where a layer without a blob was made; the others were given its tar.
    """
    with store.database.read() as db:
        rows = db.execute(
            "SELECT driver FROM snapshots WHERE key = ? AND state = 'ready' AND kind = 'committed' ORDER BY number",
            (name,),
        )
        return [str(row[0]) for row in rows]


def holding(store: Store, digest: Digest, name: str) -> list[Snapshotter]:
    """The snapshots among which ``name`` is, the one of the layer ``digest``; at least one, first the oldest.

    Raises ``NotFoundError`` where no driver has it, or it was pulled in part, so that none can give it; ``DriverError``
    when none of those that have it can be opened.
    """
    from fastlayer.image.contents import is_partial

    if is_partial(store, name, Digest(digest)):
        raise NotFoundError(
            f"{digest}: only a part of this layer was fetched, its blob is not here: `fastlayer pull --whole` its image"
        )
    found: list[Snapshotter] = []
    refused: list[str] = []
    for driver in holders(store, name):
        try:
            found.append(store.snapshotter_of(driver))
        except FastlayerError as exc:
            refused.append(str(exc))
    if refused and not found:
        raise DriverError(f"{digest}: this layer is only in a place that cannot be used now: {'; '.join(refused)}")
    if not found:
        raise NotFoundError(f"{digest}: the layer is not in the store: load the image again")
    return found


def first_that_gives(found: list[Snapshotter], diff_id: Digest, name: str) -> Snapshotter:
    """The oldest whose tar is the layer's. One alone is not tried: who reads the tar finds out."""
    for snapshotter in found[:-1]:
        try:
            with snapshotter.changes(name) as changes:
                if changes.write(Nowhere(), compression="none").diff_id == diff_id:
                    return snapshotter
        except FastlayerError:
            continue  # gone, or damaged: the next one may have it
    return found[-1]


@contextmanager
def tar_of(store: Store, digest: Digest, diff_id: Digest, name: str) -> Iterator[int]:
    """A descriptor to read the layer's tar from, while a thread makes it of the snapshot ``name``.

    Where several drivers have it, of one that gives it. Raises what ``holding`` raises, and ``CorruptStoreError`` when
    the block found that it is not ``diff_id``.
    """
    snapshotter = first_that_gives(holding(store, digest, name), diff_id, name)
    with snapshotter.changes(name) as changes:
        try:
            with piped(lambda sink: changes.write(sink, compression="none")) as source:
                yield source
        except DigestMismatchError:
            raise CorruptStoreError(
                f"{digest}: its snapshot with the driver {snapshotter.driver.name} does not give the layer {diff_id} "
                "again: run `fastlayer store check`"
            ) from None
