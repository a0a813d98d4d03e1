"""What refers to a manifest: signatures, bills of materials (distribution-spec, "Listing Referrers").

Registries that do not keep account of it have an index under a tag made of the digest instead ("Unavailable Referrers
API"), which clients keep up, each reading and writing all of it: who does so at the same time as others may lose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastlayer.errors import RegistryError, RegistryMissingError
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.jsontext import parse_object
from fastlayer.oci.manifest import MAX_MANIFEST
from fastlayer.registry.answers import Answer
from fastlayer.registry.calls import RepositoryCalls
from fastlayer.registry.listing import MAX_PAGE, pages
from fastlayer.registry.manifests import get_manifest, put_manifest

_MISSING = (404, 405)
_TAG_ALGORITHM, _TAG_ENCODED = 32, 64  # characters of each


class _NoReferrersError(Exception):
    """The registry does not know the call."""


def list_referrers(repository: RepositoryCalls, digest: Digest, artifact_type: str = "") -> list[Descriptor]:
    """The manifests that have ``digest`` as their subject, of one type or of all."""
    from urllib.parse import quote

    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    try:
        found = _of_registry(repository, digest, query)
    except _NoReferrersError:
        found = _of_tag(repository, digest)
    return [one for one in found if not artifact_type or one.extra.get("artifactType") == artifact_type]


def tag_referrer(repository: RepositoryCalls, subject: Digest, referrer: Descriptor, data: bytes) -> None:
    """Lists a manifest, whose bytes are ``data``, under the tag of its subject, for a registry that does not keep
    account of it."""
    import json

    referrer = described(referrer, data)
    known = _of_tag(repository, subject)
    if any(one.digest == referrer.digest for one in known):
        return
    value = {
        "schemaVersion": 2,
        "mediaType": mediatypes.INDEX,
        "manifests": [one.to_dict() for one in (*known, referrer)],
    }
    put_manifest(
        repository, json.dumps(value, separators=(",", ":")).encode(), mediatypes.INDEX, referrers_tag(subject)
    )


def described(referrer: Descriptor, data: bytes) -> Descriptor:
    """The descriptor of a manifest as a list of referrers has it: with the manifest's annotations, and its artifact
    type, which is that of its configuration where it says none (distribution-spec, "Pushing Manifests with
    Subject")."""
    value = parse_object(data, str(referrer.digest), MAX_MANIFEST)
    config = value.get("config")
    kind = value.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    notes = value.get("annotations")
    return referrer._replace(
        annotations=notes if isinstance(notes, dict) else {},
        extra={"artifactType": kind} if isinstance(kind, str) and kind else {},
    )


def referrers_tag(digest: Digest) -> str:
    """``sha256-HEX``."""
    return f"{digest.algorithm[:_TAG_ALGORITHM]}-{digest.encoded[:_TAG_ENCODED]}"


def _of_registry(repository: RepositoryCalls, digest: Digest, query: str) -> list[Descriptor]:
    doing = f"referrers of {digest}"

    def get(url: str) -> Answer:
        answer = repository.call(
            "GET", url, doing, (200, *_MISSING), headers={"Accept": mediatypes.INDEX}, keep=MAX_PAGE, pages=True
        )
        if answer.status in _MISSING or answer.media_type == "text/html":
            answer.close()
            raise _NoReferrersError
        return answer

    found: list[Descriptor] = []
    for _, value in pages(get, repository.url(f"referrers/{digest}{query}"), f"{repository.name}: {doing}"):
        found += _descriptors(value, f"{repository.name}: {doing}")
    return found


def _of_tag(repository: RepositoryCalls, digest: Digest) -> list[Descriptor]:
    tag = referrers_tag(digest)
    try:
        raw = get_manifest(repository, tag, (mediatypes.INDEX,))
    except RegistryMissingError:
        return []
    where = f"{repository.name}: {tag}"
    return list(_descriptors(parse_object(raw.data, where, MAX_MANIFEST), where))


def _descriptors(value: Mapping[str, Any], where: str) -> Iterable[Descriptor]:
    items = value.get("manifests") or []
    if not isinstance(items, list):
        raise RegistryError(f"{where}: no index of manifests: see whether it is a registry")
    try:
        return [Descriptor.from_dict(item) for item in items]
    except (ValueError, AttributeError, TypeError) as exc:
        raise RegistryError(f"{where}: a descriptor that is none ({exc}): tell whoever runs the registry") from exc
