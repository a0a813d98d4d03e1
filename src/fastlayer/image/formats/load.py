"""From whatever holds images into a content store, in one call."""

from __future__ import annotations

import os
from typing import Any

from fastlayer.content.ingest import Keep
from fastlayer.content.store import ContentStore
from fastlayer.errors import ManifestError, show_path
from fastlayer.image.formats.oci import OciLayout, contents
from fastlayer.image.formats.scan import Archive, StoreSink, scan
from fastlayer.layer.limits import MAX_RATIO


def load_blobs(
    value: Any, store: ContentStore, lease: str, *, keep: Keep | None = None, max_ratio: int = MAX_RATIO
) -> Archive:
    """Brings the blobs of all images in ``value`` into the store: a layout directory, or what ``scan`` takes.

    From a directory only what belongs to an image is taken, by reflink where the file system can. ``lease`` and
    ``keep`` are those of ``StoreSink``. Raises what ``scan`` raises, ``NotFoundError`` for what a layout lacks.
    """
    if isinstance(value, (str, bytes, os.PathLike)) and os.path.isdir(value):
        return _load_layout(OciLayout(os.fsdecode(value)), store, lease, keep)
    return scan(value, StoreSink(store, lease, keep), max_ratio=max_ratio)


def _load_layout(layout: OciLayout, store: ContentStore, lease: str, keep: Keep | None) -> Archive:
    for wanted in contents(layout.images, layout):
        if keep is not None:
            keep(wanted.digest)
        if layout.size(wanted.digest) != wanted.size:
            raise ManifestError(
                f"{show_path(os.fspath(layout.path))}: {wanted.digest} is not as long as its descriptor says"
            )
        if not store.has(wanted.digest) or store.size(wanted.digest) != wanted.size:
            with layout.open(wanted.digest) as file:
                store.adopt(file.fileno(), lease, digest=wanted.digest)
    return Archive(layout.format, layout.images, ())
