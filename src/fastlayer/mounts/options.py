"""Mount options as mount(8) writes them, sorted into what the kernel takes them for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

# option -> MOUNT_ATTR_* of the new mount API, MS_* of mount(2) (linux/mount.h)
_ATTRIBUTES = {
    "ro": (0x1, 0x1),
    "nosuid": (0x2, 0x2),
    "nodev": (0x4, 0x4),
    "noexec": (0x8, 0x8),
    "noatime": (0x10, 0x400),
    "strictatime": (0x20, 0x1000000),
    "nodiratime": (0x80, 0x800),
    "nosymfollow": (0x200000, 0x100),
    "relatime": (0, 0x200000),
}
_DEFAULTS = frozenset({"rw", "suid", "dev", "exec", "atime", "diratime", "symfollow", "defaults", "bind"})
_ATIME = 0x70  # MOUNT_ATTR__ATIME: one field with three values
_CHOOSES_ATIME = frozenset({"noatime", "strictatime", "relatime"})


class Plan(NamedTuple):
    """``attributes`` and ``clear`` for the new mount API, ``flags`` for mount(2), what the file system itself gets."""

    attributes: int
    clear: int
    flags: int
    recursive: bool
    parameters: tuple[tuple[bytes, bytes | None], ...]


def sort_out(options: Sequence[str]) -> Plan:
    """Raises ``UsageError`` for what cannot be an option."""
    attributes = clear = flags = 0
    recursive = False
    parameters = []
    for option in options:
        if not option or "\0" in option:
            raise UsageError(f"{option!r} is not a mount option")
        if option in _ATTRIBUTES:
            attribute, flag = _ATTRIBUTES[option]
            attributes, flags = attributes | attribute, flags | flag
            clear |= _ATIME if option in _CHOOSES_ATIME else 0
        elif option == "rbind":
            recursive = True
        elif option not in _DEFAULTS:
            key, equals, value = os.fsencode(option).partition(b"=")
            parameters.append((key, value if equals else None))
    return Plan(attributes, clear, flags, recursive, tuple(parameters))
