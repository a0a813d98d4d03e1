"""The expanding side of the codecs: strict, bounded, and in parallel where the blob was cut into pieces.

A ``Reader`` turns the bytes of a blob into the bytes of its tar. It believes nothing it has not checked: checksums,
lengths, the end of every member and frame. Sizes that a blob claims are only used within fixed bounds, so that no claim
decides how much memory is taken.

gzip: RFC 1952; members concatenate; zeros after the last member are padding, anything else after it is refused.
zstd: RFC 8878; frames concatenate; skippable frames may stand anywhere; dictionaries are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol, cast

from fastlayer.errors import LayerFormatError, LimitError
from fastlayer.layer.compression import (
    GZIP_HEADER,
    GZIP_HEADER_SIZE,
    GZIP_MAGIC,
    GZIP_MEMBER,
    MAGIC_LENGTH,
    SKIPPABLE_MAGIC,
    ZSTD_FRAME,
    ZSTD_MAGIC,
    Packing,
    detect,
)
from fastlayer.layer.foreign import StreamReader

MAX_WINDOW = 128 << 20  # bytes of history a zstd frame may ask for (what `zstd -d` accepts by default)
MAX_PIECE = ZSTD_FRAME  # tar bytes of a frame that is expanded at once, by one thread
_MAX_MEMBER = GZIP_MEMBER + (GZIP_MEMBER >> 6) + 4096  # deflate cannot make a MiB longer than that
_MAX_FRAME = MAX_PIECE + (MAX_PIECE >> 6) + 4096
_BUFFER = 256 << 10
_PEEK = 4096  # bytes read ahead to look at a header
_GROUP = 256 << 10  # of a blob that may be one job, when it is many small pieces


class Readable(Protocol):
    """What readers take: ``readinto`` gives up to len(buffer) bytes, 0 at the end."""

    def readinto(self, buffer: Any, /) -> int: ...


class Reader(Protocol):
    """A stream of tar bytes."""

    def readinto(self, buffer: Any, /) -> int:
        """Up to len(buffer) bytes of tar; 0 at the end, which has then been checked."""
        ...


class Lookahead:
    """A stream one can look into: ``peek`` and ``take`` over any ``Readable``. Holds at most what was asked for."""

    def __init__(self, source: Readable) -> None:
        self.name = getattr(source, "name", "")  # for messages
        self._source = source
        self._held = bytearray()
        self._at = 0

    def peek(self, length: int) -> bytearray:
        """The next ``length`` bytes without taking them; fewer at the end."""
        self._fill(length)
        return self._held[self._at : self._at + length]

    def take(self, length: int) -> bytearray:
        """The next ``length`` bytes, read to where they stay; fewer at the end."""
        found = bytearray(length)
        done = 0
        with memoryview(found) as view:
            while done < length and (count := self.readinto(view[done:])):
                done += count
        del found[done:]
        return found

    def readinto(self, buffer: Any, /) -> int:
        """What is held first, then the source itself, not copied twice."""
        held = len(self._held) - self._at
        if not held:
            return self._source.readinto(buffer)
        count = min(held, len(buffer))
        buffer[:count] = self._held[self._at : self._at + count]
        self._at += count
        if self._at == len(self._held):
            self._held.clear()
            self._at = 0
        return count

    def detect(self) -> Packing:
        """The codec its first bytes show."""
        return detect(bytes(self.peek(MAGIC_LENGTH)))

    def _fill(self, length: int) -> None:
        missing = length - (len(self._held) - self._at)
        if missing <= 0:
            return
        if self._at:
            del self._held[: self._at]
            self._at = 0
        room = bytearray(max(missing, _PEEK))
        while missing > 0:
            count = self._source.readinto(room)
            if not count:
                return
            self._held += memoryview(room)[:count]
            missing -= count


def _bad(codec: str, why: str) -> NoReturn:
    raise LayerFormatError(f"{codec}: {why}: the layer is damaged, fetch it again")


# ---- one piece at a time -----------------------------------------------------------------------


def open_reader(source: Lookahead) -> tuple[Packing, Reader]:
    """The codec found in the first bytes, and a reader that works in the calling thread."""
    found = source.detect()
    if found == "gzip":
        return found, GzipReader(source)
    if found == "zstd":
        return found, ZstdReader(source)
    if found != "none":
        return found, StreamReader(source, found)
    return found, source


class GzipReader:
    """Any gzip stream, with ISA-L."""

    def __init__(self, source: Readable | bytearray) -> None:
        from isal import isal_zlib

        # The C reader behind isal.igzip.IGzipFile: the only one that inflates into a given buffer.
        given: Any = source if isinstance(source, bytearray) else _File(source)
        self._reader = isal_zlib._GzipReader(given, _BUFFER)
        self._errors: tuple[type[Exception], ...] = (EOFError, cast(Any, isal_zlib.error), OSError)

    def readinto(self, buffer: Any, /) -> int:
        try:
            return int(self._reader.readinto(buffer))
        except self._errors as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise
            _bad("gzip", _reason(exc))


class _File:
    """A ``Readable`` that C code recognises as a file, by its ``read``."""

    def __init__(self, source: Readable) -> None:
        self.readinto = source.readinto

    def read(self, size: int = -1, /) -> bytes:
        buffer = bytearray(size if size > 0 else _BUFFER)
        return bytes(memoryview(buffer)[: self.readinto(buffer)])


def _reason(exc: BaseException) -> str:
    if isinstance(exc, EOFError):
        return "it ends too early"
    return (str(exc).splitlines() or ["invalid data"])[0].rstrip(".").lower()


class ZstdReader:
    """Any zstd stream. The frames are walked beside the decoder, which by itself would not miss a cut-off end."""

    def __init__(self, source: Readable) -> None:
        import zstandard

        self._walker = FrameWalker(source)
        decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._reader = decoder.stream_reader(cast(Any, _File(self._walker)), read_size=_BUFFER, read_across_frames=True)
        self._error = zstandard.ZstdError

    def readinto(self, buffer: Any, /) -> int:
        try:
            count = int(self._reader.readinto(buffer))
        except self._error as exc:
            _bad("zstd", _zstd_reason(exc))
        if not count:
            self._walker.check_end()
        return count


def _zstd_reason(exc: BaseException) -> str:
    return str(exc).rpartition(": ")[2].lower() or "invalid data"


# ---- the framing of zstd -----------------------------------------------------------------------


class FrameHeader:
    """The fixed part of a zstd frame (RFC 8878, 3.1.1.1). ``content`` is None when the frame does not say."""

    __slots__ = ("checksum", "content", "length")

    def __init__(self, head: bytes | bytearray) -> None:
        """``head`` starts at the magic and has 18 bytes, or all there are."""
        if len(head) < 6:
            _bad("zstd", "it ends too early")
        descriptor = head[4]
        single = bool(descriptor & 0x20)
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        field = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        at = 5 + (0 if single else 1)
        self.length = at + dictionary + field
        self.checksum = bool(descriptor & 4)
        if len(head) < self.length:
            _bad("zstd", "it ends too early")
        if descriptor & 8:
            _bad("zstd", "reserved bit set in a frame header")
        if any(head[at : at + dictionary]):
            raise LayerFormatError("zstd: compressed with a dictionary, which is not supported: recompress without one")
        value = int.from_bytes(head[at + dictionary : self.length], "little") + (256 if field == 2 else 0)
        self.content: int | None = value if field else None
        window = value if single else _window(head[5])
        if window > MAX_WINDOW:
            raise LimitError(
                f"zstd: a frame wants a window of {window} bytes, more than {MAX_WINDOW}: recompress without --long"
            )


def _window(byte: int) -> int:
    base = 1 << (10 + (byte >> 3))
    return base + (base >> 3) * (byte & 7)


class FrameWalker:
    """Passes bytes on and follows the frames in them: where one ends, and that the last one does."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._head = bytearray()  # a header being collected
        self._skip = 0  # bytes to pass before the next header
        self._step = self._frame

    def readinto(self, buffer: Any, /) -> int:
        count = self._source.readinto(buffer)
        self._follow(memoryview(buffer)[:count])
        return count

    def check_end(self) -> None:
        """Raises ``LayerFormatError`` unless everything ended with a frame."""
        if self._skip or self._head or self._step != self._frame:
            _bad("zstd", "it ends too early")

    def _follow(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            self._head.append(data[at])
            at += 1
            self._step()

    def _frame(self) -> None:
        head = self._head
        if len(head) < 4:
            return
        if head[1:4] == SKIPPABLE_MAGIC and 0x50 <= head[0] <= 0x5F:
            if len(head) == 8:
                self._skip = int.from_bytes(head[4:8], "little")
                head.clear()
            return
        if head[:4] != ZSTD_MAGIC:
            _bad("zstd", "something that is no zstd frame follows the last frame")
        if len(head) >= 6 and len(head) == _header_length(head[4]):
            self._checksum = 4 if FrameHeader(head).checksum else 0
            head.clear()
            self._step = self._block

    def _block(self) -> None:
        if len(self._head) < 3:
            return
        last, stored = _block_header(self._head)
        self._head.clear()
        self._skip = stored
        if last:
            self._skip += self._checksum
            self._step = self._frame


def _header_length(descriptor: int) -> int:
    single = descriptor >> 5 & 1
    return 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]


