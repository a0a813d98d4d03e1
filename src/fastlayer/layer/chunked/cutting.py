"""Where a layer tar is cut into frames.

Frames of headers (with all that is between the bytes of two files: padding, headers of what has no bytes, the end of
the archive) end where the bytes of a file begin, or before 256 KiB. Frames of data are chunks of one file: its bytes
are cut by content (csrc/fl_chunk.h, 64 KiB, 256 KiB, 1 MiB). So the frames are a matter of the tar alone.

A batch is a buffer with whole frames and what is known of the entries that begin in it; the rest of the buffer goes to
the beginning of the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.layer.chunked.entries import BLOCK, Untold, clean, described, padding

if TYPE_CHECKING:
    from fastlayer._backend.contract import TarItem

BATCH = 2 << 20
HEADERS = 256 << 10  # the longest frame of headers
CHUNKS = (64 << 10, 256 << 10, 1 << 20)  # shortest, average, longest

HEAD, DATA, SKIP = range(3)


class Frame(NamedTuple):
    """Bytes ``start`` to ``stop`` of a buffer. ``last``: the file ends here. SKIP: does not go into the blob."""

    kind: int
    start: int
    stop: int
    last: bool = False


class Entry(NamedTuple):
    """An entry begins before frame ``at`` of its batch. ``text``: of its JSON object, empty if it has no table;
    ``header``: its blocks and what was before them since the entry before; ``size``: bytes that follow in frames."""

    at: int
    path: bytes
    text: str
    header: bytes
    size: int


class Batch(NamedTuple):
    """``tail``: what came after the last entry, for the archive's sake."""

    view: memoryview
    frames: list[Frame]
    entries: list[Entry]
    tail: bytes


