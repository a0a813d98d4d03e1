"""Writing a table of contents: the JSON of both formats, entry by entry as the blob grows.

The members that both have are those of CRFS' stargz; what differs is said by the two subclasses' ``_of_file``.
"""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.layer.chunked.cutting import Entry
from fastlayer.layer.chunked.spool import Spool
from fastlayer.layer.chunked.sums import Sum


class Chunk(NamedTuple):
    """``offset`` in the blob, ``begin`` and ``size`` in the file."""

    offset: int
    begin: int
    size: int
    sum: Sum


class Contents:
    """``begin`` an entry, then ``chunk`` for each of its frames; ``close``."""

    def __init__(self) -> None:
        self.spool = Spool()
        self._separator = '{"version":1,"entries":[\n'
        self._entry: Entry | None = None
        self._chunks: list[Chunk] = []
        self._done = 0

    def begin(self, entry: Entry) -> None:
        if entry.size:
            self._entry, self._done = entry, 0
        else:
            self._add(entry.text)

    def chunk(self, offset: int, size: int, end: int, found: Sum) -> Entry | None:
        """The next bytes of the file, at ``offset`` to ``end`` of the blob. Returns the entry when it is complete."""
        self._chunks.append(Chunk(offset, self._done, size, found))
        self._done += size
        entry = self._entry
        if entry is None or self._done < entry.size:
            return None
        for text in self._of_file(entry, self._chunks, end):
            self._add(text)
        self._entry = None
        self._chunks.clear()
        return entry

    def close(self, members: str = "") -> Spool:
        """``members``: of the table itself, behind its entries."""
        self.spool.add(f"{self._separator if self._separator != _NEXT else ''}\n]{members}}}\n".encode())
        self.spool.close()
        return self.spool

    def _add(self, text: str) -> None:
        self.spool.add(f"{self._separator}{{{text}}}".encode())
        self._separator = _NEXT

    def _of_file(self, entry: Entry, chunks: list[Chunk], end: int) -> list[str]:
        raise NotImplementedError


_NEXT = ",\n"


def name_of(entry: Entry) -> str:
    """As JSON; entries with a table have names that are UTF-8."""
    from json.encoder import encode_basestring

    return encode_basestring(entry.path.decode())


class ZstdContents(Contents):
    """As containers/storage has it: files of several chunks say so in every one of them."""

    def _of_file(self, entry: Entry, chunks: list[Chunk], end: int) -> list[str]:
        first, last = chunks[0], chunks[-1]
        place = f'"digest":"sha256:{last.sum.file}","offset":{first.offset},"endOffset":{end}'
        if len(chunks) == 1:
            return [f"{entry.text},{place}"]
        name = name_of(entry)
        return [f"{entry.text},{place},{_chunk(first)}"] + [
            f'"type":"chunk","name":{name},"offset":{chunk.offset},{_chunk(chunk)}' for chunk in chunks[1:]
        ]


def _chunk(chunk: Chunk) -> str:
    begin = f'"chunkOffset":{chunk.begin},' if chunk.begin else ""
    zeros = ',"chunkType":"zeros"' if chunk.sum.zeros else ""
    return f'"chunkSize":{chunk.size},{begin}"chunkDigest":"sha256:{chunk.sum.chunk}"{zeros}'


class StargzContents(Contents):
    """As stargz-snapshotter has it: the last chunk has no size, and every one its digest."""

    def _of_file(self, entry: Entry, chunks: list[Chunk], end: int) -> list[str]:
        name = name_of(entry)
        found = []
        for number, chunk in enumerate(chunks):
            size = f',"chunkSize":{chunk.size}' if number < len(chunks) - 1 else ""
            begin = f',"chunkOffset":{chunk.begin}' if chunk.begin else ""
            text = f'"type":"chunk","name":{name}'
            if not number:  # the others do not say where it ends; who pulls in part wants to know (toc.py)
                text = f'{entry.text},"digest":"sha256:{chunks[-1].sum.file}","endOffset":{end}'
            found.append(f'{text},"offset":{chunk.offset}{begin}{size},"chunkDigest":"sha256:{chunk.sum.chunk}"')
        return found