def _block_header(head: bytes | bytearray) -> tuple[bool, int]:
    """(last block, stored bytes) of a block header (RFC 8878, 3.1.1.2)."""
    value = int.from_bytes(head[:3], "little")
    kind, size = value >> 1 & 3, value >> 3
    if kind == 3:
        _bad("zstd", "reserved block type")
    return bool(value & 1), 1 if kind == 1 else size


# ---- pieces for parallel work --------------------------------------------------------------------

Expand = Callable[[memoryview], int]  # into a buffer of PIECE_SIZE[codec] bytes; returns how many there are
PIECE_SIZE = dict.fromkeys(("none", "gzip", "xz", "bzip2"), GZIP_MEMBER) | {"zstd": MAX_PIECE}


def open_pieces(codec: Packing, source: Lookahead) -> Iterator[Expand | Reader]:
    """A blob as jobs that threads can do in any order, and readers for what cannot be cut; in the blob's order."""
    if codec == "gzip":
        return gzip_pieces(source)
    if codec == "zstd":
        return zstd_pieces(source)
    return iter((source if codec == "none" else StreamReader(source, codec),))


def gzip_pieces(source: Lookahead) -> Iterator[Expand | Reader]:
    """The members of a gzip blob as jobs, as long as they carry their length; then one reader for the rest, if any.

    Small members that follow each other are one job.
    """
    while True:
        head = source.peek(GZIP_HEADER_SIZE)
        if not head:
            return
        length = _member_length(head)
        if not length:
            if head[:2] != GZIP_MAGIC and any(head):
                _bad("gzip", "something that is no gzip member follows the last member")
            yield _Padding(source) if not any(head) else GzipReader(source)
            return
        group = _small_members(source.peek(_GROUP)) if length < _GROUP // 2 else 0
        member = source.take(group or length)
        if len(member) < length:
            _bad("gzip", "it ends too early")
        yield _member_job(member)


