"""What registries have, for people who look: tags, repositories and what refers to a manifest; and deleting.

Lists are of the registry itself: its mirrors have only parts of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from fastlayer._checked import text
from fastlayer.errors import RegistryError, UsageError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import Reference, parse_reference
from fastlayer.registry.credentials import registry_key
from fastlayer.registry.opening import AS_SET_UP, Wishes, destination, opened, opened_registry, sources

Warn = Callable[[str], object]
MAX_NAMES = 1_000_000  # of a list: a registry that never ends takes no more memory than that
_ANY = "catalog"  # stands for a repository where the registry is meant


def silent(_: str) -> None:
    """For those who do not want to know."""


def find_tags(name: str, wishes: Wishes = AS_SET_UP, limit: int = 0, warn: Warn = silent) -> list[str]:
    """The tags of a repository, as the registry orders them; ``limit``: at most so many, 0 for all."""
    reference = parse_reference(text("name", name).removeprefix("docker://"))
    if reference.tag or reference.digest:
        raise UsageError(f"{name}: a repository has tags: leave out tag and digest")
    with opened(sources(reference, wishes)[-1], wishes, warn=warn) as repository:
        return bounded(repository.tags(), limit, reference.name)


def find_repositories(registry: str, wishes: Wishes = AS_SET_UP, limit: int = 0, warn: Warn = silent) -> list[str]:
    """The repositories of ``HOST[:PORT]``, of those registries that tell."""
    host, slash, _ = registry_key(text("registry", registry)).partition("/")
    if slash:
        raise UsageError(f"{registry}: a registry has repositories: give HOST[:PORT]")
    with opened_registry(destination(Reference(host, _ANY), wishes), wishes, warn=warn) as found:
        return bounded(found.catalog(), limit, host)


def find_referrers(
    name: str | Reference, wishes: Wishes = AS_SET_UP, artifact_type: str = "", warn: Warn = silent
) -> tuple[Digest, list[Descriptor]]:
    """The digest of a manifest, and what refers to it: signatures, bills of materials; of one type or of all."""
    reference = _reference(name).with_default_tag()
    origin = sources(reference, wishes)[-1]
    with opened(origin, wishes, warn=warn) as repository:
        there = origin.reference
        digest = Digest(there.digest) if there.digest else repository.manifest(there.tag).digest
        return digest, repository.referrers(digest, artifact_type)


def delete_image(name: str | Reference, wishes: Wishes = AS_SET_UP, warn: Warn = silent) -> Digest:
    """Deletes the manifest that a name names, under all its tags, from the registry; returns its digest.

    What nobody names any more, the registry clears away when it thinks fit. Raises ``UsageError`` for a name without
    tag and digest, ``RegistryMissingError``; ``RegistryError`` where nothing can be deleted.
    """
    reference = _reference(name)
    if not (reference.tag or reference.digest):  # what is gone there is gone for everybody
        raise UsageError(f"{name}: says neither tag nor digest, which have to be given to delete an image")
    with opened(destination(reference, wishes), wishes, warn=warn) as repository:
        digest = Digest(reference.digest) if reference.digest else repository.manifest(reference.tag).digest
        try:
            repository.delete_manifest(digest)
        except RegistryError as exc:
            raise _no_deletion(exc, reference) from None
        return digest


def _reference(name: str | Reference) -> Reference:
    return parse_reference(name.removeprefix("docker://")) if isinstance(name, str) else name


def _no_deletion(error: RegistryError, reference: Reference) -> RegistryError:
    if error.status not in (400, 405) and error.code != "UNSUPPORTED":
        return error
    return RegistryError(
        f"{error}: {reference.domain} lets nobody delete: ask whoever runs it (storage.delete.enabled), "
        "or move the tag to another image",
        status=error.status,
        code=error.code,
    )


def bounded(names: Iterable[str], limit: int, what: str) -> list[str]:
    """Them all, or the first ``limit``. Raises ``RegistryError`` for more than a list may have."""
    found = list(islice(names, limit or MAX_NAMES + 1))
    if not limit and len(found) > MAX_NAMES:
        raise RegistryError(f"{what}: lists more than {MAX_NAMES} names: give --limit")
    return found
