"""The layer tar of a change table: contract in ``fastlayer._backend.Encoder``."""

from collections.abc import Sequence

from _typeshed import WriteableBuffer

from fastlayer._native.changes import ChangeTable

class Encoder:
    entries: int
    payload: int

    def __init__(self, table: ChangeTable, roots: Sequence[int], clamp_mtime: int | None = None) -> None: ...
    def readinto(self, buffer: WriteableBuffer, /) -> int: ...
