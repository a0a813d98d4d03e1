"""The stream of tar-split: what is needed to make the exact tar again of the files it had.

A JSON object a line (vbatts/tar-split, ``tar/storage``): type 2 are bytes as they are, type 1 the bytes of a file, of
which the name, the size and a CRC-64 are kept. The blocks of an entry, with what is between them and the bytes before,
are one object of type 2, which readers rely on; an object of type 1 follows for every entry.
"""

from __future__ import annotations

from binascii import b2a_base64

from fastlayer.layer.chunked.contents import name_of
from fastlayer.layer.chunked.cutting import Entry
from fastlayer.layer.chunked.spool import Spool

_PIECE = 1 << 20


class TarSplit:
    """``begin`` an entry; ``end`` those that have bytes; ``tail``, ``close``."""

    def __init__(self) -> None:
        self.spool = Spool()
        self._position = 0

    def begin(self, entry: Entry) -> None:
        self._segment(entry.header)
        if not entry.size:
            self._line(b'{"type":1,"name":%b,"payload":null,"position":%d}\n', name_of(entry).encode())

    def end(self, entry: Entry, crc: int) -> None:
        total = b2a_base64(crc.to_bytes(8, "big"), newline=False)
        line = b'{"type":1,"name":%b,"size":%d,"payload":"%b","position":%d}\n'
        self._line(line, name_of(entry).encode(), entry.size, total)

    def tail(self, data: bytes) -> None:
        """Of what follows the last entry, in order."""
        for at in range(0, len(data), _PIECE):
            self._segment(data[at : at + _PIECE])

    def close(self) -> Spool:
        self.spool.close()
        return self.spool

    def _segment(self, data: bytes) -> None:
        self._line(b'{"type":2,"payload":"%b","position":%d}\n', b2a_base64(data, newline=False))

    def _line(self, form: bytes, *values: bytes | int) -> None:
        self.spool.add(form % (*values, self._position))
        self._position += 1
