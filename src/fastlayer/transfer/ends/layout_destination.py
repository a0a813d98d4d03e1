"""``oci:``: an image layout as the destination of a transfer.

It is a valid layout at any moment: blobs come under their names when they are verified, ``index.json`` names an image
when all of it is there. What was interrupted leaves blobs, which the next try does not fetch again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastlayer.content.files import explained
from fastlayer.content.store import REF_NAME, ContentStore, IndexEntry, check_layout
from fastlayer.errors import CorruptStoreError, NotFoundError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.registry.referrers import described
from fastlayer.registry.uploads import How
from fastlayer.transfer.ends.protocols import Bytes, LayerOf, Moved, Write
from fastlayer.transfer.forms import Made

_OLD = 60.0  # seconds since the last byte, of what a killed copy has left


def _lease() -> str:
    """What the files that a copy is writing are called by: which process it is."""
    return f"copy{os.getpid()}"


class LayoutDestination:
    """See ``protocols.Destination``. ``reference``: the image's name, as it is written in the layout; may be empty."""

    workers = 6

    def __init__(self, layout: ContentStore, reference: str) -> None:
        self.name = f"oci:{layout.path}"
        self._layout = layout
        self._reference = reference
        self._read: set[Digest] = set()

    def has(self, blob: Descriptor) -> bool:
        """Whether it is there, and is what it is called, for which it is read once: it may be anybody's."""
        if blob.digest not in self._read:
            try:
                if self._layout.size(blob.digest) != blob.size:
                    return False
                self._layout.check(blob.digest)
            except (NotFoundError, CorruptStoreError):
                return False
            self._read.add(blob.digest)
        return True

    def has_manifest(self, manifest: Descriptor) -> bool:
        return self.has(manifest)

    def mount(self, blob: Descriptor) -> bool:
        return False

    def put(self, layer: LayerOf, data: Bytes, moved: Moved) -> How:
        if self.has(layer.blob):
            return How.PRESENT
        with self._layout.ingest(_lease(), digest=layer.blob.digest, size=layer.blob.size) as file:
            for piece in data(0):
                file.write(piece)
                moved(file.size)
            file.commit()
        return How.UPLOADED

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        with self._layout.ingest(_lease(), trusted=True) as file:
            made = write(file)
            file.commit(made.digest)
        return made

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._layout.put(data, _lease(), digest=manifest.digest)
        if subject is not None:  # what refers to something is found by the index only
            self._name("", described(manifest, data))

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        self._layout.put(data, _lease(), digest=root.digest)
        self._name(self._reference, root)

    def _name(self, name: str, root: Descriptor) -> None:
        with self._layout.index_lock():
            lines = self._layout.read_index().manifests
            kept = [line for line in lines if not name or line.annotations.get(REF_NAME) != name]
            entries = [IndexEntry(line.annotations.get(REF_NAME, ""), line) for line in kept]
            self._layout.write_index([*entries, IndexEntry(name, root)], _lease())

    def give_up(self) -> None:
        pass


@contextmanager
def opened_layout(path: str, reference: str) -> Iterator[LayoutDestination]:
    """A layout to write to, made when it is not there. Raises ``NotFoundError`` for a directory with other things."""
    target = Path(path)
    with explained("read", target):
        if target.exists() and any(target.iterdir()):
            check_layout(target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
    layout = ContentStore(target)
    _sweep(layout)
    try:
        yield LayoutDestination(layout, reference)
    finally:
        with suppress(OSError):
            (target / "ingest").rmdir()
        _remove_empty(layout)


def _sweep(layout: ContentStore) -> None:
    """Removes what killed copies were writing."""
    for lease, path in layout.leftovers():
        process = lease.removeprefix("copy")
        if process.isdecimal() and not os.path.exists(f"/proc/{process}"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _OLD:
                    path.unlink()


def _remove_empty(layout: ContentStore) -> None:
    """A layout into which nothing has come."""
    if next(layout.digests(), None) is not None or layout.read_index().manifests:
        return
    for name in ("index.json", "oci-layout"):
        (layout.path / name).unlink(missing_ok=True)
    for name in ("blobs/sha256", "blobs", ""):
        with suppress(OSError):
            os.rmdir(layout.path / name)
