"""Reading a tar as it goes by: contract in ``fastlayer._backend.TarScanner``, rules in docs/formats.md.

``TarParser`` is one coroutine that reads top to bottom like a description of the format: it yields events, and None
where it needs more input. What must be refused raises ``LayerFormatError`` with the offset in the archive, or
``LimitError`` for an extended header or sparse map beyond ``max_pax`` bytes. Names are raw bytes: neither normalised
nor checked. Memory is bounded by ``max_pax``, whatever sizes the archive claims.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from fastlayer._baseline import numbers, pax, sparse
from fastlayer._baseline.header import BLOCK, padding
from fastlayer._values import NamedTuple
from fastlayer.errors import LayerFormatError, LimitError, UsageError, show_path

_ID_MAX = 2**32 - 2  # 2^32-1 means "leave as it is" to chown
_RDEV_MAX = (4095, 1048575)
_GNU_MAGIC = b"ustar  \0"

Event = tuple[Any, ...]
_Machine = Generator[Event | None, None, None]
_MAX_TRAILING = 256 << 20  # bytes after the end of the archive


class TarItem(NamedTuple):
    """One entry of a tar, extended headers applied (_native/tarread.pyi says what each field means)."""

    type: str
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    data_offset: int
    sparse: bool


class _Refused(Exception):
    """Something in the archive is wrong: the reason, to which the parser adds the place."""


class _Block:
    """The fields of a header block."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.type = data[156:157]

    def number(self, start: int, width: int, what: str) -> int:
        try:
            return numbers.field(self.data[start : start + width])
        except ValueError:
            raise _Refused(f"malformed {what} in a header") from None

    def count(self, start: int, width: int, what: str) -> int:
        value = self.number(start, width, what)
        if value < 0:
            raise _Refused(f"negative {what} in a header")
        return value

    def text(self, start: int, width: int) -> bytes:
        return self.data[start : start + width].split(b"\0", 1)[0]

    def name(self) -> bytes:
        """Only the POSIX magic says that there is a prefix: GNU and V7 headers have other things there, and star's
        prefix is shorter."""
        name = self.text(0, 100)
        if self.data[257:263] != b"ustar\0":
            return name
        prefix = self.text(345, 131 if self.data[508:512] == b"tar\0" else 155)
        return prefix + b"/" + name if prefix else name

    def checksum_fits(self) -> bool:
        """The sum of all bytes, its own field as blanks. Old writers summed signed chars."""
        try:
            want = numbers.octal(self.data[148:156])
        except ValueError:
            return False
        rest = self.data[:148] + b" " * 8 + self.data[156:]
        unsigned = sum(rest)
        return want in (unsigned, unsigned - 256 * sum(byte >> 7 for byte in rest))


