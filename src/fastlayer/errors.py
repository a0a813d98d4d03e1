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
    ├── DockerfileError              a Dockerfile that means nothing: file, line, what is wrong
    ├── BuildError                   a step of a build failed: file, line, what went wrong
    ├── FileChangedError             a file changed while it was read
    ├── RunError                     a program cannot be run in a root file system
    ├── RegistryError                a registry, or the way to it, refused or failed
    │   ├── RegistryDeniedError      it wants other credentials (401, 403)
    │   └── RegistryMissingError     it has no such repository, manifest or blob (404; also NotFoundError)
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

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 512  # characters of a path in messages
_LEFT_OUT = "[...]"
_END = (_SHOWN - len(_LEFT_OUT)) // 2


def show_path(path: str | bytes) -> str:
    """A path for people: one line, whatever bytes it has; of a long one the beginning and the end."""
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON can have it
        return ascii(path)[:_SHOWN]
    if len(raw) <= _SHOWN:
        return _cut(_printable(raw))
    head, tail = _END, len(raw) - _END
    while head > 0 and raw[head] & 0xC0 == 0x80:  # no UTF-8 sequence is cut in two
        head -= 1
    while tail < len(raw) and raw[tail] & 0xC0 == 0x80:
        tail += 1
    return _cut(_printable(raw[:head] + _LEFT_OUT.encode() + raw[tail:]))


def _printable(raw: bytes) -> str:
    text = os.fsdecode(raw)
    if text.isprintable():
        return text
    return raw.decode("ascii", "backslashreplace").encode("unicode_escape").decode().replace("\\\\", "\\")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_END] + _LEFT_OUT + text[-_END:]


class FastlayerError(Exception):
    """Base of everything fastlayer raises on purpose."""

    exit_code = 1


class UsageError(FastlayerError):
    """The call cannot mean anything."""

    exit_code = 2


class BackendError(FastlayerError):
    """The demanded engine is not there."""


class DockerfileError(FastlayerError):
    """A Dockerfile that means nothing: file, line, what is wrong."""


class BuildError(FastlayerError):
    """A step of a build failed: file, line, what went wrong. ``status``: the exit status of its command, or None;
    ``output``: the last lines it wrote; ``line``: of the Dockerfile, 0 for none."""

    def __init__(
        self,
        message: str,
        *,
        line: int = 0,
        status: int | None = None,
        output: bytes = b"",
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        self.line = line
        self.status = status
        self.output = output
        self.cause = cause


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


class RunError(FastlayerError):
    """A program cannot be run in a root file system.

    ``status``: what a shell would say about it (127: not found; 126: cannot be executed), None if it never came to it.
    ``message`` and ``remedy`` (the next step, where one is known) are its two halves. ``errnum``: what the kernel has
    said; 0 when it was not that.
    """

    def __init__(self, message: str, *, status: int | None = None, remedy: str = "", errnum: int = 0) -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
        self.status = status
        self.errnum = errnum


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


class RegistryError(FastlayerError):
    """A registry, or the way to it, refused or failed.

    ``status``: of its answer, 0 when there was none; ``code``: the registry's own, such as ``MANIFEST_UNKNOWN``;
    ``headers``: those of the answer that say when to come again, names in lower case; ``transient``: whether the same
    request may do better later.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.transient = transient


class RegistryDeniedError(RegistryError):
    """A registry wants other credentials."""


class RegistryMissingError(RegistryError, NotFoundError):
    """A registry has no such repository, manifest or blob."""


_NEXT = {  # what to do about what the system said
    errno.EACCES: "run as someone who may, or as root",
    errno.EPERM: "run as someone who may, or as root",
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EROFS: "choose a place that can be written",
}


class StorageError(FastlayerError, OSError):
    """The operating system refused. ``errno``, ``filename`` and ``op`` say what; ``within`` is the layer or tree that
    ``filename`` is in, ``hint`` the next step, where they are known;
    ``detail`` is the kernel's own word.
    """

    def __init__(
        self,
        errnum: int,
        op: str,
        path: str | bytes | None = None,
        detail: str = "",
        *,
        within: str = "",
        hint: str = "",
    ) -> None:
        OSError.__init__(self, errnum, os.strerror(errnum))
        self.op = op
        self.filename = path
        self.detail = detail
        self.within = within
        self.hint = hint

    def __str__(self) -> str:
        path = show_path(self.filename) if self.filename else ""
        reason = os.strerror(self.errno or 0) + (f" ({self.detail})" if self.detail else "")
        hint = self.hint or _NEXT.get(self.errno or 0, "")
        return ": ".join(filter(None, (self.within, path, self.op, reason, hint)))


class NoSpaceError(StorageError):
    """The file system, pool or quota is full (ENOSPC, EDQUOT)."""
