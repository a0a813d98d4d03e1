"""Whether overlayfs works below a directory: by a real mount, and by what has to happen in it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from fastlayer.drivers import folders
from fastlayer.drivers.overlay2 import layout, settings
from fastlayer.errors import DriverError, FastlayerError, StorageError
from fastlayer.mounts import mounting, overlay
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import Probe

_ELSEWHERE = "keep the store on ext4, XFS, btrfs or tmpfs (--root), or use the driver vfs"
_NO_KERNEL = Probe(False, "this kernel has no overlayfs", "load its module (modprobe overlay), or use the driver vfs")
_NO_RIGHT = Probe(False, "not permitted to mount", "run as root, or inside `unshare -Urm`, or use the driver vfs")


def probe(root: Path) -> Probe:
    """Leaves nothing behind. A root that does not exist yet is probed in the directory it will be made in."""
    if (verdict := _kernel()) is not None:
        return verdict
    place = root
    try:
        while not _exists(place):
            place = place.parent
        directory = tempfile.mkdtemp(prefix=".fastlayer-probe-", dir=place)
    except OSError as exc:
        return Probe(False, f"{place}: {exc.strerror}", "use a directory that can be written to (--root)")
    try:
        return _try(Path(directory), place)
    finally:
        folders.remove(place, os.path.basename(os.fsencode(directory)))


def _exists(place: Path) -> bool:
    """Raises ``PermissionError`` where that is not known."""
    try:
        place.stat()
    except FileNotFoundError:
        return place == place.parent
    return True


def _kernel() -> Probe | None:
    try:
        means = overlay.means()
    except StorageError as exc:
        if exc.errno == errno.EPERM:
            return _NO_RIGHT
        return _NO_KERNEL if exc.errno == errno.ENODEV else Probe(False, str(exc))
    if means == "page" and "overlay" not in Path("/proc/filesystems").read_text().split():
        return _NO_KERNEL
    return None


def _try(directory: Path, place: Path) -> Probe:
    for name in ("lower", "lower/dir", "upper", "work"):
        (directory / name).mkdir()
    (directory / "lower/file").touch()
    (directory / "lower/dir/inner").touch()
    options = settings.mount_options(layout.natural_format())
    uppers = (f"upperdir={directory}/upper", f"workdir={directory}/work")
    value = Mount("overlay", "overlay", (*uppers, *options), (os.fspath(directory / "lower"),))
    try:
        with mounting.private(value) as merged:
            return _use(merged, place)
    except DriverError:
        return _NO_RIGHT
    except FastlayerError as exc:
        reason = os.strerror(exc.errno or 0) if isinstance(exc, StorageError) else str(exc)
        return Probe(
            False, f"{place}: {_file_system(place)} cannot be written to through overlayfs ({reason})", _ELSEWHERE
        )


def _use(merged: Path, place: Path) -> Probe:
    """Needs whiteouts that are seen when listing (d_type), and opaque directories (extended attributes)."""
    try:
        (merged / "file").unlink()
        (merged / "dir/inner").unlink()
        (merged / "dir").rmdir()
        (merged / "dir").mkdir()
        works = os.listdir(merged) == ["dir"] and not os.listdir(merged / "dir")
        reason = "it lacks d_type or extended attributes"
    except OSError as exc:
        works, reason = False, exc.strerror or str(exc)
    if works:
        return Probe(True)
    return Probe(False, f"{place}: {_file_system(place)} cannot hold the changes of an overlay ({reason})", _ELSEWHERE)


def _file_system(place: Path) -> str:
    """Its type, for people."""
    from fastlayer.mounts import table

    device = place.stat().st_dev
    return next((entry.type for entry in table.entries() if os.makedev(*entry.device) == device), "this file system")
