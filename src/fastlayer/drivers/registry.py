"""The storage drivers by name, imported when they are used; which one works here, and why another does not."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, UsageError
from fastlayer.snapshot.driver import Driver, Probe

if TYPE_CHECKING:
    from collections.abc import Mapping

# name -> module and class; in the order they are tried
_HOME: Mapping[str, str] = {
    "overlay2": "fastlayer.drivers.overlay2:Overlay2",
    "btrfs": "fastlayer.drivers.btrfs:Btrfs",
    "devicemapper": "fastlayer.drivers.devicemapper:DeviceMapper",
    "vfs": "fastlayer.drivers.vfs:Vfs",
}
# known names that have no driver here yet
_LATER = {
    "fuse": "a later version of fastlayer mounts through FUSE: use overlay2 or vfs",
    "aufs": "no mainline kernel has aufs; a later version of fastlayer reads its layers: use overlay2",
}
_AUTOMATIC = ("overlay2", "btrfs", "vfs")  # devicemapper wants a pool that someone has to set up


class Verdict(NamedTuple):
    """What probing a driver found. ``options``: those of its options that work here."""

    name: str
    probe: Probe
    options: tuple[str, ...] = ()


def driver_class(name: str) -> type[Driver]:
    """The driver of that name. Raises ``UsageError`` for an unknown one, ``DriverError`` for one that is not here."""
    if name in _LATER:
        raise DriverError(f"driver {name}: {_LATER[name]}")
    if name not in _HOME:
        raise UsageError(f"driver {name!r} is unknown: use {', '.join(_HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    return cast("type[Driver]", getattr(importlib.import_module(module), attribute))


def names() -> tuple[str, ...]:
    """All names, those that come later included."""
    return (*_HOME, *_LATER)


def probe(name: str, root: Path) -> Probe:
    """Whether the driver works for a store at ``root``."""
    try:
        return driver_class(name).probe(root)
    except DriverError as exc:
        return Probe(False, str(exc))


def probe_all(root: Path) -> Iterator[Verdict]:
    """Every driver in turn: for ``fastlayer doctor``."""
    for name in names():
        found = probe(name, root)
        yield Verdict(name, found, driver_class(name).working_options(root) if found.works else ())


def choose(root: Path, wanted: str | None = None, *, directories: bool = False) -> type[Driver]:
    """The driver to use: ``wanted``, else ``FASTLAYER_DRIVER``, else the first that works.

    A demand is met or refused, never replaced. ``directories``: else only one whose snapshots need no mounting. Raises
    ``DriverError`` with the reason and the remedy.
    """
    wanted = wanted or os.environ.get("FASTLAYER_DRIVER") or None
    reasons = []
    for name in (wanted,) if wanted else _AUTOMATIC:
        if directories and not wanted and not driver_class(name).directories:
            continue
        found = driver_class(name)
        verdict = found.probe(root)
        if verdict.works:
            return found
        reasons.append(f"{name}: {verdict.why}" + (f": {verdict.remedy}" if verdict.remedy else ""))
    raise DriverError(f"driver {'; '.join(reasons)}")
