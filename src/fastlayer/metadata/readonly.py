"""The database where nothing can be written, so that SQLite cannot make its files beside it.

Without a ``-wal`` the file is all there is, and nobody changes it: ``immutable``. With ``-wal`` and ``-shm`` SQLite
reads them as they are. A ``-wal`` that lost its ``-shm`` is read from a copy in memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~/"  # in a URI (RFC 3986, "Unreserved")


def connect(path: Path) -> sqlite3.Connection:
    """A connection that only reads. Raises ``sqlite3.DatabaseError``, ``OSError``."""
    import sqlite3

    wal, shm = (Path(f"{path}{end}") for end in ("-wal", "-shm"))
    has_wal = wal.exists() and wal.stat().st_size > 0
    if has_wal and not shm.exists():
        db = _copied(path, wal)
    else:
        db = _open(f"{_uri(path)}?mode=ro") if has_wal else immutable(path)
    db.row_factory = sqlite3.Row
    return db


def immutable(path: Path) -> sqlite3.Connection:
    """A connection to a file that nobody writes to, whatever lies beside it."""
    return _open(f"{_uri(path)}?mode=ro&immutable=1")


def _uri(path: str | Path) -> str:
    name = os.fsencode(os.path.abspath(path))
    return "file:" + "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in name)


def _open(uri: str) -> sqlite3.Connection:
    import sqlite3

    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _copied(path: Path, wal: Path) -> sqlite3.Connection:
    import shutil
    import tempfile

    db = _open("file::memory:")
    with tempfile.TemporaryDirectory(prefix="fastlayer-") as scratch:
        for file in (path, wal):
            shutil.copyfile(file, os.path.join(scratch, file.name))
        copy = _open(_uri(os.path.join(scratch, path.name)))
        try:
            copy.backup(db)
        finally:
            copy.close()
    return db
