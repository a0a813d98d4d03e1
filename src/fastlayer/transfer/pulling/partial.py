"""Pulling a layer in part: of a zstd:chunked or eStargz layer only what no snapshot of the store has is fetched.

Nothing is believed that was not compared with a digest:

::

    manifest (verified) -> annotation: digest of the TOC -> TOC -> digests of chunks -> what is fetched
    configuration (verified) -> diff_id -> the tar: its headers, contents fetched and contents from the store

The ``diff_id`` is that of the very same tar, hashed as it goes into the snapshot, contents that come from the store
included. So files of the store are hints: one that was changed makes another tar, which is noticed, and then each is
compared with the digest that the TOC has for it. When that does not help either, the whole blob is fetched, as if there
were no TOC, and has to have its own digest.

Contents are shared with the files that they are taken from, where the file system can. What the tar has between them is
in the tar-split of zstd:chunked layers; else it is taken from the blob of another layer, where that should have the
same, or fetched.

The blob comes into the store, too, if another one has the same frames for the same contents, which is how compressors
are: then it has its digest, or it is not kept. Without a blob the layer is only a snapshot; its ``diff_id`` was
verified all the same, but nobody can make the blob again, byte by byte: it has to be pulled whole before it can be
saved, or go to another registry.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerError, RegistryDeniedError, RegistryError
from fastlayer.image import contents
from fastlayer.image.contents import Contents, Found
from fastlayer.image.unpack import LayerSource
from fastlayer.layer.chunked.places import announced
from fastlayer.transfer.events import BlobProgress, Doing, Observer, silent
from fastlayer.transfer.pulling.assembling import Rebuilt, Tar
from fastlayer.transfer.pulling.layout import Layout, Plan, Room, make_plan
from fastlayer.transfer.pulling.ranges import BlobParts

if TYPE_CHECKING:
    from fastlayer.metadata.leases import Lease
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.registry.client import Repository
    from fastlayer.store.store import Store

_PIECE = 256 << 10
_WORTH = 0.9  # of the blob: what would be fetched has to be less
_SMALL = 64 << 10  # bytes of a blob that is rather fetched at once


class PartialStats(NamedTuple):
    """``fetched``: bytes that came; ``reused``: of the tar, from files of the store; ``has_blob``: the store has it."""

    fetched: int
    reused: int
    has_blob: bool


class PartialLayer:
    """A layer of which only a part is fetched. ``source``: for ``image.unpack``; ``stats``: so far.

    ``close`` when it was unpacked, or will not be.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        blob: BlobParts,
        layer: Descriptor,
        diff_id: Digest,
        chain: Digest,
        layout: Layout,
        plan: Plan,
        there: Contents,
        full: LayerSource,
        observe: Observer,
    ) -> None:
        self._observe = observe
        self._plan: Plan | None = plan
        self._store = store
        self._lease = lease
        self._blob = blob
        self._layer = layer
        self._chain = chain
        self._layout = layout
        self._there = there
        self._reused = 0
        self._has_blob = False
        second = LayerSource(diff_id, layer.digest, layer.size, lambda: self._opened(sceptical=True), full)
        self.source = LayerSource(diff_id, layer.digest, layer.size, lambda: self._opened(sceptical=False), second)

    @property
    def stats(self) -> PartialStats:
        return PartialStats(self._blob.received, self._reused, self._has_blob)

    @contextmanager
    def _opened(self, *, sceptical: bool) -> Iterator[Tar]:
        """``sceptical``: after the tar was another one: all that comes from the store is looked at before."""
        plan, self._plan = self._plan, None
        if sceptical or plan is None:
            plan = self._new_plan(sceptical=sceptical)
        layer = self._layer
        with ExitStack() as stack:
            out = None
            if plan.rebuild:
                ingest = self._store.content.ingest(self._lease.id, digest=layer.digest, size=layer.size)
                out = Rebuilt(stack.enter_context(ingest))
            tar = Tar(layer, self._layout, plan, self._blob, self._there, out)
            self._tell("receiving", sum(span.end - span.start for span in plan.wanted))
            yield tar
            self._reused = tar.reused
            self._has_blob = out is not None and out.finish()
        contents.record(self._store, self._chain, self._layout.toc, layer.digest, partial=True)
        self._tell("done", 0)

    def _new_plan(self, *, sceptical: bool) -> Plan:
        places = self._layout.places(self._there)
        if sceptical:
            places = {digest: place for digest, place in places.items() if _is_right(self._there, place, digest)}
        return make_plan(self._layout, places, self._there, guess=not sceptical)

    def _tell(self, doing: Doing, coming: int) -> None:
        moved, size = self._blob.received, self._layer.size
        self._observe(BlobProgress(self._layer.digest, doing, moved, max(0, size - moved - coming), size))

    def close(self) -> None:
        self._there.close()


def partial_layer(
    store: Store,
    lease: Lease,
    repository: Repository,
    layer: Descriptor,
    diff_id: Digest,
    chain: Digest,
    full: LayerSource,
    *,
    room: Room | None = None,
    warn: Callable[[str], object] = lambda line: None,
    observe: Observer = silent,
) -> PartialLayer | None:
    """The layer with the chain id ``chain`` and the descriptor ``layer``, of a verified manifest, to be pulled in part.

    ``full``: how to get all of it, should that be necessary; ``room``: for the files of its TOC. None when it is no
    chunked layer, when the store has nothing of it, or when what there is of it is not as it should be: that is told by
    ``warn``, in one line. Raises ``RegistryDeniedError``, which the whole layer would, too.
    """
    there = None
    try:
        found = announced(layer.annotations, layer.size)
        if found is None or layer.size <= _SMALL or layer.digest.algorithm != "sha256":
            return None
        there = Contents(store)
        if there:
            blob = BlobParts(repository.calls, layer.digest, layer.size)
            layout = Layout(blob, found, layer.size)
            (room := room or Room()).take(len(layout.toc.files))
            places = layout.places(there)
            there.claim(lease, places.values())
            plan = make_plan(layout, places, there, guess=True)
            if plan.cost() + blob.received < _WORTH * layer.size:
                made = PartialLayer(store, lease, blob, layer, diff_id, chain, layout, plan, there, full, observe)
                there = None
                return made
            room.give(len(layout.toc.files))
    except RegistryDeniedError:
        raise
    except (LayerError, RegistryError) as exc:
        warn(f"{layer.digest}: all of it is taken, because {exc}")
    finally:
        if there is not None:
            there.close()
    return None


def _is_right(there: Contents, place: Found, digest: bytes) -> bool:
    """Whether the store has the contents that it should have there."""
    sha = hashlib.sha256(usedforsecurity=False)
    buffer = memoryview(bytearray(_PIECE))
    try:
        fd = there.open(place)
    except OSError:
        return False
    try:
        at, end = place.offset, place.offset + place.size
        while at < end and (count := os.preadv(fd, [buffer[: end - at]], at)):
            sha.update(buffer[:count])
            at += count
    except OSError:
        return False
    finally:
        os.close(fd)
    return sha.digest() == digest
