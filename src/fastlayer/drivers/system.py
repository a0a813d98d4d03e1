"""What drivers share: the system's refusals as our errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastlayer.errors import FastlayerError, NoSpaceError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def storage_error(exc: OSError, op: str, path: str | bytes | os.PathLike[str] | None) -> StorageError:
    """The system's refusal as ours; a full file system or quota as ``NoSpaceError``."""
    kind = NoSpaceError if exc.errno in _FULL else StorageError
    return kind(exc.errno or 0, op, os.fspath(path) if path is not None else None)


@contextmanager
def refusals(op: str) -> Iterator[None]:
    """``OSError`` becomes ``StorageError``, and ``NoSpaceError`` where space or quota is used up."""
    try:
        yield
    except NoSpaceError:
        raise
    except StorageError as exc:
        if exc.errno in _FULL:
            raise NoSpaceError(exc.errno or 0, exc.op, exc.filename, exc.detail) from exc
        raise
    except FastlayerError:
        raise
    except OSError as exc:
        raise storage_error(exc, op, exc.filename if isinstance(exc.filename, (str, bytes)) else None) from exc
