"""Manifests of a registry, by tag or digest (distribution-spec, "Pulling manifests", "Pushing Manifests")."""

from __future__ import annotations

from collections.abc import Iterable

from fastlayer._values import NamedTuple
from fastlayer.errors import DigestMismatchError, ManifestError, ReferenceFormatError, RegistryError
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.jsontext import parse_object
from fastlayer.oci.manifest import MAX_MANIFEST
from fastlayer.oci.reference import is_tag
from fastlayer.registry.answers import Answer
from fastlayer.registry.calls import RepositoryCalls
from fastlayer.registry.http import body_of

ACCEPT = (mediatypes.MANIFEST, mediatypes.INDEX, mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_INDEX)
_KNOWN = mediatypes.MANIFESTS | mediatypes.INDEXES | mediatypes.SCHEMA_1
# what registries and storages say of a file of which they know no better
_ANY = frozenset({"", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain"})


class RawManifest(NamedTuple):
    """A manifest or index, as its bytes are. ``digest``: that was asked for, or the sha256 of the bytes."""

    data: bytes
    media_type: str
    digest: Digest

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))

    def __repr__(self) -> str:
        return f"RawManifest({len(self.data)} bytes, {self.media_type!r}, {str(self.digest)!r})"


class PushedManifest(NamedTuple):
    """``subject_known``: the registry keeps account of what the manifest refers to (``OCI-Subject``); else who pushes a
    manifest with a subject has to list it under the tag of ``referrers.py``."""

    digest: Digest
    subject_known: bool


def check_reference(reference: str) -> str:
    """A tag or a digest. Raises ``ReferenceFormatError``."""
    if not is_tag(reference):
        try:
            Digest(reference)
        except ValueError:
            raise ReferenceFormatError(f"{reference!a}: neither a tag nor a digest: give TAG or sha256:...") from None
    return reference


def get_manifest(repository: RepositoryCalls, reference: str, accept: Iterable[str] = ACCEPT) -> RawManifest:
    """The manifest, checked against the digest that is asked for and the one that the registry says it has."""
    doing = f"manifest of {check_reference(reference)}"
    headers = {"Accept": ", ".join(accept)}
    with repository.call("GET", f"manifests/{reference}", doing, (200,), headers=headers, keep=MAX_MANIFEST) as answer:
        data = answer.read_all(MAX_MANIFEST)
    where = f"{repository.calls.registry}/{repository.name}: {reference}"
    return RawManifest(data, _media_type(answer, data, where), _verified(answer, data, reference, where))


def head_manifest(repository: RepositoryCalls, reference: str, accept: Iterable[str] = ACCEPT) -> Descriptor | None:
    """What it is, without fetching it; None when there is none.

    Registries that do not say all of it are asked for the manifest itself.
    """
    accepted = tuple(accept)
    doing = f"manifest of {check_reference(reference)}"
    headers = {"Accept": ", ".join(accepted)}
    with repository.call("HEAD", f"manifests/{reference}", doing, (200, 404), headers=headers) as answer:
        if answer.status == 404:
            return None
        said, size, media_type = _said_digest(answer), answer.length, answer.media_type
    wanted = None if is_tag(reference) else Digest(reference)
    if said is not None and wanted is not None and _differ(said, wanted):
        raise DigestMismatchError(f"{repository.calls.registry}/{repository.name}: {reference}: it has {said} there")
    digest = wanted or said
    if digest is None or size is None or media_type not in _KNOWN:
        return get_manifest(repository, reference, accepted).descriptor
    return Descriptor(media_type, digest, size)


def put_manifest(repository: RepositoryCalls, data: bytes, media_type: str, reference: str = "") -> PushedManifest:
    """Pushes a manifest under a tag, or, by default, under its digest only."""
    digest = digest_of(data)
    name = check_reference(reference or digest)
    if not is_tag(name):
        _compare(data, Digest(name), f"{repository.name}: {name}")
    if len(data) > MAX_MANIFEST:
        raise RegistryError(f"{repository.name}: a manifest of {len(data)} bytes: registries take {MAX_MANIFEST}")
    with repository.call(
        "PUT",
        f"manifests/{name}",
        f"manifest of {name}",
        (200, 201, 202),
        actions=("pull", "push"),
        headers={"Content-Type": media_type},
        body=body_of(data),
    ) as answer:
        said = _said_digest(answer)
        if said is not None and _differ(said, digest):
            raise DigestMismatchError(f"{repository.calls.registry}/{repository.name}: {name}: it took {said} of us")
        return PushedManifest(digest, "oci-subject" in answer.headers)


def delete_manifest(repository: RepositoryCalls, reference: str) -> None:
    """Deletes a manifest (by digest, with all its tags) or a tag, where the registry allows it."""
    doing = f"deleting {check_reference(reference)}"
    with repository.call("DELETE", f"manifests/{reference}", doing, (200, 202, 204), actions=("pull", "delete")):
        pass


def _verified(answer: Answer, data: bytes, reference: str, where: str) -> Digest:
    said = _said_digest(answer)
    if said is not None:
        _compare(data, said, where)
    if is_tag(reference):
        return digest_of(data)
    _compare(data, Digest(reference), where)
    return Digest(reference)


def _compare(data: bytes, wanted: Digest, where: str) -> None:
    import hashlib

    if wanted.algorithm not in hashlib.algorithms_available:
        raise DigestMismatchError(f"{where}: {wanted.algorithm} cannot be computed here: ask for its sha256")
    found = hashlib.new(wanted.algorithm, data, usedforsecurity=False).hexdigest()
    if found != wanted.encoded:
        raise DigestMismatchError(
            f"{where}: what came is {wanted.algorithm}:{found}, not {wanted}: try again, or tell who runs the registry"
        )


def _differ(one: Digest, other: Digest) -> bool:
    return one.algorithm == other.algorithm and one != other


def _said_digest(answer: Answer) -> Digest | None:
    """``Docker-Content-Digest``; None where it is missing or is none."""
    try:
        return Digest(answer.headers.get("docker-content-digest", "").strip())
    except ValueError:
        return None


def _media_type(answer: Answer, data: bytes, where: str) -> str:
    """What the registry says it is, which must be what the manifest says itself (CVE-2021-41190)."""
    value = parse_object(data, where, MAX_MANIFEST)
    inner, outer = value.get("mediaType"), answer.media_type
    if isinstance(inner, str) and inner:
        if outer not in _ANY and inner.lower() != outer:
            raise ManifestError(f"{where}: says that it is {inner!a}, the registry that it is {outer!a}: refused")
        return inner
    if outer not in _ANY:
        return outer
    if "fsLayers" in value:
        return min(mediatypes.SCHEMA_1)
    return mediatypes.INDEX if "manifests" in value else mediatypes.MANIFEST
