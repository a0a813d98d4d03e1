"""What fastlayer raises.

::

    FastlayerError                   base of all; str() is one line: cause and next step
    ├── UsageError                   the call cannot mean anything (exit code 2)
    ├── BackendError                 the demanded engine is not there
    ├── OperandError                 an operand is missing, unreadable or of the wrong kind
    ├── LayerError                   something about a layer
    │   ├── LayerFormatError         malformed or truncated archive or compression
    │   ├── UnsafeEntryError         an entry that must be refused (`..`, `.wh.` alone, ...)
    │   ├── LimitError               a configured limit was exceeded
    │   └── DigestMismatchError      digest or diff_id is not what was asked for
    ├── IndexFormatError             a tree index is damaged or of another version
    ├── FileChangedError             a file changed while it was read
    └── StorageError (also OSError)  the operating system refused: errno, path
"""

from __future__ import annotations

import errno
import os


def show_path(path: str | bytes) -> str:
    """A path for people: one line, whatever bytes it has."""
    text = os.fsdecode(path)
    if text.isprintable():
        return text
    return os.fsencode(text).decode("ascii", "backslashreplace").encode("unicode_escape").decode().replace("\\\\", "\\")


class FastlayerError(Exception):
    """Base of everything fastlayer raises on purpose."""

    exit_code = 1


class UsageError(FastlayerError):
    """The call cannot mean anything."""

    exit_code = 2


class BackendError(FastlayerError):
    """The demanded engine is not there."""


class OperandError(FastlayerError):
    """An operand is missing, unreadable or of the wrong kind."""


class LayerError(FastlayerError):
    """Something about a layer."""


class LayerFormatError(LayerError):
    """Malformed or truncated archive or compression."""


class UnsafeEntryError(LayerError):
    """An entry that must be refused."""


class LimitError(LayerError):
    """A configured limit was exceeded."""


class DigestMismatchError(LayerError):
    """The digest or diff_id is not what was asked for."""


class IndexFormatError(FastlayerError):
    """A tree index is damaged or of another version."""


class FileChangedError(FastlayerError):
    """A file changed while it was read."""


_NEXT = {  # what to do about what the system said
    errno.EACCES: "run as someone who may, or as root",
    errno.EPERM: "run as someone who may, or as root",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "choose a place that can be written",
}


class StorageError(FastlayerError, OSError):
    """The operating system refused. ``errno``, ``filename`` and ``op`` say what."""

    def __init__(self, errnum: int, op: str, path: str | bytes | None = None) -> None:
        OSError.__init__(self, errnum, os.strerror(errnum))
        self.op = op
        self.filename = path

    def __str__(self) -> str:
        text = f"{self.op}: {os.strerror(self.errno or 0)}"
        if self.filename:
            text = f"{show_path(self.filename)}: {text}"
        hint = _NEXT.get(self.errno or 0)
        return f"{text}: {hint}" if hint else text
