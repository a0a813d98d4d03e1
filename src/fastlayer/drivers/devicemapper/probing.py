"""Whether ``devicemapper`` works here: the programs, the kernel, and a pool of a few megabytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fastlayer.drivers.devicemapper import dmsetup, loop
from fastlayer.drivers.devicemapper.dmsetup import DmError
from fastlayer.drivers.devicemapper.options import from_environment
from fastlayer.errors import FastlayerError, StorageError
from fastlayer.snapshot.driver import Probe

_DATA, _METADATA, _BLOCK = 32 << 20, 4 << 20, 128  # bytes, bytes, sectors
_PATH = os.defpath + ":/usr/sbin:/sbin"


def probe(root: Path) -> Probe:
    """The first thing that is missing, with its remedy. Leaves nothing behind."""
    for question in (_configuration, _programs, _kernel):
        found = question()
        if found is not None:
            return found
    return _try(root)


def _configuration() -> Probe | None:
    try:
        options = from_environment()
    except FastlayerError as exc:
        return Probe(False, str(exc), "see docs/drivers-devicemapper.md")
    for name, path in (("FASTLAYER_DM_DATA", options.data), ("FASTLAYER_DM_METADATA", options.metadata)):
        if path is not None and not Path(path).is_block_device():
            return Probe(False, f"{name}={path} is no block device", "give one, or leave both out for files")
    return None


def _programs() -> Probe | None:
    kind = from_environment().file_system
    for program, package in (("dmsetup", "dmsetup"), (f"mkfs.{kind}", "xfsprogs" if kind == "xfs" else "e2fsprogs")):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":" + _PATH) is None:
            return Probe(False, f"{program} is not installed", f"install the package {package}")
    return None


def _kernel() -> Probe | None:
    if os.geteuid() != 0:
        return Probe(False, "no permission to make devices", "run as root (not in a user namespace)")
    try:
        known = dmsetup.targets()
    except DmError:
        return Probe(False, "the kernel has no device-mapper", "`modprobe dm-mod`, or a kernel with CONFIG_BLK_DEV_DM")
    except FastlayerError as exc:
        return Probe(False, str(exc), "")
    if "thin-pool" not in known and not _loads_thin():
        return Probe(
            False,
            "the kernel has no thin-pool target",
            "`modprobe dm-thin-pool`, or a kernel with CONFIG_DM_THIN_PROVISIONING",
        )
    return None


def _loads_thin() -> bool:
    """A table with an unknown target makes the kernel look for its module; one that has it refuses the table."""
    with suppress(StorageError):
        dmsetup.create(f"fastlayer-probe-{os.urandom(4).hex()}", "0 8 thin-pool")
    return "thin-pool" in dmsetup.targets()


def _try(root: Path) -> Probe:
    """A pool and a thin device in it, made and removed."""
    above = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    pool = f"fastlayer-probe-{os.urandom(6).hex()}"
    undo: list[Callable[[], object]] = []
    try:
        folder = Path(tempfile.mkdtemp(prefix=".fastlayer-probe-", dir=above))
        undo.append(lambda: shutil.rmtree(folder, ignore_errors=True))
        data, metadata = (_sparse(folder / name, size, undo) for name, size in (("d", _DATA), ("m", _METADATA)))
        table = f"0 {_DATA // 512} thin-pool {metadata} {data} {_BLOCK} 0 1 error_if_no_space"
        undo.append(lambda: dmsetup.remove(pool))
        dmsetup.create(pool, table)
        dmsetup.message(pool, "create_thin", "1")
        undo.append(lambda: dmsetup.remove(f"{pool}-1"))
        dmsetup.create(f"{pool}-1", f"0 {_DATA // 512} thin {dmsetup.path_of(pool)} 1")
    except (FastlayerError, OSError) as exc:
        return Probe(False, f"cannot make a thin pool: {exc}", "run as root, outside of a container without devices")
    finally:
        for step in reversed(undo):
            with suppress(FastlayerError, OSError):
                step()
    return Probe(True)


def _sparse(path: Path, size: int, undo: list[Callable[[], object]]) -> str:
    """``MAJOR:MINOR`` of a loop device over a new file."""
    with open(path, "xb") as file:
        file.truncate(size)
    fd = loop.attach(path)
    undo.append(lambda: os.close(fd))
    device = os.fstat(fd).st_rdev
    return f"{os.major(device)}:{os.minor(device)}"
