"""What the last build knew of a context: a file below ``<store>/cache/contexts``, named after what it is about.

::

    0    magic "fastlayer-tree\\n\\0", u32 version, u32 byte-order mark, u64 entries, u64 batches
    40   32 bytes blake3 of all that follows
    72   u64 length of the heap of each batch
    ...  the records of all batches, their heaps, a byte (kind) for each entry, 32 bytes (key) for each entry

It is a help and no more: a file that is missing, damaged, or of another version or machine is not used, and one that
cannot be written is not. It is replaced by renaming, so any number of processes may use one. Only keys that no later
change can make untrue are in it (``Digests.lasting``).
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastlayer.builder.context.nodes import KEY
from fastlayer.builder.context.table import BATCH, SIZE, Batch, Table
from fastlayer.builder.context.takeover import Known

if TYPE_CHECKING:
    import mmap

    from fastlayer.builder.context.digests import Digests

_MAGIC = b"fastlayer-tree\n\0"
_VERSION = 1
_ORDER_MARK = 0x01020304
_FIXED = struct.Struct("=16sIIQQ")
_START = _FIXED.size + 32
_STEP = 16 << 20
_MAX_FILES = 64
_MAX_BYTES = 1 << 30  # of all files
_UNFINISHED = ".new-"
_HOUR = 3600.0


def name_of(*about: object) -> str:
    """The file's name for what determines the tree: its place, patterns, rules."""
    from blake3 import blake3

    text = "\0".join([str(_VERSION), *map(repr, about)])
    return blake3(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def load(directory: str, name: str) -> Known | None:
    """What is remembered; None: nothing that can be used."""
    import mmap

    path = os.path.join(directory, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_size <= _START or status.st_uid != os.geteuid():
            return None
        mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        if time.time() - status.st_mtime > _HOUR:  # used last: what is swept is what is oldest
            _touch(path)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    return _understood(mapped)


def _touch(path: str) -> None:
    try:
        os.utime(path, follow_symlinks=False)
    except OSError:
        pass  # of a store that cannot be written


def _understood(mapped: mmap.mmap) -> Known | None:
    magic, version, mark, count, batches = _FIXED.unpack_from(mapped)
    if (magic, version, mark) != (_MAGIC, _VERSION, _ORDER_MARK) or batches != -(-count // BATCH):
        return None
    heaps_at = _START + 8 * batches + SIZE * count
    if heaps_at > len(mapped) or mapped[_FIXED.size : _START] != _checksum(mapped):
        return None
    heaps = struct.unpack_from(f"={batches}Q", mapped, _START)
    kinds_at = heaps_at + sum(heaps)
    if kinds_at + (1 + KEY) * count != len(mapped):
        return None
    table = Table(list(_cut(mapped, count, heaps, heaps_at)))
    return Known(table, mapped[kinds_at : kinds_at + count], mapped, kinds_at + count)


def _cut(mapped: mmap.mmap, count: int, heaps: tuple[int, ...], heap_at: int) -> Iterator[Batch]:
    records_at = _START + 8 * len(heaps)
    for number, heap in enumerate(heaps):
        entries = min(BATCH, count - number * BATCH)
        yield Batch(entries, mapped, records_at, mapped, heap_at, heap)
        records_at += entries * SIZE
        heap_at += heap


def _checksum(mapped: mmap.mmap) -> bytes:
    import mmap as maps

    from blake3 import blake3

    hasher = blake3()
    with memoryview(mapped) as view:
        for at in range(_START, len(mapped), _STEP):
            hasher.update(view[at : at + _STEP])
            if len(mapped) > 2 * _STEP:
                mapped.madvise(maps.MADV_DONTNEED)
    return hasher.digest()


def save(directory: str, name: str, digests: Digests) -> bool:
    """Replaces what is remembered; False where that cannot be."""
    temporary = os.path.join(directory, f"{_UNFINISHED}{os.getpid()}-{time.monotonic_ns()}")
    try:
        _make(os.path.dirname(directory))
        _make(directory)
        _write(temporary, digests)
        os.rename(temporary, os.path.join(directory, name))
        sweep(directory)
        return True
    except OSError:  # the store is full, read-only, not ours: the next build hashes again
        return False
    finally:
        _unlink(temporary)


def _make(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass


def _write(path: str, digests: Digests) -> None:
    from blake3 import blake3

    batches = digests.table.batches
    hasher = blake3()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=1 << 20) as file:
        file.write(bytes(_START))
        for piece in _pieces(digests):
            hasher.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(_FIXED.pack(_MAGIC, _VERSION, _ORDER_MARK, digests.table.count, len(batches)) + hasher.digest())


def _pieces(digests: Digests) -> Iterator[bytes | bytearray]:
    batches = digests.table.batches
    yield struct.pack(f"={len(batches)}Q", *(batch.heap_size for batch in batches))
    for batch in batches:
        yield batch.all_records()
    digests.table.relax()
    for batch in batches:
        yield batch.all_heap()
    digests.table.relax()
    yield digests.lasting()
    yield digests.keys


def sweep(directory: str, *, files: int = _MAX_FILES, size: int = _MAX_BYTES) -> None:
    """Removes what was used least recently, beyond so many files and bytes, and what was left half-written."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if not entry.name.startswith(_UNFINISHED):
                found.append((status.st_mtime, status.st_size, entry.path))
            elif time.time() - status.st_mtime > _HOUR:
                _unlink(entry.path)
    held = 0
    for number, (_, length, path) in enumerate(sorted(found, reverse=True)):
        held += length
        if number and (number >= files or held > size):
            _unlink(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
