"""Writes the tar of an image archive: a fixed form, so that the same images always give the same bytes."""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from fastlayer.errors import CorruptStoreError
from fastlayer.layer.output import Output

_BLOCK = 512
_RECORD = 10240  # POSIX: archives are whole records
_PIECE = 1 << 20


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


def _header(name: str, size: int, *, directory: bool = False) -> bytes:
    import tarfile

    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o755 if directory else 0o644
    info.type = tarfile.DIRTYPE if directory else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
