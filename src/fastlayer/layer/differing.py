"""Where two trees may differ, as keys for ``diff_only``: paths, and ``path/`` for all that lies below one."""

from __future__ import annotations

from collections.abc import Iterable


def below(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory; the root's is empty."""
    return directory + b"/" + name if directory else name


def above(path: bytes) -> bytes:
    """The directory that a path or key lies in: of ``path/`` the path itself."""
    return path[:-1] if path.endswith(b"/") else path.rpartition(b"/")[0]


def normal(keys: Iterable[bytes]) -> list[bytes]:
    """Sorted, with all directories above, and without what lies below a key that stands for a whole tree."""
    complete = {b""}
    for key in keys:
        path = key
        while path not in complete:
            complete.add(path)
            path = above(path)
    found = []
    tree = None
    for key in sorted(complete):
        if tree is not None and key.startswith(tree):
            continue
        found.append(key)
        if key.endswith(b"/"):
            tree = key
    return found
