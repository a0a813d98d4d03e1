"""The driver's options, and the mount options that come of them (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from fastlayer.drivers.overlay2.layout import Layout
from fastlayer.errors import DriverError, UsageError

_PARAMETERS = "/sys/module/overlay/parameters"
_SWITCHES = ("metacopy", "redirect_dir", "volatile")


class Settings(NamedTuple):
    """``metacopy``: a change of mode or owner copies no data up; ``redirect_dir``: directories of lower layers can be
    renamed (both for root only). ``volatile``: nothing is synced: a snapshot that was being written to when the machine
    went down is lost. ``id_map``: ranges for idmapped lower layers."""

    metacopy: bool = False
    redirect_dir: bool = False
    volatile: bool = False
    id_map: tuple[tuple[int, int, int], ...] = ()


def settings(options: Mapping[str, str]) -> Settings:
    """Of ``metacopy``, ``redirect_dir``, ``volatile`` = ``on|off`` and ``id_map`` = ``inside:outside:count,...``."""
    found: dict[str, bool] = {}
    id_map: tuple[tuple[int, int, int], ...] = ()
    for name, value in options.items():
        if name == "id_map":
            id_map = _ranges(value)
        elif name not in _SWITCHES:
            raise UsageError(f"driver overlay2: no option {name}: use {', '.join((*_SWITCHES, 'id_map'))}")
        elif value not in ("on", "off"):
            raise UsageError(f"driver overlay2: {name}={value}: use on or off")
        else:
            found[name] = value == "on"
    return Settings(**found, id_map=id_map)


def _ranges(text: str) -> tuple[tuple[int, int, int], ...]:
    try:
        ranges = [tuple(map(int, part.split(":"))) for part in text.split(",")]
        return tuple((inside, outside, count) for inside, outside, count in ranges)
    except ValueError:
        raise UsageError(f"driver overlay2: id_map={text}: use INSIDE:OUTSIDE:COUNT[,...]") from None


def check(chosen: Settings, layout: Layout) -> None:
    """Raises ``DriverError`` for what the kernel refuses in a user namespace."""
    if layout.format == "overlay-userxattr":
        for name in ("metacopy", "redirect_dir"):
            if getattr(chosen, name):
                raise DriverError(f"driver overlay2: {name} is for root only: run as root, or leave it off")


def mount_options(layout: Layout, *, writable: bool) -> tuple[str, ...]:
    """Everything is said, so that no default of a kernel's build decides."""
    if layout.format == "overlay-userxattr":
        return ("userxattr", *_known("index=off", "xino=off"))
    if not (layout.metacopy or layout.redirect_dir):
        return _known("index=off", "xino=off", "metacopy=off", "redirect_dir=nofollow")
    redirect = "redirect_dir=on" if writable else "redirect_dir=follow"
    return _known("index=off", "xino=off", f"metacopy={'on' if layout.metacopy else 'off'}", redirect)


def _known(*options: str) -> tuple[str, ...]:
    """Those that this kernel has; one that lacks an option behaves as if it were off."""
    return tuple(option for option in options if _has(option.partition("=")[0]))


def _has(option: str) -> bool:
    name = "xino_auto" if option == "xino" else option
    return not os.path.isdir(_PARAMETERS) or os.path.exists(f"{_PARAMETERS}/{name}")
