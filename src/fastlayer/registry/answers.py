"""The answer to a request: its head, and its body as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import RegistryError
from fastlayer.registry.failures import failure
from fastlayer.registry.lines import host_of

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

STEP = 256 << 10  # bytes that are read at once


class Timeouts(NamedTuple):
    """Seconds. ``connect``: for a connection, and for every piece of a body that is sent; ``read``: without a single
    byte of an answer; ``finish``: for the answer to a whole upload, which a registry may first have to move elsewhere.

    An answer that brings less than ``floor`` bytes a second for ``patience`` seconds of waiting counts as dead.
    """

    connect: float = 30.0
    read: float = 60.0
    finish: float = 600.0
    floor: int = 1024
    patience: float = 60.0


class _Pace:
    """How fast bytes come, of the time in which we wait for them."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._floor, self._patience = timeouts.floor, timeouts.patience
        self._seconds = 0.0
        self._bytes = 0

    def is_dead(self, size: int, seconds: float) -> bool:
        self._seconds += seconds
        self._bytes += size
        if self._seconds < self._patience:
            return False
        dead = self._bytes < self._floor * self._seconds
        self._seconds, self._bytes = 0.0, 0
        return dead


class Answer:
    """``status``, ``headers`` (names in lower case), ``url`` after redirects, ``foreign``: another origin than the one
    that was asked. Its connection is free for others when the body has been read to its end, or on ``close``."""

    def __init__(
        self,
        raw: BaseHTTPResponse,
        url: str,
        *,
        timeouts: Timeouts,
        release: Callable[[], None],
        reusable: bool = True,
    ) -> None:
        self.status: int = raw.status
        self.headers: Mapping[str, str] = {name.lower(): raw.headers[name] for name in raw.headers}
        self.url = url
        self.foreign = False
        self.received = 0  # bytes of the body
        self._raw = raw
        self._timeouts = timeouts
        self._pace = _Pace(timeouts)
        self._release = release
        self._reusable = reusable
        self._open = True
        self._given_up = False
        self._kept = b""

    @property
    def media_type(self) -> str:
        """``Content-Type`` without its parameters (distribution-spec: clients should ignore them)."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """``Content-Length``; None when there is none, or what it says is no number."""
        return number(self.headers.get("content-length", ""))

    def read(self, most: int = STEP) -> bytes:
        """The next bytes, as many as have come, at most ``most``; none at the end.

        Raises ``RegistryError`` when the connection breaks, or is as good as dead.
        """
        if not self._open:
            data, self._kept = self._kept[:most], self._kept[most:]
            return data
        began = time.monotonic()
        try:
            data = self._raw.read1(most, decode_content=False)
        except Exception as exc:  # urllib3's, http.client's and the system's
            self.close()
            if self._given_up:
                raise given_up(self.url) from exc
            raise failure(exc, self.url, "answer", seconds=self._timeouts.read) from exc
        if self._given_up:
            self.close()
            raise given_up(self.url)
        if not data:
            self._end()
        elif self._pace.is_dead(len(data), time.monotonic() - began):
            self.close()
            raise RegistryError(
                f"{host_of(self.url)}: answer: less than {self._timeouts.floor} bytes a second for"
                f" {self._timeouts.patience:g} s: try again",
                transient=True,
            )
        self.received += len(data)
        return data

    def pieces(self, most: int = STEP) -> Iterator[bytes]:
        """The body to its end, piece by piece."""
        while data := self.read(most):
            yield data

    def read_all(self, limit: int, *, cut: bool = False) -> bytes:
        """The whole body. One of more than ``limit`` bytes is refused, or, if it may be ``cut``, what is beyond that
        is left. Raises ``RegistryError``."""
        found: list[bytes] = []
        total = 0
        for data in self.pieces():
            found.append(data)
            total += len(data)
            if total > limit:
                self.close()
                if not cut:
                    raise RegistryError(
                        f"{host_of(self.url)}: answers with more than {limit} bytes: see whether it is a registry"
                    )
        return b"".join(found)[:limit]

    def keep(self, limit: int, *, cut: bool = False) -> None:
        """Frees the connection: the body, as ``read_all`` gives it, is read from memory then."""
        kept = self.read_all(limit, cut=cut)
        self.close()
        self._kept = kept

    def give_up(self) -> None:
        """Lets a thread that waits for its next bytes fail at once; from whatever thread."""
        self._given_up = True
        try:
            self._raw.shutdown()
        except (OSError, ValueError, RuntimeError):
            pass  # it has just ended

    def close(self) -> None:
        """Ends it wherever it is; a body that has not been read breaks the connection."""
        if self._open:
            self._open = False
            self._raw.close()
            self._release()

    def _end(self) -> None:
        if not self._reusable:
            self.close()
            return
        self._open = False
        self._raw.release_conn()
        self._release()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def given_up(url: str) -> RegistryError:
    """What a thread gets whose connections somebody else gave up."""
    return RegistryError(f"{host_of(url)}: given up")


def number(text: str) -> int | None:
    """A decimal number as headers have them."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
