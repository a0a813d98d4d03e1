"""Directory trees as flat records: contracts in ``fastlayer._backend`` (``Scanner``, ``ReadMany``)."""

from collections.abc import Sequence

from _typeshed import WriteableBuffer

class Scanner:
    @property
    def entries(self) -> int: ...
    @property
    def skipped_sockets(self) -> int: ...
    @property
    def dropped_xattrs(self) -> int: ...
    def __init__(
        self,
        root_fd: int,
        *,
        xattrs: str = "all",
        only: Sequence[bytes] | None = None,
        ignore: bytes | None = None,
    ) -> None: ...
    def next_batch(self, n: int = 4096) -> tuple[bytes, bytes] | None: ...

def read_many(root_fd: int, paths: Sequence[bytes], buffer: WriteableBuffer) -> list[int]: ...
