"""Change tables and the lockstep differ: contracts in ``fastlayer._backend``."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

class Row(NamedTuple):
    """See ``fastlayer._backend.Row``."""

    kind: str
    what: int
    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: tuple[int, int]
    link: bytes
    leader: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]

class ChangeTable:
    """See ``fastlayer._backend.ChangeTable``. Made by differs only; never changes afterwards."""

    @property
    def skipped_sockets(self) -> int: ...
    @property
    def dropped_xattrs(self) -> int: ...
    def __len__(self) -> int: ...
    def row(self, number: int) -> Row: ...
    def rows(self, start: int = 0, stop: int | None = None) -> list[Row]: ...
    def records(self) -> memoryview: ...
    def heap(self) -> memoryview: ...

class TableBuilder:
    """See ``fastlayer._backend.TableBuilder``."""

    def __init__(self) -> None: ...
    def add(self, rows: Iterable[tuple[Any, ...]]) -> None: ...
    def finish(self) -> ChangeTable: ...

class Differ:
    """See ``fastlayer._backend.Differ``. Directory descriptors stay the caller's and must outlive the differ.

    ``threads``: 0 walks within ``step``; otherwise each directory is walked by a thread of its own, ahead of ``step``.
    """

    entries: int
    bytes_compared: int

    def __init__(
        self,
        a: Any,
        b: Any,
        *,
        compare: str = "auto",
        xattrs: str = "all",
        details: bool = False,
        threads: int = 2,
        only: Sequence[bytes] | None = None,
        shared_until_ns: int = 0,
    ) -> None: ...
    def step(self) -> bool: ...
    def unverified(self) -> list[tuple[int, bytes, bytes]]: ...
    def settle(self, ticket: int, equal: bool) -> None: ...
    def finish(self) -> ChangeTable: ...
