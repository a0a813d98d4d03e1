"""The file of a tree index: one block per column, each checksummed, made to be memory-mapped.

::

    0    magic "fastlayer-index\\n", u32 version, u32 byte-order mark, u64 file size
    32   u64 count, i64 racy_ns, u64 keys_missing, u64 dropped_xattrs, u8 content, u8 xattr policy, zeros
    80   per column, in the order of COLUMNS: u64 offset, u64 length, 32 bytes blake3 of the block
    ...  32 bytes blake3 of everything before it
    then the blocks, each at a multiple of 64 bytes, zeros between them

Numbers are in the byte order of the machine; a file of the other order is refused. The columns are those of
``struct fl_entry`` (csrc/fl_entry.h) with ``path_off`` counted from the start of the heap, then the heap and the keys
(32 bytes an entry; none at all for an index without content).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from fastlayer._values import NamedTuple
from fastlayer.errors import IndexFormatError, OperandError, StorageError
from fastlayer.layer.pipeline import STEP
from fastlayer.layer.reading import open_quietly

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"fastlayer-index\n"
VERSION = 1
_ORDER_MARK = 0x01020304
_FIXED = struct.Struct("=16sIIQQqQQBB14x")
_COLUMN = struct.Struct("=QQ32s")
_ALIGN = 64

# name and numpy type; the first 18 are struct fl_entry in its order
COLUMNS = (
    ("dev", "u8"),
    ("ino", "u8"),
    ("size", "u8"),
    ("mtime_sec", "i8"),
    ("ctime_sec", "i8"),
    ("path_off", "u8"),
    ("mtime_nsec", "u4"),
    ("ctime_nsec", "u4"),
    ("mode", "u4"),
    ("uid", "u4"),
    ("gid", "u4"),
    ("nlink", "u4"),
    ("rdev_major", "u4"),
    ("rdev_minor", "u4"),
    ("path_len", "u4"),
    ("link_len", "u4"),
    ("xattr_len", "u4"),
    ("flags", "u4"),
    ("heap", "u1"),
    ("key", "u1"),
)
POLICIES = ("all", "docker", "none")
HEADER_SIZE = _FIXED.size + _COLUMN.size * len(COLUMNS) + 32


class Meta(NamedTuple):
    """What an index says about itself. ``keys_missing``: non-empty regular files without a content key."""

    entries: int
    racy_ns: int
    keys_missing: int
    dropped_xattrs: int
    content: bool
    xattrs: str


def aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def pack_header(meta: Meta, columns: list[tuple[int, int, bytes]], file_size: int) -> bytes:
    """``columns``: offset, length in bytes and blake3 of each block."""
    import blake3

    fixed = _FIXED.pack(
        MAGIC,
        VERSION,
        _ORDER_MARK,
        file_size,
        meta.entries,
        meta.racy_ns,
        meta.keys_missing,
        meta.dropped_xattrs,
        meta.content,
        POLICIES.index(meta.xattrs),
    )
    header = fixed + b"".join(_COLUMN.pack(*column) for column in columns)
    return header + blake3.blake3(header).digest()


def _damaged(name: str, why: str) -> IndexFormatError:
    return IndexFormatError(f"{name}: {why}: make the index again")


def read_header(file: BinaryIO, name: str) -> tuple[Meta, list[tuple[int, int, bytes]]]:
    """Checks and unpacks the header. Raises ``IndexFormatError``."""
    import blake3

    try:
        header = file.read(HEADER_SIZE)
    except OSError as exc:
        raise OperandError(f"{name}: {exc.strerror}: give an index that can be read") from exc
    if header[: len(MAGIC)] != MAGIC:
        raise _damaged(name, "is not a tree index")
    if len(header) < HEADER_SIZE:
        raise _damaged(name, "the index is cut short")
    _, version, mark, size, count, racy_ns, missing, dropped, content, policy = _FIXED.unpack_from(header)
    if mark != _ORDER_MARK:
        raise _damaged(name, "the index comes from a machine of another byte order")
    if version != VERSION:
        raise _damaged(name, f"the index has version {version}, this fastlayer knows {VERSION}")
    if blake3.blake3(header[:-32]).digest() != header[-32:]:
        raise _damaged(name, "the header of the index is damaged")
    if size != os.fstat(file.fileno()).st_size:
        raise _damaged(name, "the index is cut short or longer than it says")
    columns = [_COLUMN.unpack_from(header, _FIXED.size + i * _COLUMN.size) for i in range(len(COLUMNS))]
    if policy >= len(POLICIES):
        raise _damaged(name, "the header of the index is damaged")
    return Meta(count, racy_ns, missing, dropped, bool(content), POLICIES[policy]), columns


def verify_blocks(file: BinaryIO, columns: list[tuple[int, int, bytes]], name: str) -> None:
    """Reads every block once, in small pieces, and compares its checksum."""
    import blake3

    buffer = memoryview(bytearray(STEP))
    for (column, _), (offset, length, wanted) in zip(COLUMNS, columns, strict=True):
        hasher = blake3.blake3()
        for piece in _pieces(file.fileno(), offset, length, buffer, name):
            hasher.update(piece)
        if hasher.digest() != wanted:
            raise _damaged(name, f"column {column} of the index is damaged")


def _pieces(fd: int, offset: int, length: int, buffer: memoryview, name: str) -> Iterator[memoryview]:
    while length > 0:
        try:
            count = os.preadv(fd, [buffer[: min(length, len(buffer))]], offset)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", name) from exc
        if not count:
            raise _damaged(name, "the index is cut short")
        yield buffer[:count]
        offset, length = offset + count, length - count


def map_blocks(
    file: BinaryIO, meta: Meta, columns: list[tuple[int, int, bytes]], name: str
) -> dict[str, memoryview[int]]:
    """The blocks as bytes of a mapping of the file. Raises ``IndexFormatError`` for one that is not where it can be."""
    mapping = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    blocks = {}
    for (column, kind), (offset, length, _) in zip(COLUMNS, columns, strict=True):
        item = int(kind[1])
        if offset % _ALIGN or offset + length > len(mapping) or length % item:
            raise _damaged(name, f"column {column} of the index is out of place")
        wanted = {"heap": length, "key": 32 * meta.entries * meta.content}.get(column, item * meta.entries)
        if length != wanted:
            raise _damaged(name, f"column {column} of the index has the wrong length")
        blocks[column] = mapping[offset : offset + length]
    return blocks


def map_columns(
    file: BinaryIO, meta: Meta, columns: list[tuple[int, int, bytes]], name: str
) -> dict[str, np.ndarray[Any, Any]]:
    """The blocks as read-only arrays over a mapping of the file. Raises ``IndexFormatError`` for impossible ones."""
    import numpy as np

    blocks = map_blocks(file, meta, columns, name)
    arrays = {column: np.frombuffer(blocks[column], dtype=kind) for column, kind in COLUMNS}
    _check_heap(arrays, meta, name)
    return arrays


def _check_heap(arrays: dict[str, np.ndarray[Any, Any]], meta: Meta, name: str, step: int = 1 << 16) -> None:
    """Every entry's variable part lies within the heap: engines rely on it."""
    import numpy as np

    end = len(arrays["heap"])
    for start in range(0, meta.entries, step):
        rows = slice(start, start + step)
        offset = arrays["path_off"][rows]
        length = sum(arrays[column][rows].astype(np.uint64) for column in ("path_len", "link_len", "xattr_len"))
        if (offset > end).any() or (length > end - offset).any():
            raise _damaged(name, "an entry of the index points outside it")


def open_index(path: Any, name: str) -> tuple[BinaryIO, int]:
    """Opens the file. Raises ``OperandError``."""
    try:
        fd = os.dup(path) if isinstance(path, int) else open_quietly(path)
        file = os.fdopen(fd, "rb", buffering=0)
        file.seek(0)
        return file, os.fstat(fd).st_size
    except OSError as exc:
        raise OperandError(f"{name}: {exc.strerror}: give an index that can be read") from exc
