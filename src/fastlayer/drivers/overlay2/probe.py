"""Whether overlayfs works below a directory: by a real mount, and by what has to happen in it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers import folders
from fastlayer.drivers.overlay2 import layout, settings
from fastlayer.errors import DriverError, FastlayerError, StorageError
from fastlayer.mounts import mounting, overlay
from fastlayer.mounts.mount import Mount
from fastlayer.snapshot.driver import Options, Probe

if TYPE_CHECKING:
    from fastlayer.drivers.overlay2.driver import Overlay2

_VALUES = {"metacopy": "on", "redirect_dir": "on", "volatile": "on", "id_map": "0:0:1"}
_ELSEWHERE = "keep the store on ext4, XFS, btrfs or tmpfs (--root), or use the driver vfs"
_NO_KERNEL = Probe(False, "this kernel has no overlayfs", "load its module (modprobe overlay), or use the driver vfs")
_NO_RIGHT = Probe(False, "not permitted to mount", "run as root, or inside `fastlayer unshare`, or use the driver vfs")


def probe(root: Path) -> Probe:
    """Leaves nothing behind. A root that does not exist yet is probed in the directory it will be made in."""
    if (verdict := _kernel()) is not None:
        return verdict
    place = root
    try:
        place = _place(root)
        with _scratch(place) as directory:
            return _try(directory, place)
    except OSError as exc:
        return Probe(False, f"{place}: {exc.strerror}", "use a directory that can be written to (--root)")


def working_options(root: Path) -> tuple[str, ...]:
    """Those options of a layer that are taken below a root where the driver works. Leaves nothing behind."""
    from fastlayer.drivers.overlay2.driver import Overlay2

    with _scratch(_place(root)) as directory:
        driver = Overlay2(directory)
        return tuple(name for number, name in enumerate(_VALUES, 1) if _takes(driver, number, {name: _VALUES[name]}))


def _takes(driver: Overlay2, number: int, options: Options) -> bool:
    try:
        driver.check_options(options, "active")
        driver.create(number, [], "active")
        driver.make_ready(number, [], "active", options)
        (value,) = driver.mounts(number, [], "active", options)
        with mounting.private(value):
            return True
    except FastlayerError:
        return False


def _place(root: Path) -> Path:
    """The root, or the directory it would be made in."""
    while not _exists(root):
        root = root.parent
    return root


@contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=".fastlayer-probe-", dir=place))
    try:
        yield directory
    finally:
        folders.remove(place, os.fsencode(directory.name))


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
