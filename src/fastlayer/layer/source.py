"""Where the bytes of a layer come from: a path, a descriptor or a binary file object."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable
from typing import Any

from fastlayer.errors import LayerError, LayerFormatError, OperandError, StorageError, show_path

_NO_TAR = "header checksum does not fit (at byte 0)"
_POLL_MILLISECONDS = 200  # how long a reader of a silent pipe takes to notice that the job stopped


class Source:
    """A readable stream. ``size`` is its length in bytes when it is a regular file, else None.

    Never seeks: pipes work like files. ``close`` closes only what was opened here.
    """

    def __init__(self, value: Any) -> None:
        self.name = self.describe(value)
        self.size: int | None = None
        self._fd = -1
        self._owned = False
        self._file: Any = None
        self._waits = False
        if isinstance(value, int):
            self._fd = value
        elif isinstance(value, (str, bytes, os.PathLike)):
            self._fd = _open(value, self.name)
            self._owned = True
        elif is_stream(value):
            self._file = value
        else:
            raise OperandError(f"{self.name}: not a layer: give a path, a descriptor or a binary file")
        if self._fd >= 0:
            self._examine()

    @staticmethod
    def describe(value: Any) -> str:
        """The name of such a value in messages."""
        if isinstance(value, int):
            return f"descriptor {value}" if value else "stdin"
        if isinstance(value, (str, bytes, os.PathLike)):
            return show_path(os.fsencode(value))
        name = getattr(value, "name", None)
        return show_path(name) if isinstance(name, (str, bytes)) else type(value).__name__

    def _examine(self) -> None:
        try:
            status = os.fstat(self._fd)
        except OSError as exc:
            raise OperandError(f"{self.name}: {exc.strerror}: give an open descriptor") from exc
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise OperandError(f"{self.name}: is a directory: give a layer file")
        if stat.S_ISREG(status.st_mode):
            self.size = status.st_size
        else:
            self._waits = True

    def readinto(self, buffer: Any, check: Callable[[], object] | None = None) -> int:
        """Reads up to ``len(buffer)`` bytes, 0 at the end. ``check`` is called now and then while a pipe is silent."""
        try:
            if self._file is not None:
                return _read_file(self._file, buffer)
            if self._waits and check is not None:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                while not poll.poll(_POLL_MILLISECONDS):
                    check()
            return os.readv(self._fd, [buffer])
        except io.UnsupportedOperation as exc:
            raise OperandError(f"{self.name}: not open for reading: open it in mode `rb`") from exc
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", self.name) from exc

    def close(self) -> None:
        if self._owned:
            os.close(self._fd)
            self._owned = False

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _open(path: Any, name: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as exc:
        raise OperandError(f"{name}: {exc.strerror}: give a layer file that can be read") from exc
    except ValueError as exc:
        raise OperandError(f"{name}: {exc}: give a layer file that can be read") from exc


def _read_file(file: Any, buffer: Any) -> int:
    if isinstance(file, io.TextIOBase):
        raise OperandError("the layer is an open text file: open it in binary mode")
    if hasattr(file, "readinto"):
        return int(file.readinto(buffer) or 0)
    data = file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def named(error: LayerError, source: Source, entries: int) -> LayerError:
    """An error about the layer that ``source`` is, with its name; ``entries`` of it had been read."""
    if isinstance(error, LayerFormatError) and not entries and str(error).endswith(_NO_TAR):
        return LayerFormatError(f"{source.name}: is no layer: give a tar, as it is or compressed with gzip or zstd")
    return type(error)(f"{source.name}: {error}")


def is_stream(value: Any) -> bool:
    """Whether value is a file object."""
    return hasattr(value, "readinto") or hasattr(value, "read")
