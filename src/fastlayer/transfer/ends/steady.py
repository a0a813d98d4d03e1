"""The bytes of a registry's blob as one stream: what breaks off goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator

from fastlayer.errors import RegistryError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.registry.client import Repository


def steady(repository: Repository, blob: Descriptor, offset: int = 0) -> Iterator[bytes]:
    """The bytes from ``offset`` on, asked for again as often as the pauses say. Nobody has verified them.

    Raises ``RegistryError``, ``DigestMismatchError`` for another size than that of the descriptor.
    """
    etag, failures = "", 0
    while offset < blob.size:
        try:
            with repository.blob(blob.digest, offset=offset, size=blob.size, etag=etag) as stream:
                etag = stream.etag
                skip = offset - stream.offset  # of a server that knows no ranges
                for piece in stream:
                    rest = piece[skip:]
                    skip = max(0, skip - len(piece))
                    if rest:
                        offset += len(rest)
                        failures = 0
                        yield rest
            if offset < blob.size:
                raise RegistryError(f"{repository.name}: {blob.digest}: ends after {offset} bytes", transient=True)
        except RegistryError as exc:
            failures += 1
            repository.wait(failures - 1, exc)
