"""Connections whose answers begin in time: the library's limit is for each piece of a head, of which there may be many.

A head that is dripped byte by byte, or ``100 Continue`` without end (RFC 9110, 15.2.1), would keep us for ever.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any

_LONGEST = 1 << 20  # bytes of a head, with all that comes before it
_TRAILERS, _LINE = 100, 64 << 10  # lines, and bytes of each


class _Raw(io.RawIOBase):
    """What comes over a connection; until ``free`` within ``seconds`` from now."""

    def __init__(self, raw: Any, seconds: float | None) -> None:
        self._raw = raw
        self._ends = time.monotonic() + seconds if seconds is not None else float("inf")
        self._left = _LONGEST
        self._is_head = True

    def free(self) -> None:
        self._is_head = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        if self._is_head:
            self._left -= count or 0
            if time.monotonic() > self._ends:
                raise TimeoutError("timed out")
            if self._left < 0:
                raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return count

    def fileno(self) -> int:
        number: int = self._raw.fileno()
        return number

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self._source = _Raw(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._source)

    def begin(self) -> None:
        super().begin()
        self._source.free()

    def _read_and_discard_trailer(self) -> None:
        """What may follow the chunks of a body (RFC 9112, 7.1.2): nothing that we know of."""
        for _ in range(_TRAILERS):
            if self.fp.readline(_LINE) in (b"\r\n", b"\n", b""):
                return
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))


def in_time(pools: Mapping[str, Any]) -> dict[str, Any]:
    """Such ``PoolManager.pool_classes_by_scheme``, whose connections have answers like that. A proxy has its own."""
    return {
        scheme: _derived(pool, ConnectionCls=_derived(pool.ConnectionCls, response_class=_Response))
        for scheme, pool in pools.items()
    }


def _derived(kind: type, **attributes: Any) -> type:
    return type(kind.__name__, (kind,), attributes)
