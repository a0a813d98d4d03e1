"""What has been met in an archive, by name."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, UnsafeEntryError, show_path
from fastlayer.oci.digest import Digest

_MAX_LINKS = 40  # links in one path, as in the kernel

Document = bytes


class Found(NamedTuple):
    """A member that went to the sink. ``head``: its first bytes, which show how it is compressed."""

    digest: Digest
    size: int  # bytes
    head: bytes


class Members:
    """The members by their names. A name that comes twice with different contents is refused: readers would differ."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self._blobs: dict[str, Found] = {}
        self._links: dict[str, str] = {}
        self._used: set[Digest] = set()
        self._digests: dict[Digest, Found] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was met."""
        return not (self.documents or self._blobs or self._links)

    def add_document(self, name: str, data: Document) -> None:
        self._once(name, self.documents.get(name, data) == data and name not in self._links)
        self.documents[name] = data

    def add_blob(self, name: str, found: Found) -> None:
        self._once(name, self._blobs.get(name, found).digest == found.digest and name not in self._links)
        self._blobs[name] = self._digests[found.digest] = found

    def add_link(self, name: str, target: str) -> None:
        taken = name in self._blobs or name in self.documents
        self._once(name, self._links.get(name, target) == target and not taken)
        self._links[name] = target

    def find(self, name: str) -> Found:
        """The file that a name stands for, through links; it is used from now on.

        Raises ``LayerFormatError`` when there is none.
        """
        start = name
        for _ in range(_MAX_LINKS):
            found = self._blobs.get(name)
            if found is not None:
                self._used.add(found.digest)
                return found
            if name not in self._links:
                raise LayerFormatError(f"{show_path(start)} is missing in the archive")
            name = self._links[name]
        raise UnsafeEntryError(f"{show_path(start)}: too many links: do not use this archive")

    def by_digest(self, digest: Digest) -> Found | None:
        """A blob that was met."""
        return self._digests.get(digest)

    def unused(self, *, keep_named: bool) -> tuple[Digest, ...]:
        """Blobs that nobody asked for. ``keep_named``: those in ``blobs/`` are not among them."""
        kept = set(self._used)
        if keep_named:
            kept |= {found.digest for name, found in self._blobs.items() if name.startswith("blobs/")}
        return tuple(sorted(self._digests.keys() - kept))

    @staticmethod
    def _once(name: str, same: bool) -> None:
        if not same:
            raise LayerFormatError(f"{show_path(name)} is there twice, and not the same: do not use this archive")