def _member_length(head: bytes | bytearray | memoryview) -> int:
    """Of the member that begins there, if it says so; else 0."""
    length = int.from_bytes(head[len(GZIP_HEADER) : GZIP_HEADER_SIZE], "little")
    return length if head[: len(GZIP_HEADER)] == GZIP_HEADER and GZIP_HEADER_SIZE < length <= _MAX_MEMBER else 0


def _small_members(data: bytearray) -> int:
    """How many bytes of data are whole members that fit one buffer together; 0: fewer than two do.

    What they say of their content is taken for granted here: a job whose content is larger is refused.
    """
    view = memoryview(data)
    at = content = count = 0
    while (length := _member_length(view[at : at + GZIP_HEADER_SIZE])) and at + length <= len(data):
        content += int.from_bytes(view[at + length - 4 : at + length], "little")
        if content > GZIP_MEMBER:
            break
        at += length
        count += 1
    return at if count > 1 else 0


def _member_job(member: bytearray) -> Expand:
    return lambda buffer: _read_piece(GzipReader(member), buffer, "gzip")


def _read_piece(reader: Reader, buffer: memoryview, codec: str) -> int:
    """All of a piece, which has to fit."""
    done = 0
    while done < len(buffer) and (count := reader.readinto(buffer[done:])):
        done += count
    if done == len(buffer) and reader.readinto(bytearray(1)):
        _bad(codec, "a piece is longer than it says")
    return done


