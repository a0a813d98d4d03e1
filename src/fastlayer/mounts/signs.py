"""What a mount is known by in ``/proc/PID/mountinfo``, wherever it has been moved, copied or covered."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastlayer.mounts import table
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.table import Entry

_UPPER = "upperdir="


def sign_of(mounts: Sequence[Mount]) -> str:
    """The sign of the last mount, as text to be kept. Empty: nothing is known but where it is to be mounted."""
    value = mounts[-1]
    if value.type == "overlay":
        return "overlay:" + next((text[len(_UPPER) :] for text in value.options if text.startswith(_UPPER)), "")
    if value.type == "bind":
        return _bound(value.source)
    try:
        device = os.stat(value.source).st_rdev
    except OSError:
        return ""
    return f"device:{os.major(device)}:{os.minor(device)}"


def matches(sign: str, entry: Entry) -> bool:
    """Whether the entry may be the mount or a copy (``mount --bind``) of it or of a part of it."""
    kind, _, rest = sign.partition(":")
    if kind == "overlay":
        upper = next((text[9:] for text in entry.super_options if text.startswith(_UPPER.encode())), b"")
        return entry.type == "overlay" and _same(upper, os.fsencode(rest))
    device = f"{entry.device[0]}:{entry.device[1]}"
    if kind == "device":
        return device == rest
    if kind == "bind":
        major, minor, root = rest.split(":", 2)
        wanted = os.fsencode(root)
        return device == f"{major}:{minor}" and (entry.root == wanted or entry.root.startswith(wanted + b"/"))
    return True


def confirmed(sign: str, entry: Entry) -> str:
    """The sign of a mount that has been made. Of id-mapped directories the kernel does not show the names."""
    if matches(sign, entry):
        return sign
    return f"device:{entry.device[0]}:{entry.device[1]}" if entry.type == "overlay" else ""


def _same(shown: bytes, wanted: bytes) -> bool:
    """Kernels before 6.8 are given names relative to the driver's directory, and show them so."""
    return shown == wanted or bool(shown and not shown.startswith(b"/") and wanted.endswith(b"/" + shown))


def _bound(source: str) -> str:
    known = table.identity(source, plain=True)
    for entry in table.entries():
        if known is not None and entry.number == known.number:
            below = os.path.relpath(os.path.realpath(os.fsencode(source)), entry.target)
            root = os.path.normpath(os.path.join(entry.root, below))
            return f"bind:{entry.device[0]}:{entry.device[1]}:{os.fsdecode(root)}"
    return ""
