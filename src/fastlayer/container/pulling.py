"""Images that a container is to be made of: of the store, or of a registry when they have to come from there.

Nothing of registries is loaded as long as none is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fastlayer.errors import FastlayerError, NotFoundError, ReferenceFormatError, RegistryError

if TYPE_CHECKING:
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store
    from fastlayer.transfer.policies import Policy

T = TypeVar("T")


def with_image(
    store: Store,
    image: str,
    platform: Platform | None,
    policy: Policy,
    make: Callable[[], T],
    pull: Callable[[Policy], object],
) -> T:
    """What ``make`` makes of an image that ``pull`` brings in before, where it has to.

    Raises what they raise; ``NotFoundError`` with the registry's words where the image is nowhere.
    """
    if policy in ("always", "newer"):
        pull(policy)
        return make()
    try:
        return make()
    except NotFoundError as exc:
        if policy == "never" or _has(store, image, platform) or not _may_be_a_name(image):
            raise
        try:
            pull(policy)
        except RegistryError as failed:
            raise NotFoundError(f"{image}: no such image here, and it cannot be pulled: {failed}") from exc
    return make()


def _has(store: Store, image: str, platform: Platform | None) -> bool:
    from fastlayer.image.images import Images

    try:
        Images(store).find(image, platform)
    except NotFoundError:
        return False
    except FastlayerError:
        return True  # something else is wrong
    return True


def _may_be_a_name(text: str) -> bool:
    """Not what people mean by an id."""
    from fastlayer.image.images import looks_like_id
    from fastlayer.oci.reference import SHORT_ID, is_id_prefix, parse_reference

    if is_id_prefix(text) and len(text) >= SHORT_ID:
        return False
    try:
        return not looks_like_id(parse_reference(text))
    except ReferenceFormatError:
        return False
