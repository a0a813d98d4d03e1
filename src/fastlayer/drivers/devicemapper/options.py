"""How a pool is made: ``FASTLAYER_DM_*``, read once, when there is no pool yet (``docs/drivers-devicemapper.md``)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]+)([KMGT]?)(?:i?B)?", re.IGNORECASE)
FILE_SYSTEMS = ("ext4", "xfs")
_MIN_BLOCK, _MAX_BLOCK = 64 << 10, 1 << 30  # of a thin pool, which also wants multiples of the smallest


class Options(NamedTuple):
    """``data`` and ``metadata``: block devices, or both None for sparse files below the driver's root.

    Sizes in bytes; those of data and metadata are the files'. ``low_water``: per cent of the data that must be free for
    a new writable snapshot. ``base_size``: what a snapshot without a ``size`` and a parent can hold.
    """

    data: str | None = None
    metadata: str | None = None
    data_size: int = 100 << 30
    metadata_size: int = 1 << 30
    block_size: int = 64 << 10
    low_water: int = 5
    file_system: str = "ext4"
    base_size: int = 10 << 30


def parse_size(text: str, name: str) -> int:
    """Bytes of ``10G``, ``512M``, ``65536``: powers of 1024. Raises ``DriverError``."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or int(found[1]) == 0:
        raise DriverError(f"{name}={text!r} is no size: give a number with K, M, G or T")
    return int(found[1]) * _UNITS[found[2].upper()]


def from_environment(env: Mapping[str, str] = os.environ) -> Options:
    """Raises ``DriverError`` for what cannot be meant."""

    def text(name: str) -> str | None:
        return env.get(f"FASTLAYER_DM_{name}") or None

    def size(name: str, default: int) -> int:
        value = text(name)
        return default if value is None else parse_size(value, f"FASTLAYER_DM_{name}")

    default = Options()
    low_water = text("LOW_WATER") or str(default.low_water)
    if not low_water.rstrip("%").isdigit():
        raise DriverError(f"FASTLAYER_DM_LOW_WATER={low_water!r}: give per cent of the data, 0 to 90")
    options = Options(
        data=text("DATA"),
        metadata=text("METADATA"),
        data_size=size("DATA_SIZE", default.data_size),
        metadata_size=size("METADATA_SIZE", default.metadata_size),
        block_size=size("BLOCK_SIZE", default.block_size),
        low_water=int(low_water.rstrip("%")),
        file_system=text("FS") or default.file_system,
        base_size=size("BASE_SIZE", default.base_size),
    )
    check(options)
    return options


def check(options: Options) -> None:
    """Raises ``DriverError``: one line, with what to give instead."""
    if (options.data is None) != (options.metadata is None):
        raise DriverError(
            "FASTLAYER_DM_DATA and FASTLAYER_DM_METADATA go together: give both block devices, or neither"
        )
    if options.data is not None and options.data == options.metadata:
        raise DriverError(f"{options.data}: data and metadata of a thin pool need a block device each")
    if not _MIN_BLOCK <= options.block_size <= _MAX_BLOCK or options.block_size % _MIN_BLOCK:
        raise DriverError(f"FASTLAYER_DM_BLOCK_SIZE={options.block_size}: give a multiple of 64K, at most 1G")
    if not 0 <= options.low_water <= 90:
        raise DriverError(f"FASTLAYER_DM_LOW_WATER={options.low_water}: give per cent of the data, 0 to 90")
    if options.file_system not in FILE_SYSTEMS:
        raise DriverError(f"FASTLAYER_DM_FS={options.file_system!r}: use {' or '.join(FILE_SYSTEMS)}")
    least = 300 << 20 if options.file_system == "xfs" else 16 << 20  # what their mkfs make
    if options.base_size < least:
        raise DriverError(
            f"FASTLAYER_DM_BASE_SIZE={options.base_size}: {options.file_system} needs {least >> 20}M at least"
        )
