"""Images that `run` and `create` have not got: pulled as --pull says. Loaded when there is something to pull only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, registries, stores
from fastlayer.cli.transfer_progress import TransferReporter
from fastlayer.errors import NotFoundError, ReferenceFormatError, RegistryError

if TYPE_CHECKING:
    from fastlayer.store.store import Store
    from fastlayer.transfer.pull import Policy


def pulled(store: Store, given: dict[str, Any], policy: Policy, missing: NotFoundError | None = None) -> None:
    """Brings the image in. ``missing``: what is raised, with the registry's words, where that cannot be done."""
    from fastlayer.transfer.pull import PullOptions, pull

    image = given["image"]
    if missing is not None and not _may_be_a_name(image):
        raise missing
    options = PullOptions(platform=stores.platform(given), policy=policy, wishes=registries.few_wishes(given))
    quiet = given.get("quiet", False)
    with TransferReporter("auto", quiet=quiet) as shown:
        try:
            found = pull(store, image, options, observe=shown.observe)
        except RegistryError as exc:
            if missing is None:
                raise
            raise NotFoundError(f"{image}: no such image here, and it cannot be pulled: {exc}") from exc
    output.warn(found.warnings, quiet)


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