class Cutter:
    """Fed with a tar, gives batches. ``problem``: why there can be no table, once it is known.

    ``reserved``: paths that do not go into the blob. ``own_end``: nor does the end of the archive, since other entries
    follow; of that ``ending`` counts the bytes, and ``missing`` what the padding of the last entry lacks.
    """

    def __init__(self, reserved: frozenset[bytes] = frozenset(), *, own_end: bool = False) -> None:
        self.problem = ""
        self.entries = self.payload = self.ending = 0
        self._reserved = reserved
        self.own_end = own_end
        self._scanner = _backend.engine().tarread.TarScanner()
        self._new_chunker = _backend.engine().chunk.Chunker
        self._chunker: Any = None
        self._view = memoryview(b"")
        self._base = 0  # offset of the view in the tar
        self._frame = 0  # where the frame that is open begins
        self._data = range(0)  # of the file whose bytes are passing
        self._fed = 0  # how far its chunker has come
        self._skip_end = 0  # before it nothing is taken
        self._entry_end = 0  # where the next header may begin
        self._sparse = False
        self._header_from = 0  # what is not yet in `_header`
        self._header: list[bytes] = []
        self._frames: list[Frame] = []
        self._found: list[Entry] = []
        self._names: set[bytes] = set()
        self._links: list[bytes] = []

    def feed(self, view: memoryview, new: int) -> Batch:
        """``view``: what the batch before left over, then ``new`` bytes. Raises ``LayerFormatError``."""
        self._view, self._frames, self._found = view, [], []
        fresh = len(view) - new
        for event in self._scanner.feed(view[fresh:]):
            if event[0] == "entry":
                self._begin(event[1])
            elif self._sparse:
                self._follow(event, self._base + fresh)
        end = self._base + len(view)
        if self.own_end and self._scanner.ended:
            self._close(end)
        else:
            self._advance(end)
        return self._batch(self._keep_header(end))

    def finish(self, view: memoryview) -> Batch:
        """The last one: all that was left over. Raises ``LayerFormatError`` where the tar was cut."""
        self._scanner.finish()
        self._view, self._frames, self._found = view, [], []
        end = self._base + len(view)
        if self.own_end:
            self._close(end)
        elif end > self._frame:
            self._cut(HEAD, end)
        if not self.problem and any(link not in self._names for link in self._links):
            self.problem = "a hard link to what is not in the layer"
        return self._batch(b"".join(self._header))

    @property
    def left(self) -> int:
        """How many bytes at the end of the latest view are for the next."""
        return len(self._view) - (self._frames[-1].stop if self._frames else 0)

    @property
    def missing(self) -> int:
        return max(0, self._entry_end - self._base)

    def _batch(self, tail: bytes) -> Batch:
        self._base = self._frame
        return Batch(self._view, self._frames, self._found, tail)

    # ---- entries -----------------------------------------------------------------------------------

    def _begin(self, item: TarItem) -> None:
        start = item.data_offset
        self._advance(start)
        begin, size = self._entry_end, 0 if item.sparse else item.size
        self._entry_end = start + size + padding(size)
        self._sparse = item.sparse
        self.entries += 1
        self.payload += item.size
        header, name = self._take_header(start), clean(item.path)
        if name in self._reserved and self._frame <= begin:
            self._skip(begin, start)
            return
        text = "" if self.problem else self._describe(item, name, header[len(header) - (start - begin) :])
        if size:
            self._begin_data(start, size)
        self._found.append(Entry(len(self._frames), item.path, text, header, size))

    def _begin_data(self, start: int, size: int) -> None:
        if start > self._frame:
            self._cut(HEAD, start)
        self._data = range(start, start + size)
        self._fed = start
        self._chunker = self._new_chunker(*CHUNKS) if size > CHUNKS[0] else None
        self._header_from = start + size

    def _describe(self, item: TarItem, name: bytes, blocks: bytes) -> str:
        try:
            if name in self._names:
                raise Untold(f"two entries of {name.decode('utf-8', 'backslashreplace')}")
            if name in self._reserved:
                raise Untold(f"a name of the format: {name.decode()}")
            self._names.add(name)
            if item.type == "1" and self.own_end:
                self._links.append(clean(item.link))
            return described(item, blocks)
        except Untold as exc:
            self.problem = str(exc)
            self._names.clear()
            self._links.clear()
            return ""

    def _follow(self, event: tuple[Any, ...], fresh: int) -> None:
        """Where the stored bytes of a sparse file end."""
        if event[0] == "data":
            self._entry_end = fresh + event[2]
        else:
            self._entry_end += padding(self._entry_end)
            self._sparse = False

    def _take_header(self, start: int) -> bytes:
        """All bytes since the entry before that are not of its file."""
        header = b"".join((*self._header, self._view[self._header_from - self._base : start - self._base]))
        self._header.clear()
        self._header_from = start
        return header

    def _keep_header(self, end: int) -> bytes:
        """What is not complete stays until the next batch; behind the last entry it is told piece by piece."""
        if self._header_from >= end:
            return b""
        if not self.problem:
            self._header.append(bytes(self._view[self._header_from - self._base :]))
        self._header_from = end
        if not self._scanner.ended:
            return b""
        tail = b"".join(self._header)
        self._header.clear()
        if not self.own_end and tail.count(0) != len(tail):
            self.problem = self.problem or "bytes behind the end of the archive"
        return tail

    # ---- frames ------------------------------------------------------------------------------------

    def _advance(self, end: int) -> None:
        """Cuts what is known to be complete of the bytes up to ``end``."""
        self._pass_skipped(end)
        if self._data:
            self._cut_data(min(end, self._data.stop))
        if not self._data:
            self._cut_headers(end)

    def _cut_data(self, end: int) -> None:
        final, start = end == self._data.stop, self._data.start
        if self._chunker is not None:
            for cut in self._chunker.feed(self._view[self._fed - self._base : end - self._base], final):
                self._cut(DATA, start + cut, last=start + cut == self._data.stop)
        elif final:
            self._cut(DATA, end, last=True)
        self._fed = end
        if final:
            self._data = range(0)

    def _cut_headers(self, end: int) -> None:
        """In blocks, so that the end of the archive is seen before a part of it is cut off."""
        limit = end // BLOCK * BLOCK
        while (cut := (self._frame + HEADERS) // BLOCK * BLOCK) <= limit:
            self._cut(HEAD, cut)

    def _cut(self, kind: int, end: int, *, last: bool = False) -> None:
        self._frames.append(Frame(kind, self._frame - self._base, end - self._base, last))
        self._frame = end

    def _skip(self, begin: int, start: int) -> None:
        if begin > self._frame:
            self._cut(HEAD, begin)
        self._header_from = self._skip_end = self._entry_end
        self._pass_skipped(start)

    def _pass_skipped(self, end: int) -> None:
        end = min(end, self._skip_end)
        if end > self._frame:
            self._cut(SKIP, end)

    def _close(self, end: int) -> None:
        """Nothing of what follows the last entry is taken."""
        last = min(end, self._entry_end)
        self._advance(last)
        if last > self._frame:
            self._cut(HEAD, last)
        if end > self._frame:
            self.ending += end - self._frame
            self._cut(SKIP, end)
