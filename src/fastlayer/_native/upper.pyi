"""The overlay fast path: contract in ``fastlayer._backend.Differ``."""

from collections.abc import Sequence

from fastlayer._native.changes import ChangeTable

class UpperDiffer:
    entries: int
    bytes_compared: int

    def __init__(
        self,
        upper_fd: int,
        lower_fds: Sequence[int],
        *,
        compare: str = "auto",
        xattrs: str = "all",
        userxattr: bool = False,
        details: bool = False,
    ) -> None: ...
    def step(self) -> bool: ...
    def unverified(self) -> list[tuple[int, bytes, bytes]]: ...
    def settle(self, ticket: int, equal: bool) -> None: ...
    def old_place(self, path: bytes) -> tuple[int, bytes] | None: ...
    def finish(self) -> ChangeTable: ...
