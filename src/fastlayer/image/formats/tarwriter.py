"""Writes the tar of an image archive: a fixed form, so that the same images always give the same bytes."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, cast

from fastlayer.content.files import explained
from fastlayer.errors import CorruptStoreError
from fastlayer.layer.output import Output

_BLOCK = 512
_RECORD = 10240  # POSIX: archives are whole records
_PIECE = 1 << 20
LATE_LIMIT = 8 << 30  # bytes that a header of one block can say


class TarWriter:
    """Members one after the other: owner 0:0, time 0, files 0644, directories 0755; sizes beyond 8 GiB by PAX."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._size = 0

    def directory(self, name: str) -> None:
        self._write(_header(name + "/", 0, directory=True))

    def file(self, name: str, data: bytes) -> None:
        """A small file."""
        self._write(_header(name, len(data)))
        self._write(data)
        self._pad(len(data))

    def stream(self, name: str, size: int, source: BinaryIO | Any) -> None:
        """A file of ``size`` bytes from a stream. Raises ``CorruptStoreError`` when there are more or fewer."""
        with self.body(name, size) as body:
            buffer = memoryview(bytearray(min(_PIECE, max(size, 1))))
            while count := cast(Any, source).readinto(buffer):
                body.write(buffer[:count])

    def body(self, name: str, size: int) -> Body:
        """A file whose body the caller writes; a context manager."""
        self._write(_header(name, size))
        return Body(self, name, size)

    def late_body(self) -> LateBody | None:
        """A file whose name and size are known when its body is complete; None where the output cannot be changed."""
        place = self._output.place
        return None if place is None else LateBody(self, place)

    def finish(self) -> None:
        """The end of the archive."""
        self._write(bytes(2 * _BLOCK))
        self._write(bytes(-self._size % _RECORD))

    def _write(self, data: Any) -> None:
        self._output.write(data)
        self._size += len(data)

    def _pad(self, size: int) -> None:
        self._write(bytes(-size % _BLOCK))


class Body:
    """The body of one file: exactly as many bytes as its header says."""

    def __init__(self, tar: TarWriter, name: str, size: int) -> None:
        self._tar, self._name, self._size, self._left = tar, name, size, size

    def write(self, data: Any) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise CorruptStoreError(f"{self._name}: longer than the {self._size} bytes it should have")
        self._tar._write(data)

    def __enter__(self) -> Body:
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        if kind is not None:
            return
        if self._left:
            raise CorruptStoreError(f"{self._name}: {self._left} bytes shorter than the {self._size} it should have")
        self._tar._pad(self._size)


class LateBody:
    """A body that is written before its header. Until ``commit`` nothing else may be written to the tar."""

    def __init__(self, tar: TarWriter, fd: int) -> None:
        self.size = 0
        self._tar = tar
        self._fd = fd
        self._start = tar._size
        tar._write(bytes(_BLOCK))

    def write(self, data: Any) -> None:
        self._tar._write(data)
        self.size += len(data)

    def commit(self, name: str) -> None:
        """Its header, which needs a size below ``LATE_LIMIT``."""
        with explained("write", self._tar._output.name):
            os.pwrite(self._fd, _header(name, self.size), self._start)
        self._tar._pad(self.size)

    def abort(self) -> None:
        """The tar is what it was before."""
        with explained("write", self._tar._output.name):
            os.ftruncate(self._fd, self._start)
            os.lseek(self._fd, self._start, os.SEEK_SET)
        self._tar._size = self._start


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
