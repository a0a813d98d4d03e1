"""What a layer has met, as a tree of names: paths without links that are told apart by identity.

Memory and time are linear in the names met, whatever their depth.
"""

from __future__ import annotations

from fastlayer._values import NamedTuple


class Settle(NamedTuple):
    """A directory to be settled at the end of the layer; ``mode`` None: as it is."""

    dev: int
    ino: int
    mtime_ns: int
    mode: int | None


class Node:
    """A name in a directory. ``made``: an entry of the layer is there; ``settle``: what the directory is to become.

    ``left_out``: a device of the layer could not be made there.
    """

    __slots__ = ("above", "below", "left_out", "made", "name", "settle")

    def __init__(self, name: bytes = b"", above: Node | None = None) -> None:
        self.name = name
        self.above = above
        self.below: dict[bytes, Node] | None = None
        self.made = False
        self.left_out = False
        self.settle: Settle | None = None

    def child(self, name: bytes) -> Node:
        """The one node of that name."""
        if self.below is None:
            self.below = {}
        found = self.below.get(name)
        if found is None:
            found = self.below[name] = Node(name, self)
        return found

    def find(self, name: bytes) -> Node | None:
        return None if self.below is None else self.below.get(name)

    def forget(self, name: bytes) -> None:
        """What was there is gone, with all below it."""
        if self.below is not None:
            self.below.pop(name, None)

    def names(self) -> list[bytes]:
        """The components of the path; the root has none."""
        found = []
        node = self
        while node.above is not None:
            found.append(node.name)
            node = node.above
        found.reverse()
        return found

    def path(self) -> bytes:
        return b"/".join(self.names())
