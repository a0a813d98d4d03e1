"""``--userns auto``: a container of root in a user namespace whose ids are nobody's on the host.

Its layers are seen through an id map (driver overlay2, ``docs/overlay2.md``), so owners on disk, in ``diff`` and in
images are those inside; so are its volumes. The ids come from what /etc/subuid and /etc/subgid give to ``containers``,
else to ``root``, as podman takes them: 65,536 that no other container of the store has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fastlayer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastlayer.container.containers import Container
    from fastlayer.running.native import Rights
    from fastlayer.store.store import Store

OPTION = "id_map"  # of the driver
LOCK = ".userns"
_COUNT = 65536
_OWNERS = ("containers", "root")


def options_of(store: Store) -> dict[str, str]:
    """The storage options of a new container. Raises ``UsageError``."""
    from fastlayer.running import idmaps

    if store.snapshotter.driver.name != "overlay2":
        raise UsageError("--userns auto: owners are mapped by the storage driver overlay2 alone: use --driver overlay2")
    taken = _taken(store)
    for owner in _OWNERS:
        for start, count in idmaps.granted(owner):
            for first in range(start, start + count - _COUNT + 1, _COUNT):
                if not any(first < end and begin < first + _COUNT for begin, end in taken):
                    return {OPTION: f"0:{first}:{_COUNT}"}
    why = "all ids are taken" if taken else "no ids are given for it"
    raise UsageError(f"--userns auto: {why}: give `containers` (more of) them in /etc/subuid and /etc/subgid")


def _taken(store: Store) -> list[tuple[int, int]]:
    with store.database.read() as db:
        rows = db.execute(f"SELECT labels FROM snapshots WHERE state != 'removing' AND labels LIKE '%{OPTION}%'")
        values = [value for row in rows for name, value in json.loads(row["labels"]).items() if name.endswith(OPTION)]
    found = []
    for entry in (entry for value in values for entry in value.split(",")):
        _, outside, count = map(int, entry.split(":"))
        found.append((outside, outside + count))
    return found


def rights_of(store: Store, container: Container, host: Mapping[str, object]) -> Rights:
    """With which it is started."""
    from fastlayer.container import writable
    from fastlayer.running import idmaps
    from fastlayer.running.native import Rights

    if host.get("UsernsMode") != "auto":
        return Rights()
    text = writable.storage_options(store, writable.of_container(store, container.id))[OPTION]
    ranges = tuple(idmaps.Range(*map(int, entry.split(":"))) for entry in text.split(","))
    return Rights(idmaps.IdMaps(ranges, ranges, helped=False, by_root=True))


def mapped(place: str, rights: Rights) -> int:
    """A mount of a volume, attached nowhere, in which owners are seen as in the layers. The caller's."""
    from fastlayer.mounts.idmap import mapped_tree

    return mapped_tree(place, rights.maps.uids)
