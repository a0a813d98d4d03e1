from typing import Any, NamedTuple

class TarItem(NamedTuple):
    """One entry of a tar, extended headers applied (csrc/fl_tar.h)."""

    type: str  # "0" file, "1" hard link, "2" symlink, "3" char, "4" block device, "5" directory, "6" fifo
    path: bytes  # as in the archive: not normalised, may be empty, absolute or hold ".."
    link: bytes  # target of "1" and "2", else b""
    mode: int  # 07777 bits
    uid: int
    gid: int
    mtime_ns: int
    size: int  # logical bytes of a file, holes included; else 0
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]  # sorted by name
    data_offset: int  # archive offset of the first stored body byte
    sparse: bool  # the stored bytes are not simply the file's bytes

class TarScanner:
    """See ``fastlayer._backend.TarScanner``."""

    def __init__(self, max_pax: int = 1 << 20) -> None: ...
    @property
    def offset(self) -> int: ...
    @property
    def ended(self) -> bool: ...
    def feed(self, buffer: Any) -> list[tuple[Any, ...]]: ...
    def finish(self) -> None: ...
