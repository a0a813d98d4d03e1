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
    ├── StoreError                   something about a store of images and snapshots
    │   ├── NotFoundError            no such image, blob, snapshot, mount
    │   ├── AlreadyExistsError       the name is taken
    │   ├── InUseError               it cannot go: something is made of it, or has it mounted
    │   ├── ReferenceFormatError     not the name of an image
    │   ├── ManifestError            a manifest, index or configuration that is malformed or of an unknown type
    │   ├── CorruptStoreError        a blob, database or folder of the store is damaged
    │   └── DriverError              a storage driver cannot do what was asked
    └── StorageError (also OSError)  the operating system refused: errno, path
        └── NoSpaceError             the file system, pool or quota is full
"""

from __future__ import annotations

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


class StoreError(FastlayerError):
    """Something about a store of images and snapshots."""


class NotFoundError(StoreError):
    """No such image, blob, snapshot or mount."""


class AlreadyExistsError(StoreError):
    """The name is taken."""


class InUseError(StoreError):
    """It cannot go: something is made of it, or has it mounted."""


class ReferenceFormatError(StoreError):
    """Not the name of an image."""

    exit_code = 2


class ManifestError(StoreError):
    """A manifest, index or configuration that is malformed or of an unknown type."""


class CorruptStoreError(StoreError):
    """A blob, database or folder of the store is damaged."""


class DriverError(StoreError):
    """A storage driver cannot do what was asked."""


class StorageError(FastlayerError, OSError):
    """The operating system refused. ``errno``, ``filename``, ``op`` say what; ``detail`` is the kernel's own word."""

    def __init__(self, errnum: int, op: str, path: str | bytes | None = None, detail: str = "") -> None:
        OSError.__init__(self, errnum, os.strerror(errnum))
        self.op = op
        self.filename = path
        self.detail = detail

    def __str__(self) -> str:
        text = f"{self.op}: {os.strerror(self.errno or 0)}"
        if self.filename:
            text = f"{show_path(self.filename)}: {text}"
        return f"{text} ({self.detail})" if self.detail else text


class NoSpaceError(StorageError):
    """The file system, pool or quota is full (ENOSPC, EDQUOT)."""
