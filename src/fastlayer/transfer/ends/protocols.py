"""The two ends of a transfer, as protocols: where an image comes from, and where it goes.

A source gives manifests by descriptor and blobs as streams; a destination says what it has, takes blobs, whole or while
they are made, and manifests when all below them is there. Neither knows the other; ``moving.py`` brings them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from fastlayer._values import NamedTuple
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.registry.uploads import How
from fastlayer.transfer.forms import Form, Made

Bytes = Callable[[int], Iterable[bytes | memoryview]]  # the bytes of a blob from an offset on, any number of times
Moved = Callable[[int], object]  # is told how many bytes of a blob have gone
Write = Callable[[Any], Made]  # writes the blob of a layer to a binary file; the same bytes each time


class LayerOf(NamedTuple):
    """A layer of a manifest. ``diff_id``, and ``chain_id`` of the stack up to it: of images only."""

    blob: Descriptor
    diff_id: Digest | None = None
    chain_id: Digest | None = None


class Source(Protocol):
    """Where an image comes from. For threads."""

    name: str  # for messages

    def has_manifest(self, manifest: Descriptor) -> bool:
        """Whether a manifest that an index names is there."""
        ...

    def read(self, document: Descriptor, limit: int) -> bytes:
        """A manifest or configuration, verified. Raises ``FastlayerError``."""
        ...

    def open(self, blob: Descriptor, offset: int = 0) -> Iterator[bytes | memoryview]:
        """The bytes of a blob, which nobody has verified. What it raises comes when it is iterated over."""
        ...

    def writer(self, layer: LayerOf, form: Form | None) -> Write | None:
        """What makes the blob of a layer, in another form or, None, in its own; None when ``open`` gives that."""
        ...

    def known_form(self, layer: LayerOf, form: Form) -> Made | None:
        """What a layer came to in a form when it was made before."""
        ...

    def note_form(self, layer: LayerOf, form: Form, made: Made) -> None:
        """What it has come to now."""
        ...

    def give_up(self) -> None:
        """Lets threads that wait for something of it fail; nothing more is asked for."""
        ...


class Destination(Protocol):
    """Where an image goes. For threads, as many as ``workers``."""

    name: str  # for messages
    workers: int

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there."""
        ...

    def has_manifest(self, manifest: Descriptor) -> bool:
        """Whether a manifest is there."""
        ...

    def mount(self, blob: Descriptor) -> bool:
        """Takes over a blob that is not there from where it is known to be; whether that was possible."""
        ...

    def put(self, layer: LayerOf, data: Bytes, moved: Moved) -> How:
        """A blob, unless it is there; verified before anybody can see it. Raises ``DigestMismatchError``."""
        ...

    def put_made(self, layer: LayerOf, write: Write, moved: Moved) -> Made:
        """A layer while it is made."""
        ...

    def put_manifest(self, manifest: Descriptor, data: bytes, subject: Digest | None) -> None:
        """A manifest or index; all that it names is there. ``subject``: what it refers to."""
        ...

    def commit(self, root: Descriptor, data: bytes, subject: Digest | None) -> None:
        """The image is complete: its manifest or index, which gets the name."""
        ...

    def give_up(self) -> None:
        """As of a source."""
        ...