class TarParser:
    """A push parser: ``parse(buffer)`` yields the events of ``_backend.TarScanner.feed`` one by one."""

    def __init__(self, max_pax: int = 1 << 20) -> None:
        self.offset = 0
        self.ended = False
        self.body_left = 0  # stored bytes of the file at hand that are still to come
        self._max_pax = max_pax
        self._buffer = memoryview(b"")
        self._at = 0  # bytes of _buffer already taken
        self._inside = ""  # what an archive that stopped here would be cut inside; "" between entries
        self._extended: dict[bytes, Any] = {}  # x, L, K: extended headers that wait for their entry
        self._entry_at = 0  # offset of the latest header
        self._path = b""  # of the entry being read
        self._machine: _Machine | None = self._archive()

    def parse(self, buffer: Any) -> Iterator[Event]:
        """Takes all of buffer; must be read to its end before the next call."""
        self._buffer, self._at = memoryview(buffer).cast("B"), 0
        machine, self._machine = self._machine, None  # gone for good if it raises
        if machine is None:
            raise UsageError("tar reader used after an error")
        try:
            while (event := next(machine)) is not None:
                yield event
        except (_Refused, ValueError) as exc:
            raise LayerFormatError(f"{self._name()}{exc} (at byte {self._entry_at})") from None
        self._machine = machine

    def finish(self) -> None:
        """The input ended. Only the last padding may be missing."""
        if self.ended:
            return
        if self._inside:
            raise LayerFormatError(f"{self._name()}archive is cut inside {self._inside} (at byte {self.offset})")
        if self._extended:
            raise LayerFormatError(f"archive ends after an extended header (at byte {self.offset})")

    def _name(self) -> str:
        return show_path(self._path) + ": " if self._path else ""

    # ---- input

    def _advance(self, n: int) -> None:
        self._at += n
        self.offset += n

    def _take(self, n: int) -> Generator[Event | None, None, bytes]:
        """The next n bytes; the caller has bounded n."""
        taken = bytearray()
        while len(taken) < n:
            piece = self._buffer[self._at : self._at + n - len(taken)]
            taken += piece
            self._advance(len(piece))
            if len(taken) < n:
                yield None
        return bytes(taken)

    def _skip(self, n: int) -> _Machine:
        while n:
            step = min(n, len(self._buffer) - self._at)
            self._advance(step)
            n -= step
            if n:
                yield None

    # ---- the archive

    def _archive(self) -> _Machine:
        while True:
            self._inside = ""
            while self._at == len(self._buffer):
                yield None
            self._entry_at, self._path = self.offset, b""
            self._inside = "a header"
            block = _Block((yield from self._take(BLOCK)))
            if not any(block.data):  # one zero block is the end: readers that want two stop or disagree
                break
            if not block.checksum_fits():
                raise _Refused("header checksum does not fit")
            self._inside = "an entry"
            yield from self._extended_header(block) if block.type in b"xgLK" else self._entry(block)
        if self._extended:
            raise _Refused("extended header without an entry")
        self.ended = True
        trailing = 0  # padding, or anything else, but not without an end: the input may be an endless device
        while True:
            trailing += len(self._buffer) - self._at
            if trailing > _MAX_TRAILING:
                raise LayerFormatError(f"more than {_MAX_TRAILING >> 20} MiB follow the end of the archive")
            self._advance(len(self._buffer) - self._at)
            yield None

    def _pad(self, size: int) -> _Machine:
        self._inside = ""  # an archive may lack its last padding
        yield from self._skip(padding(size))

    # ---- extended headers

    def _extended_header(self, block: _Block) -> _Machine:
        size = block.count(124, 12, "size")
        if block.type in self._extended:
            raise _Refused(f"two extended headers '{block.type.decode()}' for one entry")
        if size > self._max_pax:
            raise LimitError(
                f"extended header of {size} bytes; the limit is {self._max_pax} (at byte {self._entry_at})"
            )
        body = yield from self._take(size)
        if block.type == b"x":
            self._extended[b"x"] = _parse_pax(body)
        elif block.type == b"g":  # a comment as git archive writes it: checked, then ignored
            _check_pax(body)
        else:
            self._extended[block.type] = body.split(b"\0", 1)[0]
        yield from self._pad(size)

    # ---- entries

    def _entry(self, block: _Block) -> _Machine:
        records = self._extended.get(b"x") or pax.Records()
        item = self._attributes(block, records)
        size = block.count(124, 12, "size")
        stored = records.numbers.get(b"size", size)  # PAX wins, 0 or not
        if block.type in b"\x0007":
            yield from self._regular(block, records, item, stored)
        elif block.type == b"S":
            yield from self._old_sparse(block, item, stored)
        elif block.type in b"12":
            yield from self._bodyless(item._replace(link=self._link(block, records)))
        elif block.type in b"34":
            yield from self._bodyless(item._replace(rdev=_rdev(block)))
        elif block.type in b"56":
            yield from self._bodyless(item)
        else:
            raise _Refused(f"entry of unknown type 0x{block.type[0]:02x}")

    def _attributes(self, block: _Block, records: pax.Records) -> TarItem:
        self._path = path = records.names.get(b"path") or self._extended.get(b"L") or block.name()
        mode = block.count(100, 8, "mode") & 0o7777
        uid = _owner(records.numbers.get(b"uid", block.number(108, 8, "uid")), "uid")
        gid = _owner(records.numbers.get(b"gid", block.number(116, 8, "gid")), "gid")
        mtime_ns = block.number(136, 12, "mtime") * 10**9
        if records.mtime_ns is not None:
            mtime_ns = records.mtime_ns
        kind = block.type.decode("latin-1")
        return TarItem(kind, path, b"", mode, uid, gid, mtime_ns, 0, (0, 0), records.xattrs, 0, False)

    def _link(self, block: _Block, records: pax.Records) -> bytes:
        link: bytes = records.names.get(b"linkpath") or self._extended.get(b"K") or block.text(157, 100)
        if not link:
            raise _Refused("link without a target")
        return link

    def _announce(self, item: TarItem) -> _Machine:
        self._extended = {}
        yield ("entry", item._replace(data_offset=self.offset))

    def _bodyless(self, item: TarItem) -> _Machine:
        """Links, directories, devices and fifos have no body, whatever their size says."""
        self._inside = ""
        yield from self._announce(item)

    def _regular(self, block: _Block, records: pax.Records, item: TarItem, stored: int) -> _Machine:
        item = item._replace(type="0", size=stored)
        kind = _sparse_kind(records)
        if kind is not None:
            yield from self._pax_sparse(kind, records, item, stored)
        elif not item.path.endswith(b"/"):
            yield from self._announce(item)
            yield from self._body([(0, stored)], stored)
        elif block.type == b"\0" or stored == 0:
            # before ustar a directory was a file whose name ends in a slash; its size means nothing
            yield from self._bodyless(item._replace(type="5", size=0))
        else:
            raise _Refused("regular file with a body and the name of a directory")

    def _body(self, segments: list[sparse.Segment], stored: int) -> _Machine:
        self.body_left = sum(length for _, length in segments)
        for position, length in segments:
            done = 0
            while done < length:
                start = self._at
                step = min(length - done, len(self._buffer) - start)
                if step == 0:
                    yield None
                    continue
                self._advance(step)
                self.body_left -= step
                yield ("data", start, start + step, position + done)
                done += step
        yield ("end",)
        yield from self._pad(stored)

    # ---- sparse files

    def _old_sparse(self, block: _Block, item: TarItem, stored: int) -> _Machine:
        if block.data[257:265] != _GNU_MAGIC:
            raise _Refused("sparse entry without the GNU magic")
        if b"x" in self._extended:
            raise _Refused("old sparse entry with an extended header")
        size = block.count(483, 12, "real size")
        flat = sparse.old_fields(block.data[386:482], 4)
        more, map_bytes = block.data[482], 0
        while more:
            extension = yield from self._take(BLOCK)
            map_bytes = self._count_map(map_bytes, item)
            flat += sparse.old_fields(extension[:504], 21)
            more = extension[504]
        yield from self._segments(flat, item._replace(type="0", size=size), stored, stored)

    def _pax_sparse(self, kind: int, records: pax.Records, item: TarItem, stored: int) -> _Machine:
        size = records.numbers.get(b"GNU.sparse.size", records.numbers.get(b"GNU.sparse.realsize"))
        if size is None:
            raise _Refused("sparse entry without its size")
        item = item._replace(path=records.names.get(b"GNU.sparse.name", item.path), size=size)
        if kind == 1:
            flat, left = yield from self._map_in_body(records, item, stored)
            yield from self._segments(flat, item, left, stored)
            return
        flat = records.map if records.map is not None else records.pairs
        if records.numbers.get(b"GNU.sparse.numblocks", len(flat) // 2) != len(flat) // 2:
            raise _Refused("sparse map is not as long as it says")
        yield from self._segments(flat, item, stored, stored)

    def _map_in_body(
        self, records: pax.Records, item: TarItem, stored: int
    ) -> Generator[Event | None, None, tuple[list[int], int]]:
        """GNU.sparse 1.0: the map as a flat list, and how many stored bytes are left behind it."""
        if _has_map(records):
            raise _Refused("two sparse maps")
        text, map_bytes, complete = sparse.TextMap(), 0, False
        while not complete:
            if stored - map_bytes < BLOCK:
                raise _Refused("sparse map is cut")
            block = yield from self._take(BLOCK)
            map_bytes = self._count_map(map_bytes, item)
            complete = text.add(block)
        return text.flat, stored - map_bytes

    def _count_map(self, map_bytes: int, item: TarItem) -> int:
        if map_bytes + BLOCK > self._max_pax:
            raise LimitError(f"{show_path(item.path)}: sparse map of more than {self._max_pax} bytes")
        return map_bytes + BLOCK

    def _segments(self, flat: list[int], item: TarItem, left: int, stored: int) -> _Machine:
        segments = sparse.pairs(flat)
        sparse.check(segments, item.size, left)
        yield from self._announce(item._replace(sparse=True))
        yield from self._body(segments, stored)


def _parse_pax(body: bytes) -> pax.Records:
    try:
        return pax.parse(body)
    except ValueError as exc:
        raise _Refused(f"malformed extended header: {exc}") from None


def _check_pax(body: bytes) -> None:
    try:
        list(pax.split(body))
    except ValueError as exc:
        raise _Refused(f"malformed extended header: {exc}") from None


def _owner(value: int, what: str) -> int:
    if not 0 <= value <= _ID_MAX:
        raise _Refused(f"{what} out of range")
    return value


def _rdev(block: _Block) -> tuple[int, int]:
    major, minor = block.count(329, 8, "device number"), block.count(337, 8, "device number")
    if major > _RDEV_MAX[0] or minor > _RDEV_MAX[1]:
        raise _Refused("device number out of range")
    return major, minor


def _has_map(records: pax.Records) -> bool:
    return records.map is not None or bool(records.pairs) or b"GNU.sparse.numblocks" in records.numbers


def _sparse_kind(records: pax.Records) -> int | None:
    """Where the map of a PAX sparse file is: 0 in the records, 1 in the body; None for a plain file."""
    version = (records.numbers.get(b"GNU.sparse.major"), records.numbers.get(b"GNU.sparse.minor"))
    if version == (None, None):
        return 0 if _has_map(records) else None
    if version in ((0, 0), (0, 1)):
        return 0
    if version == (1, 0):
        return 1
    raise _Refused("sparse entry of an unknown version")


class TarScanner:
    """See ``fastlayer._backend.TarScanner``."""

    def __init__(self, max_pax: int = 1 << 20) -> None:
        self._parser = TarParser(max_pax)

    @property
    def offset(self) -> int:
        return self._parser.offset

    @property
    def ended(self) -> bool:
        return self._parser.ended

    def feed(self, buffer: Any) -> list[Event]:
        return list(self._parser.parse(buffer))

    def finish(self) -> None:
        self._parser.finish()
