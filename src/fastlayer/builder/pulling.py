"""Images that a build goes on from, or copies from: of the store, or of a registry when they have to come from there.

What the store has is taken if it is for the platform that is wanted. Nothing of registries is loaded as long as none is
asked.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fastlayer.builder.context.waiting import beside
from fastlayer.errors import NotFoundError, ReferenceFormatError
from fastlayer.image.images import Images, looks_like_id
from fastlayer.oci.reference import parse_reference
from fastlayer.transfer.policies import Policy, parse_policy

if TYPE_CHECKING:
    from fastlayer.builder.context.waiting import Check
    from fastlayer.builder.progress import Work
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import Image
    from fastlayer.oci.platform import Platform
    from fastlayer.oci.reference import Reference
    from fastlayer.transfer.events import BlobProgress
    from fastlayer.transfer.pull import Pulled

_WORDS = {
    "true": "always",
    "1": "always",
    "false": "missing",
    "0": "missing",
    "ifnewer": "newer",
}  # buildah's, podman's
_SCHEME = "docker://"


def parse_pull(text: str) -> Policy:
    """``--pull=POLICY``. Raises ``UsageError``."""
    word = text.strip().lower()
    return parse_policy(_WORDS.get(word, word), "--pull")


def find(shop: Workshop, name: str, platform: Platform | None) -> Image:
    """The image of a name, a digest or, in the store, an id. Each is asked for once in a build.

    Raises ``NotFoundError`` when it is not in the store and nobody is to be asked, else what pulling raises.
    """
    name = name.removeprefix(_SCHEME)
    reference = _reference(name)
    turn = shop.once(f"image {reference or name} {platform}", lambda _: _Turn())
    with turn.lock:
        if turn.image is None:
            turn.image = _find(shop, name, reference, platform)
        return turn.image


class _Turn:
    """Stages that need the same image wait for each other, and for nobody else."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.image: Image | None = None


def _find(shop: Workshop, name: str, reference: Reference | None, platform: Platform | None) -> Image:
    here, missing = _in_store(shop, name, platform)
    policy = shop.options.pull
    if here is not None and (reference is None or policy in ("never", "missing")):
        return here
    if missing is not None and (reference is None or policy == "never"):
        raise missing
    assert reference is not None
    return _pulled(shop, reference, platform)


def _in_store(shop: Workshop, name: str, platform: Platform | None) -> tuple[Image | None, NotFoundError | None]:
    """Which it is, or why there is none."""
    try:
        return Images(shop.store).find(name, platform), None
    except NotFoundError as exc:
        return None, exc


def _reference(name: str) -> Reference | None:
    """What a registry can be asked for; None: an id, or no name at all."""
    try:
        found = parse_reference(name).with_default_tag()
    except ReferenceFormatError:
        return None
    return None if looks_like_id(found) else found


def _pulled(shop: Workshop, reference: Reference, platform: Platform | None) -> Image:
    from fastlayer.registry.opening import Wishes
    from fastlayer.transfer.pull import PullOptions, pull

    shop.check()
    options = PullOptions(
        platform=platform,
        policy="newer" if shop.options.pull == "newer" else "always",
        wishes=shop.options.wishes or Wishes(),
        jobs=shop.options.jobs,
    )
    with shop.journal.vertex(f"pulling {reference.familiar}") as work:

        def pulled(check: Check) -> Pulled:
            def observe(blob: BlobProgress) -> None:
                check()
                _tell(work, blob)

            return pull(shop.store, str(reference), options, observe=observe)

        found = beside(pulled, shop.check)  # a build that is over waits for no registry
        if not found.changed:
            work.cached()
    shop.warnings += found.warnings
    return Images(shop.store).find(found.name, platform)


def _tell(work: Work, blob: BlobProgress) -> None:
    """A line for each blob that has come."""
    if blob.ended and blob.digest is not None:
        work.note(f"{blob.digest[:19]} {blob.doing}: {blob.moved} bytes came, {blob.kept} were here")