class _Padding:
    """Zeros after the last gzip member, to the end of the blob."""

    def __init__(self, source: Lookahead) -> None:
        self._source = source

    def readinto(self, buffer: Any, /) -> int:
        room = bytearray(_BUFFER)
        while count := self._source.readinto(room):
            if any(memoryview(room)[:count]):
                _bad("gzip", "something that is no gzip member follows the last member")
        return 0


def zstd_pieces(source: Lookahead) -> Iterator[Expand | Reader]:
    """The frames of a zstd blob as jobs, as long as they say that they are small; then one reader for the rest.

    Very small ones that follow each other are one job.
    """
    while True:
        head = source.peek(18)
        if not head:
            return
        if head[:4] != ZSTD_MAGIC:
            yield ZstdReader(source)
            return
        header = FrameHeader(head)
        if header.content is None or header.content > MAX_PIECE:
            yield ZstdReader(source)
            return
        length, content = _small_frames(source.peek(_GROUP)) if header.content < _GROUP else (0, 0)
        if length:
            yield _frame_job(source.take(length), content)
        else:
            yield _frame_job(_take_frame(source, header), header.content)


def _small_frames(data: bytearray) -> tuple[int, int]:
    """How many bytes of data are whole frames that fit one buffer together, and what they say they expand to.

    0: fewer than two do.
    """
    at = content = count = 0
    while data[at : at + 4] == ZSTD_MAGIC:
        header = FrameHeader(data[at : at + 18]) if len(data) - at >= 18 else None
        if header is None or header.content is None or content + header.content > MAX_PIECE:
            break
        end = _frame_end(data, at + header.length, header)
        if end > len(data):
            break
        content += header.content
        count += 1
        at = end
    return (at, content) if count > 1 else (0, 0)


def _frame_end(data: bytearray, at: int, header: FrameHeader) -> int:
    """Where the frame ends whose first block is at ``at``; beyond the data if it is not all there."""
    last = False
    while not last:
        if at + 3 > len(data):
            return len(data) + 1
        last, stored = _block_header(data[at : at + 3])
        at += 3 + stored
    return at + (4 if header.checksum else 0)


def _take_frame(source: Lookahead, header: FrameHeader) -> bytes:
    """One whole frame, cut off at the length its blocks give."""
    parts = [source.take(header.length)]
    total, last = header.length, False
    while not last:
        block = source.take(3)
        if len(block) < 3:
            _bad("zstd", "it ends too early")
        last, stored = _block_header(block)
        stored += 4 if last and header.checksum else 0
        total += 3 + stored
        if total > _MAX_FRAME:
            _bad("zstd", "a frame is longer than its content size allows")
        body = source.take(stored)
        if len(body) < stored:
            _bad("zstd", "it ends too early")
        parts += (block, body)
    return b"".join(parts)


def _frame_job(frames: bytes | bytearray, content: int) -> Expand:
    return lambda buffer: _expand_frames(frames, content, buffer)


def _expand_frames(frames: bytes | bytearray, content: int, buffer: memoryview) -> int:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    reader = decoder.stream_reader(frames, read_across_frames=True)
    try:
        count = _read_piece(reader, buffer, "zstd")
    except zstandard.ZstdError as exc:
        _bad("zstd", _zstd_reason(exc))
    if count != content:
        _bad("zstd", "a frame is not as long as it says")
    return count
