"""Is a layer what its image says? For layers that are kept without being extracted: read, expanded and hashed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.errors import DigestMismatchError, LayerError
from fastlayer.layer.expand import Expansion
from fastlayer.layer.limits import MAX_RATIO
from fastlayer.layer.pipeline import default_jobs
from fastlayer.layer.source import Source
from fastlayer.oci.mediatypes import is_foreign, layer_compression

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.store.store import Store


def is_tar(layer: Descriptor) -> bool:
    """Whether it is of a type that has a diff id; others (encrypted ones) are kept for whoever knows them."""
    return layer_compression(layer.media_type) is not None or is_foreign(layer.media_type)


def is_known(store: Store, digest: Digest, diff_id: Digest) -> bool:
    """Whether it has been seen in this store that the blob holds the tar. A mere claim has no sizes and no blob."""
    with store.database.read() as db:
        row = db.execute(
            "SELECT 1 FROM layers WHERE digest = ? AND diff_id = ? AND (present OR tar_size)", (digest, diff_id)
        ).fetchone()
    return row is not None


def verify(blob: Any, digest: Digest, diff_id: Digest, jobs: int | None = None) -> None:
    """Reads a whole blob (a path or file object), in little memory.

    Raises ``DigestMismatchError`` for other contents, ``LayerFormatError`` for damage, ``LimitError``.
    """
    source = Source(blob)
    try:
        expansion = Expansion(source, jobs=default_jobs(jobs), max_ratio=MAX_RATIO)
        expansion.run(lambda _: None)
    except LayerError as exc:
        raise type(exc)(f"{digest}: {exc}") from exc
    finally:
        source.close()
    if expansion.diff_id != diff_id:
        raise DigestMismatchError(f"{digest}: diff_id is {expansion.diff_id}, not {diff_id}: do not use this image")
