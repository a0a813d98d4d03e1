"""What differs between two thin devices, by ``thin_delta`` (thin-provisioning-tools) on a snapshot of the metadata."""

from __future__ import annotations

import os
import re
import subprocess

from fastlayer.drivers.devicemapper import dmsetup
from fastlayer.errors import DriverError

_RANGE = re.compile(r'<(different|right_only|left_only|same)\s[^>]*?length="(\d+)"')
_OWN = ("different", "right_only")


def own_blocks(pool: str, below: int, device: int) -> int:
    """Blocks that ``device`` has for itself and not from ``below``. Called under the lock of the pool."""
    metadata = dmsetup.run("table", pool, device=pool).split()[3]
    _release(pool)
    dmsetup.message(pool, "reserve_metadata_snap")
    try:
        done = subprocess.run(
            ["thin_delta", "--metadata-snap", "--snap1", str(below), "--snap2", str(device), node_of(metadata)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            pass_fds=dmsetup.lock_descriptors(),
            check=False,
        )
    finally:
        dmsetup.message(pool, "release_metadata_snap")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise DriverError(f"thin_delta {pool}: {lines[-1] if lines else 'failed'}")
    return count(done.stdout)


def count(xml: str) -> int:
    """Of the output of ``thin_delta``: the blocks that the second device has for itself."""
    return sum(int(length) for kind, length in _RANGE.findall(xml) if kind in _OWN)


def _release(pool: str) -> None:
    """A process that was killed may have left the metadata snapshot, and there can be one only."""
    fields = dmsetup.status(pool) or []
    if fields[5:6] != ["-"]:
        dmsetup.message(pool, "release_metadata_snap")


def node_of(numbers: str) -> str:
    """The node of a block device given as ``MAJOR:MINOR``."""
    path = f"/dev/block/{numbers}"
    if os.path.exists(path):
        return path
    with open(f"/sys/dev/block/{numbers}/uevent") as file:
        fields = dict(line.rstrip("\n").split("=", 1) for line in file)
    return f"/dev/{fields['DEVNAME']}"
