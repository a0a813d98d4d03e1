"""Repositories of registries as builds use them: the one that a name means, and blobs that become files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.content.files import write_all
from fastlayer.content.ingest import new_hash
from fastlayer.errors import DigestMismatchError, RegistryError
from fastlayer.registry.opening import Wishes, opened, sources
from fastlayer.transfer.ends.steady import steady

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.reference import Reference
    from fastlayer.registry.client import Repository
    from fastlayer.registry.manifests import RawManifest

Warn = Callable[[str], object]


class Found(NamedTuple):
    """Where a name was found, and the manifest that it names there."""

    repository: Repository
    manifest: RawManifest


def wishes_of(wished: Wishes | None, insecure: bool | None) -> Wishes:
    """What the command says, and what is said of one registry."""
    found = wished or Wishes()
    return found if insecure is None else found._replace(verify=not insecure)


def find(ends: ExitStack, reference: Reference, wishes: Wishes, warn: Warn) -> Found:
    """The first place, mirrors before their origin, that has a manifest of that name; open until ``ends`` is closed.

    Raises the ``RegistryError`` of the first when none has.
    """
    first: RegistryError | None = None
    for location in sources(reference, wishes):
        with ExitStack() as trying:
            try:
                repository = trying.enter_context(opened(location, wishes, warn=warn))
                manifest = repository.manifest(location.reference.digest or location.reference.tag)
            except RegistryError as exc:
                first = first or exc
                continue
            ends.enter_context(trying.pop_all())
            return Found(repository, manifest)
    raise first or RegistryError(f"{reference}: no registry is set up for it")


def fetch(repository: Repository, blob: Descriptor, fd: int) -> None:
    """All of a blob into an empty file. Raises ``DigestMismatchError`` when it is another one."""
    hasher = new_hash(blob.digest.algorithm)
    for piece in steady(repository, blob):
        hasher.update(piece)
        write_all(fd, piece)
    if hasher.hexdigest() != blob.digest.encoded:
        raise DigestMismatchError(f"{blob.digest}: the bytes hash to {hasher.hexdigest()}: write it there again")
