"""How much cache mounts may take, and how long they stay: kept with the store, applied when builds end.

``<root>/cache/mounts/limits.json``::

    {"schema": 1, "limits": {"": {"max_size": 10000000000}, "/root/.cache/pip": {"max_age": 604800}}}

The empty id is for all together: their sizes added up, the least recently used goes first; every mount's age. Whole
directories go, never a part of one: only the tool that fills a cache knows what belongs together in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder import cachemounts
from fastlayer.builder.cachemounts import CacheMount
from fastlayer.content.files import explained
from fastlayer.errors import CorruptStoreError, show_path

if TYPE_CHECKING:
    from fastlayer.store.store import Store

SCHEMA = 1
ALL = ""  # the id that stands for all of them
_MAX_BYTES = 1 << 20


class Limit(NamedTuple):
    """``max_size``: bytes on the disk; ``max_age``: seconds since a step had it last. None: no limit."""

    max_size: int | None = None
    max_age: int | None = None


class Gone(NamedTuple):
    """A directory that went, or would go."""

    mount: CacheMount
    size: int


def limits(store: Store) -> dict[str, Limit]:
    """Those that are set, by id. Raises ``CorruptStoreError``."""
    path = _path(store)
    try:
        with explained("read", path, but=FileNotFoundError), open(path, "rb") as file:
            value = json.loads(file.read(_MAX_BYTES))
        if value["schema"] != SCHEMA:
            raise ValueError
        return {str(name): _limit(entry) for name, entry in value["limits"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CorruptStoreError(
            f"{show_path(os.fspath(path))}: is damaged: `fastlayer cache limit --clear` begins anew"
        ) from None


def _limit(entry: Mapping[str, object]) -> Limit:
    found = Limit(**{str(name): value for name, value in entry.items()})  # type: ignore[arg-type]
    if not all(value is None or (isinstance(value, int) and value >= 0) for value in found):
        raise ValueError
    return found


def set_limits(store: Store, wanted: Mapping[str, Limit]) -> None:
    """These and no others. Raises ``StorageError``."""
    entries = {
        name: {field: value for field, value in limit._asdict().items() if value is not None}
        for name, limit in sorted(wanted.items())
        if limit != Limit()
    }
    path = _path(store)
    fresh = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
    with explained("cannot write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_text(json.dumps({"schema": SCHEMA, "limits": entries}))
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def _path(store: Store) -> Path:
    return store.root / "cache" / "mounts" / "limits.json"


def apply(store: Store, *, now_ns: int | None = None) -> list[Gone]:
    """Removes what is beyond the limits, the least recently used first; what a step has stays."""
    wanted = limits(store)
    if not wanted:
        return []
    return [gone for gone in beyond(store, wanted, now_ns or time.time_ns()) if cachemounts.remove(store, gone.mount)]


def beyond(store: Store, wanted: Mapping[str, Limit], now_ns: int) -> list[Gone]:
    """The directories that are beyond these limits. Their sizes are looked at only where a limit asks for them."""
    from fastlayer.builder.pruning import size_of

    mounts = sorted(cachemounts.all_mounts(store), key=lambda mount: mount.used_ns)
    sized = wanted.get(ALL, Limit()).max_size is not None
    sizes = {
        mount.number: size_of(store, mount)
        for mount in mounts
        if sized or wanted.get(mount.id, Limit()).max_size is not None
    }
    doomed = [mount for mount in mounts if _alone_beyond(mount, sizes.get(mount.number, 0), wanted, now_ns)]
    most = wanted.get(ALL, Limit()).max_size
    if most is not None:
        left = [mount for mount in mounts if mount not in doomed]
        total = sum(sizes[mount.number] for mount in left)
        for mount in left:
            if total <= most:
                break
            total -= sizes[mount.number]
            doomed.append(mount)
    return [Gone(mount, sizes.get(mount.number, 0)) for mount in doomed]


def _alone_beyond(mount: CacheMount, size: int, wanted: Mapping[str, Limit], now_ns: int) -> bool:
    own, common = wanted.get(mount.id, Limit()), wanted.get(ALL, Limit())
    age = own.max_age if own.max_age is not None else common.max_age
    if age is not None and now_ns - mount.used_ns > age * 10**9:
        return True
    return own.max_size is not None and size > own.max_size
