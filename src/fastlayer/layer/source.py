"""Where the bytes of a layer come from: a path, a descriptor or a binary file object."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fastlayer.errors import LayerError, LayerFormatError, OperandError, StorageError, show_path
from fastlayer.layer.arguments import is_int
from fastlayer.layer.reading import open_quietly

if TYPE_CHECKING:
    from fastlayer.layer.assembled import Assembled

NO_TAR = "header checksum does not fit (at byte 0)"
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
        check_sources([value])
        if isinstance(value, int):
            self._fd = value
        elif isinstance(value, (str, bytes, os.PathLike)):
            self._fd = _open(value, self.name)
            self._owned = True
        else:
            self._file = value
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
                return self._read_file(buffer, check)
            return self._read_fd(buffer, check)
        except io.UnsupportedOperation as exc:
            raise OperandError(f"{self.name}: not open for reading: open it in mode `rb`") from exc
        except StorageError:  # of a file object of ours: it names what was refused
            raise
        except OSError as exc:
            raise StorageError(exc.errno or 0, "read", self.name) from exc

    def fileno(self) -> int:
        """The descriptor; -1 for a file object."""
        return self._fd

    def _read_fd(self, buffer: Any, check: Callable[[], object] | None) -> int:
        if self._waits and check is not None:
            _wait(self._fd, check)
        while True:
            try:
                return os.readv(self._fd, [buffer])
            except BlockingIOError:  # O_NONBLOCK: we wait instead
                _wait(self._fd, check)

    def _read_file(self, buffer: Any, check: Callable[[], object] | None) -> int:
        """None and ``BlockingIOError`` are how file objects say "nothing yet", which is not the end."""
        if isinstance(self._file, io.TextIOBase):
            raise OperandError("the layer is an open text file: open it in binary mode")
        while (count := _read_once(self._file, buffer)) is None:
            _wait(self._file_descriptor(), check)
            if check is not None:
                check()
        return count

    def _file_descriptor(self) -> int:
        """What to wait for when a file object has nothing yet."""
        try:
            fd = int(self._file.fileno())
        except (AttributeError, OSError, TypeError, ValueError):
            fd = -1
        if fd < 0:
            raise OperandError(f"{self.name}: has no data yet and no descriptor to wait for: give a file that waits")
        return fd

    def close(self) -> None:
        if self._owned:
            self._owned = False
            os.close(self._fd)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _open(path: Any, name: str) -> int:
    try:
        return open_quietly(path)
    except OSError as exc:
        raise OperandError(f"{name}: {exc.strerror}: give a layer file that can be read") from exc
    except ValueError as exc:
        raise OperandError(f"{name}: {exc}: give a layer file that can be read") from exc


def _read_once(file: Any, buffer: Any) -> int | None:
    """One read; None: nothing yet."""
    try:
        if hasattr(file, "readinto"):
            count: int | None = file.readinto(buffer)
            return count
        data = file.read(len(buffer))
    except BlockingIOError:
        return None
    if data is None:
        return None
    buffer[: len(data)] = data
    return len(data)


def check_sources(values: Iterable[Any]) -> None:
    """Raises ``OperandError`` for what cannot be a layer."""
    for value in values:
        if not (is_int(value) or isinstance(value, (str, bytes, os.PathLike)) or is_stream(value)):
            name = Source.describe(value) if not isinstance(value, bool) else str(value)
            raise OperandError(f"{name}: not a layer: give a path, a descriptor or a binary file")


def _wait(fd: int, check: Callable[[], object] | None) -> None:
    """Until there is something to read, or the end. ``check`` is called now and then."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not poll.poll(_POLL_MILLISECONDS):
        if check is not None:
            check()


def named(error: LayerError, source: Source | Assembled, entries: int) -> LayerError:
    """An error about the layer that ``source`` is, with its name; ``entries`` of it had been read."""
    if isinstance(error, LayerFormatError) and not entries and str(error).endswith(NO_TAR):
        return LayerFormatError(f"{source.name}: is no layer: give a tar, plain or as .gz, .zst, .xz or .bz2")
    return type(error)(f"{source.name}: {error}")


def is_stream(value: Any) -> bool:
    """Whether value is a file object."""
    return hasattr(value, "readinto") or hasattr(value, "read")
