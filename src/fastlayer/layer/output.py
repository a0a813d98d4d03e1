"""Where a file goes while it is being made: no name, or a temporary one, until it is complete; then a rename."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import Any

from fastlayer._temporary import name_beside
from fastlayer.errors import OperandError, StorageError, show_path

_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)  # by file systems and kernels without them


class Output:
    """A file being written; a context manager.

    ``value`` is a path, a descriptor or a binary file object. A path that names a regular file, or nothing yet, is
    written in the same directory: without a name where the file system has such files (open(2), O_TMPFILE), so that
    nothing stays of a process that is killed, else under a temporary one. ``commit`` gives it its name, and leaving the
    block without a commit removes it. FIFOs, devices, descriptors and file objects are written directly. A symbolic
    link is kept: what it points to is replaced.
    """

    def __init__(self, value: Any) -> None:
        self._renamed = False  # into place
        self._temporary: bytes | None = None  # the name until then, if it has one
        self._final = b""
        self._fd = -1
        self._owned = False
        self._file: Any = None
        if isinstance(value, int):
            self.name = f"descriptor {value}"
            self._fd = value
        elif isinstance(value, (str, bytes, os.PathLike)):
            self.name = show_path(os.fsencode(value))
            if b"\0" in os.fsencode(value):
                raise OperandError(f"{self.name}: embedded null byte: give a name for the output")
            if os.fsencode(value).endswith(b"/"):
                raise OperandError(f"{self.name}: is the name of a directory: name a file for the output")
            self._final = os.path.realpath(os.fsencode(value))
            self._open()
        elif isinstance(value, io.TextIOBase):
            raise OperandError("the output is an open text file: open it in binary mode")
        elif hasattr(value, "write"):
            self.name = getattr(value, "name", type(value).__name__)
            self._file = value
        else:
            raise OperandError(f"output {type(value).__name__}: give a path, a descriptor or a binary file")

    @property
    def directory(self) -> bytes | None:
        """The directory of a file that will be renamed into place."""
        return os.path.dirname(self._final) if self._renamed else None

    @property
    def place(self) -> int | None:
        """The descriptor of a file that will be renamed into place, so that it can be changed anywhere; else None."""
        return self._fd if self._renamed else None

    def _open(self) -> None:
        try:
            if _written_directly(self._final):
                self._fd = os.open(self._final, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            else:
                self._open_new()
                self._renamed = True
        except OSError as exc:
            raise StorageError(exc.errno or 0, "cannot write", self.name) from exc
        self._owned = True

    def _open_new(self) -> None:
        directory = os.path.dirname(self._final)
        if os.path.exists("/proc/self/fd"):  # by which it gets its name
            try:
                self._fd = os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o666)
                return
            except OSError as exc:
                if exc.errno not in _NO_NAMELESS:
                    raise
        self._temporary = self._temporary_name()  # before: an interrupt may come as soon as it is made
        try:
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except BaseException:
            self._remove_temporary()
            raise

    def _temporary_name(self) -> bytes:
        parent, name = os.path.split(self._final)
        return os.path.join(parent, name_beside(name))

    def write(self, data: Any) -> None:
        """All of data. Raises ``StorageError`` naming the output (full disk, closed pipe as ``BrokenPipeError``)."""
        try:
            view = memoryview(data)
            while len(view):
                count = self._file.write(view) if self._file is not None else os.write(self._fd, view)
                view = view[len(view) if count is None else count :]
        except (BrokenPipeError, StorageError):  # the latter of a file object of ours: it names what was refused
            raise
        except OSError as exc:
            raise StorageError(exc.errno or 0, "write", self.name) from exc

    def commit(self) -> None:
        """The file is complete: gives it its name."""
        try:
            if self._file is not None and hasattr(self._file, "flush"):
                self._file.flush()
            if self._renamed and self._temporary is None:
                self._temporary = self._temporary_name()  # a rename replaces what is there, a link cannot
                place = f"/proc/self/fd/{self._fd}"
                os.link(place, self._temporary, src_dir_fd=self._fd)  # linkat(2) with AT_SYMLINK_FOLLOW
            self._close()
            if self._temporary is not None:
                os.rename(self._temporary, self._final)
                self._temporary = None
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise StorageError(exc.errno or 0, "write", self.name) from exc

    def _close(self) -> None:
        if self._owned:
            self._owned = False
            os.close(self._fd)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            try:
                os.unlink(self._temporary)
            except OSError:
                pass
            self._temporary = None


def _written_directly(path: bytes) -> bool:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise OperandError(f"{show_path(path)}: is a directory: name a file for the output")
    return not stat.S_ISREG(mode)


def refuse_inside(output: Output, root: int) -> None:
    """Raises ``OperandError`` when the output would be made inside the directory ``root``, which is being read."""
    if output.directory is None:
        return
    status = os.fstat(root)
    here = output.directory
    while True:
        found = os.stat(here)
        if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino):
            raise OperandError(f"{output.name}: lies inside the tree that is read: write it somewhere else")
        parent = os.path.dirname(here)
        if parent == here:
            return
        here = parent
