"""The one converter from ``struct fl_error`` to exceptions."""

from fastlayer import errors as _errors
from fastlayer._native.libfl cimport (
    FL_ERR_CHANGED, FL_ERR_FORMAT, FL_ERR_LIMIT, FL_ERR_MEMORY, FL_ERR_OS, FL_ERR_UNSAFE, FL_ERR_USAGE, fl_error,
)

import os


cdef str _text(const fl_error *err):
    cdef bytes path = err.path[:err.path_len]
    cdef str text = (<bytes>err.detail).decode("utf-8", "replace")
    if path:
        text = f"{_errors.show_path(path)}: {text}"
    if err.offset >= 0:
        text = f"{text} (at byte {err.offset})"
    return text


cdef int raise_error(const fl_error *err) except -1:
    """Raises what err says. Needs the GIL; always returns -1."""
    cdef bytes path = err.path[:err.path_len]
    if err.kind == FL_ERR_OS:
        detail = (<bytes>err.detail).decode("utf-8", "replace")
        raise _errors.StorageError(err.errnum, (<bytes>err.op).decode(), path or None, detail)
    if err.kind == FL_ERR_MEMORY:
        raise MemoryError("fastlayer engine: out of memory")
    if err.kind == FL_ERR_FORMAT:
        raise _errors.LayerFormatError(_text(err))
    if err.kind == FL_ERR_UNSAFE:
        raise _errors.UnsafeEntryError(_text(err))
    if err.kind == FL_ERR_LIMIT:
        raise _errors.LimitError(_text(err))
    if err.kind == FL_ERR_CHANGED:
        raise _errors.FileChangedError(_text(err))
    if err.kind == FL_ERR_USAGE:
        raise _errors.UsageError(_text(err))
    raise SystemError(f"fastlayer engine: unknown error kind {err.kind}")
