"""The codecs of a layer blob: names, extensions, detection by content, and the compressing side.

A compressed layer is a run of independent pieces, so that threads can work on different pieces and so that the bytes
never depend on how many threads there were:

* gzip: one member per MiB of tar. Each member carries, in an RFC 1952 extra subfield ``FL``, its own compressed length;
  readers that know it (``decompress``) inflate members in parallel, all others skip it. mtime is 0, OS is 255.
  Levels 0-3 are ISA-L's, 4-9 are zlib's.
* zstd: one frame per 4 MiB of tar, each with its content size and a checksum.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, UsageError, show_path

Compression = Literal["none", "gzip", "zstd"]
Packing = Literal["none", "gzip", "zstd", "xz", "bzip2"]  # what is read; the last two make no layer of an image

GZIP_MEMBER = 1 << 20  # tar bytes per gzip member
ZSTD_FRAME = 4 << 20  # tar bytes per zstd frame
_PLAIN_BLOCK = 1 << 20

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # bytes 1-3; byte 0 is 0x50..0x5f
_XZ_MAGIC = b"\xfd7zXZ\x00"
_BZIP2_MAGIC = b"BZh"  # and a digit
MAGIC_LENGTH = 6  # bytes that `detect` wants to see
_REFUSED = {b"\x04\x22\x4d\x18": "lz4", b"LZIP": "lzip", b"PK\x03\x04": "zip"}

SUBFIELD = b"FL\x04\x00"  # RFC 1952 2.3.1.1: SI1 SI2 LEN; then u32 length of the whole member
# ID1 ID2 CM FLG(FEXTRA) MTIME=0 XFL OS=255 XLEN=8 subfield
GZIP_HEADER = GZIP_MAGIC + b"\x08\x04" + bytes(4) + b"\x00\xff" + b"\x08\x00" + SUBFIELD
GZIP_HEADER_SIZE = len(GZIP_HEADER) + 4
GZIP_TRAILER_SIZE = 8
_DEFLATE_END = b"\x03\x00"  # the last block of a deflate stream, empty (RFC 1951 3.2.6)
_DEFLATE_BOUND = GZIP_MEMBER + (GZIP_MEMBER >> 6) + 1024  # room for a member of random bytes

_EXTENSIONS = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".gzip": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".tzst": "zstd",
}
# of compressors that are not here: a plain tar under such a name would mislead
_OTHER_EXTENSIONS = (
    *(".xz", ".txz", ".lzma", ".tlz", ".lz", ".lzo", ".lz4", ".br", ".sz"),
    *(".bz2", ".bzip2", ".tbz", ".tbz2", ".tb2", ".z", ".taz", ".zip", ".7z", ".rar"),
)
_LEVELS = {"gzip": (0, 9, 1), "zstd": (1, 22, 2)}  # lowest, highest, default
CHUNKED: dict[str, Literal["gzip", "zstd"]] = {"zstd:chunked": "zstd", "estargz": "gzip"}  # their codecs


def by_name(name: str | bytes | os.PathLike[Any]) -> Compression:
    """What a file name asks for: ``.gz`` gzip, ``.zst`` zstd, anything else none.

    Raises ``UsageError`` for the extension of another compressor.
    """
    extension = os.path.splitext(os.fsdecode(name))[1].lower()
    if extension in _OTHER_EXTENSIONS:
        raise UsageError(
            f"{show_path(os.fsencode(name))}: cannot compress as {extension}: name it .tar, .tar.gz or .tar.zst, "
            "or say which compression is meant"
        )
    return cast(Compression, _EXTENSIONS.get(extension, "none"))


def detect(head: bytes) -> Packing:
    """The codec of a blob from its first bytes (``MAGIC_LENGTH`` of them, fewer when the blob is shorter).

    Anything that is no known compression is taken for a plain tar, whose reader has the last word.
    Raises ``LayerFormatError`` for codecs that are recognised but not supported.
    """
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == SKIPPABLE_MAGIC and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(_XZ_MAGIC):
        return "xz"
    if head.startswith(_BZIP2_MAGIC) and head[3:4].isdigit():
        return "bzip2"
    for magic, name in _REFUSED.items():
        if head.startswith(magic):
            raise LayerFormatError(f"compressed with {name}, which is not supported: recompress with gzip, zstd or xz")
    return "none"


class Codec(Protocol):
    """The compressing side of one codec. ``compress`` may be called from several threads at once."""

    name: Compression
    block_size: int  # tar bytes per piece; pieces follow each other in the blob

    def compress(self, block: Any) -> bytes:
        """One piece, on its own. An empty block gives a valid empty blob."""
        ...


class Plain:
    """No compression: ``compress`` hands its input back."""

    name: Compression = "none"
    block_size = _PLAIN_BLOCK

    def compress(self, block: Any) -> bytes:
        return cast(bytes, block)


class Gzip:
    """Independent gzip members (RFC 1952)."""

    name: Compression = "gzip"
    block_size = GZIP_MEMBER

    def __init__(self, level: int) -> None:
        self._deflate = _isal_deflate(level) if level <= 3 else _zlib_deflate(level)

    def compress(self, block: Any) -> bytes:
        body, crc = self._deflate(block)
        length = GZIP_HEADER_SIZE + len(body) + len(_DEFLATE_END) + GZIP_TRAILER_SIZE
        trailer = crc.to_bytes(4, "little") + len(block).to_bytes(4, "little")
        return b"".join((GZIP_HEADER, length.to_bytes(4, "little"), body, _DEFLATE_END, trailer))


Deflate = Callable[[Any], tuple[bytes, int]]  # a block -> its deflate blocks, none of them the last; its crc32


def _isal_deflate(level: int) -> Deflate:
    from isal import isal_zlib

    local = threading.local()  # a compressor must not be shared between threads
    stored = _zlib_deflate(0)

    def deflate(block: Any) -> tuple[bytes, int]:
        compressor = getattr(local, "compressor", None)
        if compressor is None:
            # What isal.igzip_threaded works with: it keeps its state and its output buffer from block to block, where
            # isal_zlib.compress allocates both anew and spends a third of its time in page faults.
            compressor = local.compressor = isal_zlib._ParallelCompress(_DEFLATE_BOUND, level)
        try:
            return cast(tuple[bytes, int], compressor.compress_and_crc(block, b""))
        except OverflowError:  # level 0 makes some blocks longer than the room there is; the compressor is lost then
            local.compressor = None
            return stored(block)

    return deflate


def _zlib_deflate(level: int) -> Deflate:
    import zlib

    def deflate(block: Any) -> tuple[bytes, int]:
        compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
        return compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH), zlib.crc32(block)

    return deflate


class Zstd:
    """Independent zstd frames (RFC 8878)."""

    name: Compression = "zstd"
    block_size = ZSTD_FRAME

    def __init__(self, level: int, *, small_tables: bool = False) -> None:
        """``small_tables``: a match table that stays in a core's cache; a tenth faster for a hundredth more bytes."""
        import zstandard

        tables = {"hash_log": 15} if small_tables else {}
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, write_checksum=True, write_content_size=True, **tables
        )
        self._new: Any = lambda: zstandard.ZstdCompressor(compression_params=parameters)
        self._local = threading.local()  # a compressor must not be shared between threads

    def compress(self, block: Any) -> bytes:
        return cast(bytes, self.compressor().compress(block))

    def compressor(self) -> Any:
        """The one of this thread."""
        found = getattr(self._local, "compressor", None)
        if found is None:
            found = self._local.compressor = self._new()
        return found


