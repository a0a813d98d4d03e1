"""A tree as plain values, for comparing: nothing of fastlayer is used to look at it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any


def dump(root: Path, *, ignore: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Every path below ``root`` (``.`` is itself) with all that makes it what it is.

    Keys of an entry: type, mode, uid, gid, mtime_ns, size, sha256, link, rdev, xattrs, names (the paths of its
    hard-link group when there are several). ``ignore`` leaves keys out.
    """
    found: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[int, int], list[str]] = {}
    top = os.fsencode(root)
    for path in _paths(top):
        name = os.fsdecode(os.path.relpath(path, top))
        status = os.stat(path) if path == top else os.lstat(path)  # the root may be given through a link
        found[name] = _entry(path, status)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            groups.setdefault((status.st_dev, status.st_ino), []).append(name)
    for names in groups.values():
        for name in names if len(names) > 1 else ():
            found[name]["names"] = sorted(names)
    for entry in found.values():
        for key in ignore:
            entry.pop(key, None)
    return found


def _paths(top: bytes) -> list[bytes]:
    paths = [top]
    for directory, subdirectories, files in os.walk(top):
        paths += [os.path.join(directory, name) for name in subdirectories + files]
    return sorted(paths)


def _entry(path: bytes, status: os.stat_result) -> dict[str, Any]:
    mode = status.st_mode
    entry: dict[str, Any] = {
        "type": stat.S_IFMT(mode),
        "mode": stat.S_IMODE(mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
        "xattrs": _xattrs(path),
    }
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            entry |= {"size": status.st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    elif stat.S_ISLNK(mode):
        entry["link"] = os.readlink(path)
    elif stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        entry["rdev"] = status.st_rdev
    return entry


def _xattrs(path: bytes) -> dict[str, bytes]:
    """Those that travel with an image: the overlay's and the host's own are left out."""
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(names)
        if not name.startswith(("trusted.", "user.overlay.", "security.selinux", "btrfs."))
    }


def difference(a: dict[str, dict[str, Any]], b: dict[str, dict[str, Any]]) -> str:
    """What differs between two dumps, for a message; empty when nothing does."""
    lines = []
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            lines.append(f"{name}: only in the {'second' if name in b else 'first'}")
        elif a[name] != b[name]:
            keys = [k for k in a[name].keys() | b[name].keys() if a[name].get(k) != b[name].get(k)]
            lines += [f"{name}: {key} {a[name].get(key)!r} != {b[name].get(key)!r}" for key in sorted(keys)]
    return "\n".join(lines[:20])
