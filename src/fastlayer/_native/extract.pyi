from collections.abc import Sequence
from typing import NamedTuple

from _typeshed import ReadableBuffer

from fastlayer._native.changes import ChangeTable

class ExtractStats(NamedTuple):
    """See ``fastlayer._backend.ExtractStats``."""

    entries: int
    payload: int
    whiteouts: int
    warnings: tuple[str, ...]
    skipped_xattrs: int
    needs_lower: bool

class Extractor:
    """See ``fastlayer._backend.Extractor``; what it decides in odd cases is written in csrc/fl_extract.h.

    ``uid_map``, ``gid_map``: ``(inside, outside, count)`` ranges; an id outside them is refused. ``ignore_chown``:
    owners that may not be set are left, and then set-id bits are, too. ``skip_devices``: devices that may not be made
    are left out, with the hard links to them in the same layer, and counted in one warning. Limits of 0 are none and
    count per layer; ``max_size``: bytes of all regular files, holes included. ``entries`` and ``payload`` count over
    all layers.
    """

    entries: int
    payload: int
    shared_bytes: int
    copied_bytes: int
    donated_bytes: int
    def __init__(
        self,
        target_fd: int,
        *,
        format: str = "dir",
        uid_map: tuple[tuple[int, int, int], ...] | None = None,
        gid_map: tuple[tuple[int, int, int], ...] | None = None,
        ignore_chown: bool = False,
        skip_devices: bool = False,
        max_entries: int = 0,
        max_size: int = 0,
        max_file_size: int = 0,
        max_pax: int = 1 << 20,
        fsync: bool = False,
        donor: int = -1,
    ) -> None: ...
    def begin_layer(self) -> None: ...
    def feed(self, buffer: ReadableBuffer) -> None: ...
    def feed_extent(self, fd: int, offset: int, length: int) -> None: ...
    def place(
        self, table: ChangeTable, roots: Sequence[int], clamp_mtime: int | None = None, *, jobs: int = 1
    ) -> bool: ...
    def end_layer(self) -> ExtractStats: ...
    def abort(self) -> None: ...
