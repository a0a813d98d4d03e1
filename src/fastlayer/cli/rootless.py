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
        move(quiet=bool(given.get("quiet")))


def move(*, quiet: bool = False) -> bool:
    """Becomes root of a user namespace; False where that is not possible. What cannot be had of it is warned of."""
    from fastlayer.cli import output
    from fastlayer.running.rootless import become_root

    warnings: list[str] = []
    moved = become_root(warnings)
    output.warn(warnings, quiet)
    return moved


def is_within_reach(place: bytes) -> bool:
    """Whether the owner of that directory is one in the namespace that ``as_root`` would make."""
    if os.geteuid() == 0:
        return True
    from fastlayer.running import idmaps

    owner = os.stat(place).st_uid
    return any(ids.outside <= owner < ids.outside + ids.length for ids in idmaps.own().uids)


def as_root_unless_running(given: dict[str, Any], *names: str) -> None:
    """The same for verbs that go through the root of a container that runs: that is in a namespace of its own, into
    which those outside may look, and a new one beside it may not."""
    if os.geteuid() != 0 and not any(_is_running(given, name) for name in names):
        as_root(given)


def _is_running(given: dict[str, Any], name: str) -> bool:
    from fastlayer.container import writable
    from fastlayer.container.mounted import is_running
    from fastlayer.errors import FastlayerError
    from fastlayer.store.store import existing_store

    try:
        with existing_store(given["root"], driver=given["driver"]) as store:
            return is_running(store, writable.find(store, name))
    except FastlayerError:
        return False  # which the verb will tell, if it matters


def _is_ours(given: dict[str, Any]) -> bool:
    from fastlayer.store.store import default_root

    try:
        return os.stat(Path(given["root"]) if given["root"] else default_root()).st_uid == os.geteuid()
    except OSError:
        return True  # it will be
