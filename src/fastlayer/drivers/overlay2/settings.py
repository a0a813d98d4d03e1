"""The options of a snapshot, and the mount options that come of them (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import itertools
import os
import re

from fastlayer._values import NamedTuple
from fastlayer.drivers.overlay2.layout import NO_MARKS, Format, Layout, Marks, is_real_root
from fastlayer.errors import DriverError, UsageError, show_path
from fastlayer.snapshot.driver import Options

_PARAMETERS = "/sys/module/overlay/parameters"
_SWITCHES = ("metacopy", "redirect_dir", "volatile")
_MAX_ID = (1 << 32) - 2
_MAX_RANGES = 340  # user_namespaces(7)
_RANGE = re.compile(r"(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)


class Settings(NamedTuple):
    """``metacopy``: a change of mode or owner copies no data up; ``redirect_dir``: directories of lower layers can be
    renamed (both for root only). ``volatile``: nothing is synced: a snapshot that was being written to when the machine
    went down is lost. ``id_map``: ``(inside, outside, count)`` ranges: owners are seen shifted."""

    metacopy: bool = False
    redirect_dir: bool = False
    volatile: bool = False
    id_map: tuple[tuple[int, int, int], ...] = ()


def settings(options: Options) -> Settings:
    """Of ``metacopy``, ``redirect_dir``, ``volatile`` = ``on|off`` and ``id_map`` = ``inside:outside:count,...``."""
    found: dict[str, bool] = {}
    id_map: tuple[tuple[int, int, int], ...] = ()
    for name, value in options.items():
        if name == "id_map":
            id_map = _ranges(value)
        elif name not in _SWITCHES:
            known = ", ".join((*_SWITCHES, "id_map"))
            raise UsageError(f"driver overlay2: no option {show_path(name)}: use {known}")
        elif value not in ("on", "off"):
            raise UsageError(f"driver overlay2: {name}={show_path(value)}: use on or off")
        else:
            found[name] = value == "on"
    return Settings(**found, id_map=id_map)


def _ranges(text: str) -> tuple[tuple[int, int, int], ...]:
    given = f"driver overlay2: id_map={show_path(text)}"
    parts = [_RANGE.fullmatch(part) for part in text.split(",")]
    found = tuple((int(part[1]), int(part[2]), int(part[3])) for part in parts if part)
    if len(found) < len(parts):
        raise UsageError(f"{given}: use INSIDE:OUTSIDE:COUNT[,...]")
    if wrong := _wrong_with(found):
        raise UsageError(f"{given}: {wrong}: use INSIDE:OUTSIDE:COUNT[,...]")
    return found


def _wrong_with(ranges: tuple[tuple[int, int, int], ...]) -> str | None:
    """What the kernel would refuse without saying why."""
    if len(ranges) > _MAX_RANGES:
        return f"the kernel takes {_MAX_RANGES} ranges at most"
    if any(count < 1 for *_, count in ranges):
        return "a range has at least one id"
    for side in (0, 1):
        spans = sorted((entry[side], entry[side] + entry[2]) for entry in ranges)
        if spans[-1][1] - 1 > _MAX_ID:
            return f"ids are 0 to {_MAX_ID}"
        if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
            return "ranges overlap"
    return None


def check_view(options: Options) -> None:
    """What is only read has owners, nothing else to choose."""
    for name in options:
        if name != "id_map":
            raise UsageError(f"driver overlay2: {name} is for writable layers: read-only mounts take id_map alone")


def check(chosen: Settings, layout: Layout) -> None:
    """Raises ``DriverError`` for what the kernel refuses here."""
    for name in ("metacopy", "redirect_dir"):
        if not getattr(chosen, name):
            continue
        if layout.format == "overlay-userxattr":
            remedy = "use a store that root made" if is_real_root() else "run as root"
            raise DriverError(f"driver overlay2: {name} is for root only: {remedy}, or leave it off")
        if not _has(name):
            raise DriverError(f"driver overlay2: this kernel's overlayfs has no {name}: leave it off")


def may_make(chosen: Settings, there: Marks) -> Marks:
    """The marks that writing makes. ``there``: those in the layers.

    The kernel takes ``metacopy=on`` for a writable mount only together with ``redirect_dir=on``, and needs it on where
    one of the layers has such files.
    """
    metacopy = chosen.metacopy or there.metacopy
    return Marks(metacopy, metacopy or chosen.redirect_dir)


def mount_options(form: Format, there: Marks = NO_MARKS, made: Marks = NO_MARKS) -> tuple[str, ...]:
    """For layers that have the marks ``there``, and where writing may make those of ``made``.

    Everything is said, so that no default of a kernel's build decides.
    """
    if form == "overlay-userxattr":
        return ("userxattr", *_known("index=off", "xino=off"))
    metacopy = "on" if there.metacopy or made.metacopy else "off"
    redirect = "on" if made.redirects else "follow" if there.redirects else "nofollow"
    return _known("index=off", "xino=off", f"metacopy={metacopy}", f"redirect_dir={redirect}")


def _known(*options: str) -> tuple[str, ...]:
    """Those that this kernel has; one that lacks an option behaves as if it were off."""
    return tuple(option for option in options if _has(option.partition("=")[0]))


def _has(option: str) -> bool:
    name = "xino_auto" if option == "xino" else option
    return not os.path.isdir(_PARAMETERS) or os.path.exists(f"{_PARAMETERS}/{name}")