class Chunked(NamedTuple):
    """A format whose files can be fetched one by one; ``layer/chunked`` writes it, and cuts the tar as it is made of.

    ``base``: the codec of its frames; ``block_size``: tar bytes of a buffer.
    """

    name: str
    base: Literal["gzip", "zstd"]
    level: int | None
    block_size: int = 2 << 20


def check_level(compression: str, level: int | None) -> int:
    """The level to use; raises ``UsageError`` for an unknown codec or a level it does not have."""
    if compression not in ("none", *_LEVELS, *CHUNKED):
        raise UsageError(f"unknown compression {compression!r}: use none, gzip, zstd, zstd:chunked or estargz")
    if compression == "none":
        if level is not None:
            raise UsageError("a level without compression means nothing: choose gzip or zstd")
        return 0
    lowest, highest, default = _LEVELS[CHUNKED.get(compression, compression)]
    if level is None:
        return default
    if isinstance(level, bool) or not lowest <= level <= highest:
        raise UsageError(f"{compression} has the levels {lowest} to {highest}, not {level}")
    return level


def layer_codec(compression: str, level: int | None = None) -> Codec | Chunked:
    """What a layer can be written with: ``codec``, ``zstd:chunked``, ``estargz``."""
    if compression not in CHUNKED:
        return codec(compression, level)
    check_level(compression, level)
    return Chunked(compression, CHUNKED[compression], level)


def codec(compression: str, level: int | None = None) -> Codec:
    """The codec of that name and level (None: its default)."""
    checked = check_level(compression, level)
    if compression in CHUNKED:
        raise UsageError(f"{compression} is for layers of images: use none, gzip or zstd")
    if compression == "gzip":
        return Gzip(checked)
    if compression == "zstd":
        return Zstd(checked, small_tables=level is None)
    return Plain()
