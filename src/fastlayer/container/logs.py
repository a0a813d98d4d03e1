"""What a container has written: the files of Docker's json-file driver (``log.json``, older: ``log.json.1`` ...)."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from fastlayer._values import NamedTuple
from fastlayer.container import state
from fastlayer.errors import UsageError

_NAME = "log.json"
_MAX_LINE = 1 << 20  # bytes: ours have at most 16 KiB of text
_NAP = 0.05
_ATTEMPTS = 20  # to open the files while none of them is renamed
_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_OPTIONS = ("max-size", "max-file", "mode", "compress")


class Line(NamedTuple):
    """``stream``: ``stdout`` or ``stderr``; ``time``: RFC 3339 with nanoseconds, UTC."""

    text: str
    stream: str
    time: str


def rotation(options: Mapping[str, str]) -> tuple[int, int]:
    """(bytes of a file or 0 for any, files that are kept) of ``--log-opt``. Raises ``UsageError``."""
    for name in options:
        if name not in _OPTIONS:
            raise UsageError(f"unknown log opt {name!r} for json-file log driver: use max-size and max-file")
    size, files = options.get("max-size", "-1"), options.get("max-file", "1")
    if not (files.isascii() and files.isdecimal() and 0 < int(files[:9]) <= 10_000):
        raise UsageError(f"--log-opt max-file={files}: give a number of files, 1 or more")
    if size == "-1":
        if int(files) > 1:
            raise UsageError("--log-opt max-file cannot be greater than 1 when max-size is not set: give max-size")
        return 0, 1
    match = _SIZE.fullmatch(size)
    if match is None or not int(match[1]):
        raise UsageError(f"--log-opt max-size={size}: give bytes, or a number with k, m or g")
    return int(match[1]) * _UNITS[match[2].lower()], int(files)


def read(
    directory: Path,
    *,
    follow: bool = False,
    tail: int | None = None,
    since: str = "",
    until: str = "",
) -> Iterator[Line]:
    """Lines, the oldest first. ``tail``: only the last ones. ``since``, ``until``: RFC 3339 times as in ``Line``.

    ``follow``: goes on until the container has ended.
    """
    reader = _Reader(directory)
    try:
        lines: Iterator[Line] = reader.there()
        if tail is not None:
            lines = iter(deque(lines, maxlen=tail))
        for line in lines:
            if (not until or line.time <= until) and line.time >= since:
                yield line
        if follow:
            for line in reader.follow():
                if until and line.time > until:
                    return
                if line.time >= since:
                    yield line
    finally:
        reader.close()


class _Reader:
    """All lines in order, while a monitor writes them and renames what is full: LOG to LOG.1, that to LOG.2, and so on.

    A file is known by its inode, so that none is read twice; one that has gone before it could be opened is lost, as
    the log itself has lost it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[BinaryIO] = []  # the oldest first; the last one is being written
        self._rest = b""

    def there(self) -> Iterator[Line]:
        """All files; the newest stays open."""
        self._files = self._opened(None)
        yield from self._lines()

    def follow(self) -> Iterator[Line]:
        while True:
            lives = state.is_locked(self._directory)
            yield from self._lines()
            newer = self._after_rotation()
            if newer:
                yield from self._lines()  # what came before that
                self._files += newer
            elif not lives:
                return
            else:
                time.sleep(_NAP)

    def _after_rotation(self) -> list[BinaryIO]:
        """What has been begun meanwhile."""
        if not self._files:
            return self._opened(None)
        return [] if self._is_newest(self._files[-1]) else self._opened(self._files[-1])

    def close(self) -> None:
        while self._files:
            self._files.pop().close()
        self._rest = b""

    def _opened(self, known: BinaryIO | None) -> list[BinaryIO]:
        """Those that are newer than ``known``, or all; the oldest first."""
        for _ in range(_ATTEMPTS):
            found = self._newer(known)
            if not found or self._is_newest(found[0]):
                break
            while found:  # they were renamed meanwhile
                found.pop().close()
        return found[::-1]

    def _newer(self, known: BinaryIO | None) -> list[BinaryIO]:
        found: list[BinaryIO] = []
        for number in range(len(os.listdir(self._directory)) + 1):
            try:
                file = (self._directory / (f"{_NAME}.{number}" if number else _NAME)).open("rb")
            except FileNotFoundError:
                if number:
                    break
                continue
            if known is not None and os.path.sameopenfile(file.fileno(), known.fileno()):
                file.close()
                break
            found.append(file)
        return found

    def _lines(self) -> Iterator[Line]:
        """What has come since the last time, in whole lines."""
        while self._files:
            yield from self._new(self._files[0])
            if len(self._files) == 1:
                return
            self._files.pop(0).close()
            self._rest = b""

    def _new(self, file: BinaryIO) -> Iterator[Line]:
        if os.fstat(file.fileno()).st_size < file.tell():  # begun anew: the only one that is kept
            file.seek(0)
            self._rest = b""
        while data := file.read(1 << 16):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from filter(None, map(_line, lines))
            if len(self._rest) > _MAX_LINE:
                self._rest = b""

    def _is_newest(self, file: BinaryIO) -> bool:
        """Also when there is none at this moment."""
        try:
            there = os.stat(self._directory / _NAME)
        except OSError:
            return True
        return os.path.samestat(there, os.fstat(file.fileno()))


def _line(data: bytes) -> Line | None:
    """None for what is damaged: the file system was full, the machine went off."""
    try:
        found = json.loads(data)
        return Line(str(found["log"]), str(found["stream"]), str(found["time"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
