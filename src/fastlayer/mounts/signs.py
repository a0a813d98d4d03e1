"""What a mount is known by in ``/proc/PID/mountinfo``, wherever it has been moved, copied or covered.

======================================  ==================================================================
``overlay:UPPER``                       an overlay that writes to UPPER
``lowers:TOP``                          one that only reads, TOP first: until it is mounted
``shown:MAJOR:MINOR:HASH``              an overlay that is mounted: its device, and the layers the kernel shows
``bind:MAJOR:MINOR:ROOT``               a directory of a file system
``device:MAJOR:MINOR``                  a block device
======================================  ==================================================================

Mounts with the same sign show the same files: two read-only ones of an image by ``bind``, say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fastlayer.mounts import table
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.table import Entry

_UPPER = "upperdir="
_LAYERS = (b"lowerdir", b"upperdir=", b"workdir=")
_LOWER = re.compile(rb"lowerdir(?:\+=([^\0]*)|=((?:[^\\:]|\\.)*))", re.DOTALL)


def sign_of(mounts: Sequence[Mount]) -> str:
    """The sign of the last mount, as text to be kept. Empty: nothing is known but where it is to be mounted."""
    value = mounts[-1]
    if value.type == "overlay":
        upper = next((text[len(_UPPER) :] for text in value.options if text.startswith(_UPPER)), "")
        return f"overlay:{upper}" if upper else f"lowers:{value.lowers[0]}"
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
    if kind in ("overlay", "lowers", "shown"):
        return entry.type == "overlay" and _is_overlay(kind, rest, entry)
    device = f"{entry.device[0]}:{entry.device[1]}"
    if kind == "device":
        return device == rest
    if kind == "bind":
        major, minor, root = rest.split(":", 2)
        wanted = os.fsencode(root)
        return device == f"{major}:{minor}" and (entry.root == wanted or entry.root.startswith(wanted + b"/"))
    return True


def may_be(sign: str, entry: Entry) -> bool:
    """Whether what is mounted at the target of an announced mount may be it."""
    return matches(sign, entry) or (sign.startswith(("overlay:", "lowers:")) and entry.type == "overlay")


def tells_copies(sign: str) -> bool:
    """Whether what matches, wherever it is, shows the files of the mount."""
    return bool(sign.partition(":")[2])


def confirmed(sign: str, entry: Entry) -> str:
    """The sign of a mount that has been made. Of id-mapped directories the kernel does not show the names."""
    if entry.type == "overlay" and sign.startswith("lowers:"):
        return _shown(entry)
    if sign and matches(sign, entry):
        return sign
    if entry.type == "overlay" and sign.startswith("overlay:"):
        return _shown(entry)
    return f"bind:{entry.device[0]}:{entry.device[1]}:{os.fsdecode(entry.root)}"


def _is_overlay(kind: str, rest: str, entry: Entry) -> bool:
    if kind == "shown":
        return _shown(entry) == f"{kind}:{rest}"
    upper = next((text[9:] for text in entry.super_options if text.startswith(_UPPER.encode())), b"")
    if kind == "overlay":
        return _same(upper, os.fsencode(rest))
    return not upper and _same(_top(entry), os.fsencode(rest))


def _top(entry: Entry) -> bytes:
    """The first lower directory."""
    for text in entry.super_options:
        if found := _LOWER.match(text):
            return found[1] if found[1] is not None else re.sub(rb"\\(.)", rb"\1", found[2])
    return b""


def _shown(entry: Entry) -> str:
    """Numbers of devices are used again, so the layers count, too."""
    import hashlib

    layers = b"\0".join(text for text in entry.super_options if text.startswith(_LAYERS))
    return f"shown:{entry.device[0]}:{entry.device[1]}:{hashlib.sha256(layers).hexdigest()[:32]}"


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
