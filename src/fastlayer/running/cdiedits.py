"""What a CDI specification wants of a container (``containerEdits``), as far as it can be done here."""

from __future__ import annotations

import os
import stat
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError
from fastlayer.running.spec import Bind, Device

_READING, _WRITING = ("ro",), ("rw",)
_IMPLIED = ("bind", "rbind", "private", "rprivate", "slave", "rslave", "nodev", "nosuid")
_CANNOT = {
    "hooks": "hooks are programs of the host, which are not run here",
    "intelRdt": "there are no resctrl groups here",
    "netDevices": "there is no network namespace to move devices into",
}
_MOST_ID = (1 << 32) - 2


class Edits(NamedTuple):
    """``env``: ``NAME=value``; ``groups``: supplementary ones."""

    env: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    mounts: tuple[Bind, ...] = ()
    groups: tuple[int, ...] = ()

    def and_also(self, other: Edits) -> Edits:
        """Both; of what is at one place the later is."""
        devices = {device.target: device for device in (*self.devices, *other.devices)}
        mounts = {mount.target: mount for mount in (*self.mounts, *other.mounts)}
        groups = tuple(dict.fromkeys((*self.groups, *other.groups)))
        return Edits((*self.env, *other.env), tuple(devices.values()), tuple(mounts.values()), groups)


def edits_of(value: Any, where: str) -> Edits:
    """Raises ``RunError``, beginning with ``where``."""
    if not isinstance(value, dict):
        raise RunError(f"{where}: containerEdits is not an object")
    for name, reason in _CANNOT.items():
        if value.get(name):
            raise RunError(f"{where}: wants {name}: {reason}")
    return Edits(
        tuple(_variable(where, entry) for entry in _list(where, value, "env")),
        tuple(_device(where, entry) for entry in _list(where, value, "deviceNodes")),
        tuple(_mount(where, entry) for entry in _list(where, value, "mounts")),
        tuple(_group(where, entry) for entry in _list(where, value, "additionalGids")),
    )


def _list(where: str, value: dict[str, Any], key: str) -> list[Any]:
    found = value.get(key) or []
    if not isinstance(found, list):
        raise RunError(f"{where}: {key} is not a list")
    return found


def _variable(where: str, entry: Any) -> str:
    if not isinstance(entry, str) or not entry.partition("=")[0] or "=" not in entry or "\0" in entry:
        raise RunError(f"{where}: the variable {entry!r} is not NAME=value")
    return entry


def _group(where: str, entry: Any) -> int:
    if isinstance(entry, bool) or not isinstance(entry, int) or not 0 < entry <= _MOST_ID:
        raise RunError(f"{where}: {entry!r} is no number of a group")
    return entry


def _path(where: str, entry: Any, key: str) -> str:
    found = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(found, str) or not found.startswith("/") or "\0" in found:
        raise RunError(f"{where}: {key} {found!r} is not an absolute path")
    return found


def _device(where: str, entry: Any) -> Device:
    target = _path(where, entry, "path")
    source = _path(where, entry, "hostPath") if entry.get("hostPath") else target
    try:
        about = os.stat(source)
    except OSError as exc:
        raise RunError(f"{where}: {source}: no such device: {exc.strerror}") from exc
    for key, there in (
        ("type", {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(about.st_mode))),
        ("major", os.major(about.st_rdev)),
        ("minor", os.minor(about.st_rdev)),
        ("fileMode", stat.S_IMODE(about.st_mode)),
        ("uid", about.st_uid),
        ("gid", about.st_gid),
    ):
        wanted = "c" if entry.get(key) == "u" else entry.get(key)  # another word for it
        if wanted is not None and wanted != there and not (key in ("major", "minor") and not wanted):
            raise RunError(f"{where}: {source}: wants {key} {wanted!r}: devices are shown as they are, with {there!r}")
    return Device(source, target)


def _mount(where: str, entry: Any) -> Bind:
    source, target = _path(where, entry, "hostPath"), _path(where, entry, "containerPath")
    if entry.get("type") not in (None, "", "none", "bind", "rbind"):
        raise RunError(f"{where}: {target}: a mount of the type {entry['type']!r}: only files of the host can be shown")
    options = _list(where, entry, "options")
    for option in options:
        if option not in (*_READING, *_WRITING, *_IMPLIED):
            raise RunError(f"{where}: {target}: the mount option {option!r} is not known here")
    if not os.path.exists(source):
        raise RunError(f"{where}: {source}: is not there: it cannot be shown at {target}")
    return Bind(source, target, readonly="ro" in options)
