"""What observers of a transfer are told: one value per blob, now and then and at its end.

Called by the threads that move the blobs, one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastlayer._values import NamedTuple
from fastlayer.oci.digest import Digest

Doing = Literal["waiting", "receiving", "unpacking", "compressing", "sending", "present", "mounted", "done"]


class BlobProgress(NamedTuple):
    """A blob on its way. ``moved``: bytes that have come over the wire, or gone; ``kept``: those that did not have to,
    because they were here, or there, before; ``total``: of the blob, None when that is not known before the end."""

    digest: Digest | None
    doing: Doing
    moved: int
    kept: int
    total: int | None
    name: str = ""  # for people, where there is no digest yet

    @property
    def ended(self) -> bool:
        return self.doing in ("present", "mounted", "done")


Observer = Callable[[BlobProgress], object]


def silent(_: BlobProgress) -> None:
    """For those who do not want to know."""
