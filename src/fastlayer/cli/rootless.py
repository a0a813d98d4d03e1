"""Plain users: a verb that mounts or makes files of others works in a user namespace of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def as_root(given: dict[str, Any]) -> None:
    """Becomes root of a user namespace, where that is possible and needed. Before anything is opened.

    Not for the store of somebody else, whose name is lost there.
    """
    if os.geteuid() != 0 and _is_ours(given):
        from fastlayer.running.rootless import become_root

        become_root()


def _is_ours(given: dict[str, Any]) -> bool:
    from fastlayer.store.store import default_root

    try:
        return os.stat(Path(given["root"]) if given["root"] else default_root()).st_uid == os.geteuid()
    except OSError:
        return True  # it will be
