"""Mount values: what a snapshot asks the kernel for (containerd ``core/mount``: type, source, options)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastlayer._values import NamedTuple


class Mount(NamedTuple):
    """One mount, as data: nothing is mounted by making one.

    ``type``: ``bind``, ``overlay``, or a file system of a block device (``ext4``, ``xfs``). ``source``: the directory
    of a bind, the device of a block file system, ``overlay`` otherwise. ``options``: as mount(8) writes them (``ro``,
    ``rw``, ``noatime``, ``userxattr``, ``upperdir=...``). ``lowers``: lower directories of an overlay, top first; they
    are no option, for they do not fit into one: each is passed by itself (``lowerdir+`` of the new mount API).
    ``id_map``: ``(inside, outside, count)`` ranges by which all directories of an overlay are mapped, or none.
    ``subdirectory``: of a block file system, the directory in it that is shown as its root (``X-mount.subdir=`` of
    mount(8)).
    """

    type: str
    source: str
    options: tuple[str, ...] = ()
    lowers: tuple[str, ...] = ()
    id_map: tuple[tuple[int, int, int], ...] = ()
    subdirectory: str = ""

    @property
    def readonly(self) -> bool:
        return "ro" in self.options

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        value: dict[str, Any] = {"type": self.type, "source": self.source, "options": list(self.options)}
        if self.lowers:
            value["lowers"] = list(self.lowers)
        if self.id_map:
            value["id_map"] = [list(entry) for entry in self.id_map]
        if self.subdirectory:
            value["subdirectory"] = self.subdirectory
        return value


Mounts = Sequence[Mount]
