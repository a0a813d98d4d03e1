"""xz and bzip2: read wherever a tar is taken, by the standard library; no image layer is compressed with them.

Streams concatenate as `xz` and `bzip2` write them (xz: zeros between and after them are stream padding, The .xz File
Format 1.2.0, 2.2). Checksums are verified by the libraries; memory is bounded whatever a header asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from fastlayer.errors import LayerFormatError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastlayer.layer.decompress import Readable

MAX_MEMORY = 160 << 20  # bytes; `xz -9` needs 65 MiB to expand, `xz --lzma2=dict=128MiB` 129
_BUFFER = 256 << 10


class StreamReader:
    """The tar bytes of any xz or bzip2 file."""

    def __init__(self, source: Readable, codec: str) -> None:
        self._source = source
        self._codec = codec
        self._new, self._errors = _xz() if codec == "xz" else _bzip2()
        self._stream = self._new()
        self._room = bytearray(_BUFFER)
        self._rest = b""  # of the source, behind the stream that has ended

    def readinto(self, buffer: Any, /) -> int:
        """Up to len(buffer) bytes; 0 at the end, which has then been checked."""
        while len(buffer):
            if self._stream.eof and not self._next_stream():
                return 0
            if data := self._expand(len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _expand(self, length: int) -> bytes:
        given, self._rest = self._rest, b""
        if not given and self._stream.needs_input:
            given = self._read()
            if not given:
                self._bad("it ends too early")
        try:
            data = bytes(self._stream.decompress(given, length))
        except self._errors as exc:
            self._refuse(exc)
        if self._stream.eof:
            self._rest = self._stream.unused_data
        return data

    def _next_stream(self) -> bool:
        """Whether another stream follows; anything else that follows is refused."""
        padding = 0
        while True:
            self._rest = self._rest or self._read()
            if not self._rest:
                break
            stripped = self._rest.lstrip(b"\0") if self._codec == "xz" else self._rest
            padding += len(self._rest) - len(stripped)
            self._rest = stripped
            if stripped:
                break
        if padding % 4:
            self._bad("its padding is not a multiple of four bytes")
        if not self._rest:
            return False
        self._stream = self._new()
        return True

    def _read(self) -> bytes:
        return bytes(memoryview(self._room)[: self._source.readinto(self._room)])

    def _refuse(self, exc: BaseException) -> NoReturn:
        if isinstance(exc, MemoryError) or "emory usage limit" in str(exc):
            raise LimitError(
                f"{self._codec}: wants more than {MAX_MEMORY >> 20} MiB of memory: recompress with a smaller dictionary"
            ) from None
        self._bad((str(exc) or "invalid data").rstrip(".").lower())

    def _bad(self, why: str) -> NoReturn:
        raise LayerFormatError(f"{self._codec}: {why}: the layer is damaged, fetch it again") from None


def _xz() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_MEMORY), (lzma.LZMAError, MemoryError, EOFError)


def _bzip2() -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    import bz2

    return bz2.BZ2Decompressor, (OSError, ValueError, MemoryError, EOFError)
