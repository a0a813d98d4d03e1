"""Volume drivers by name: ``local``, those that packages bring along, and Docker's volume plugins on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fastlayer.errors import DriverError, FastlayerError, NotFoundError, StorageError, UsageError, show_path
from fastlayer.volume.books import LOCAL
from fastlayer.volume.driver import VolumeDriver
from fastlayer.volume.guarded import Guarded, said
from fastlayer.volume.names import check_name

if TYPE_CHECKING:
    from fastlayer.store.store import Store

GROUP = "fastlayer.volume_drivers"  # of entry points


def driver_of(store: Store, name: str) -> VolumeDriver:
    """The driver of that name. Raises ``NotFoundError`` when there is none, ``DriverError`` when it cannot be used."""
    if name == LOCAL:
        from fastlayer.volume.local import Local

        return Local(store)
    try:
        check_name(name)
    except UsageError:
        raise UsageError(f"{show_path(name) or repr(name)}: not the name of a volume driver") from None
    return _brought_along(store, name) or _plugin(name)


def _brought_along(store: Store, name: str) -> VolumeDriver | None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        place = store.root / "volume-drivers" / name
        try:
            factory = cast("Callable[[Path], VolumeDriver]", entry.load())
            _make(place)
            return Guarded(f"{name} ({entry.value})", factory(place))
        except FastlayerError:
            raise
        except Exception as exc:  # anybody's code
            raise DriverError(f"volume driver {name} ({entry.value}) cannot be used: {said(exc)}") from exc
    return None


def _make(place: Path) -> None:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "mkdir", os.fspath(place)) from exc


def _plugin(name: str) -> VolumeDriver:
    from fastlayer.volume.plugin import discovery
    from fastlayer.volume.plugin.driver import PluginDriver

    found = discovery.find(name)
    if found is None:
        places = ", ".join(map(str, discovery.places()))
        raise NotFoundError(
            f"volume driver {name}: no package brings it along, and no plugin of that name is in {places}"
        )
    return PluginDriver(found)
