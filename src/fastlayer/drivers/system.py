"""What drivers share: the system's refusals as our errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastlayer.errors import FastlayerError, NoSpaceError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT)


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
        kind = NoSpaceError if exc.errno in _FULL else StorageError
        name = exc.filename if isinstance(exc.filename, (str, bytes)) else None
        raise kind(exc.errno or 0, op, os.fspath(name) if name else None) from exc
