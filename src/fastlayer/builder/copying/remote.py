"""ADD of http and https addresses: a file of mode 0600, its time that of ``Last-Modified`` (BuildKit: source/http).

What an address gave before can be asked about with its ETag.
"""

from __future__ import annotations

import os
import re

from fastlayer._values import NamedTuple
from fastlayer.builder.context.fetch import MAX_BYTES, without_password
from fastlayer.builder.context.fetch import fetch as fetch_body
from fastlayer.builder.context.waiting import Check, never
from fastlayer.errors import DigestMismatchError, DockerfileError

MODE = 0o600
UNNAMED = "__unnamed__"  # what a file is called whose address has no name in it
_LAST_SECOND = (1 << 33) - 1  # beyond the year 2200 a time is a mistake


class Known(NamedTuple):
    """What an address gave before: to be kept, and to be given to ``fetch`` the next time."""

    etag: str
    digest: str
    mtime_ns: int


class Fetched(NamedTuple):
    """``name``: of the file, from the address; ``digest``: ``sha256:...`` of the content, which is the key for the
    cache; ``size`` in bytes; ``known``: None without an ETag; ``unchanged``: nothing was fetched, it is what is known.
    """

    name: str
    digest: str
    size: int
    mtime_ns: int
    known: Known | None
    unchanged: bool = False


def file_name(url: str) -> str:
    """What ADD calls the file in a directory."""
    from urllib.parse import unquote, urlsplit

    name = unquote(urlsplit(url).path, errors="surrogateescape").rstrip("/").rpartition("/")[2]
    return UNNAMED if name in ("", ".", "..") or "\0" in name else name


def check_checksum(text: str) -> None:
    """Raises ``DockerfileError`` for what is no digest."""
    if text and not re.fullmatch("sha256:[0-9a-f]{64}", text):
        raise DockerfileError(f"--checksum={text}: use sha256: and 64 hexadecimal digits")


def fetch(
    url: str,
    directory: int,
    path: str,
    *,
    checksum: str = "",
    known: Known | None = None,
    max_bytes: int = MAX_BYTES,
    check: Check = never,
) -> Fetched:
    """Fetches into the new file ``path`` of a directory's descriptor; on errors nothing is left of it.

    ``checksum``: what it must hash to; ``check`` is called with every piece that comes. Raises
    ``OperandError`` when it cannot be had, ``DigestMismatchError``, ``LimitError``.
    """
    import hashlib

    check_checksum(checksum)
    hashed = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, MODE, dir_fd=directory), "wb") as file:
            os.fchmod(file.fileno(), MODE)

            def write(data: bytes) -> None:
                check()
                hashed.update(data)
                file.write(data)

            answer = fetch_body(url, write, etag=known.etag if known is not None else "", max_bytes=max_bytes)
        if answer.known and known is not None:
            _compare(url, checksum, known.digest)
            os.unlink(path, dir_fd=directory)
            return Fetched(file_name(url), known.digest, 0, known.mtime_ns, known, True)
        digest = "sha256:" + hashed.hexdigest()
        _compare(url, checksum, digest)
        mtime_ns = _last_modified(answer.headers.get("last-modified", ""))
        os.utime(path, ns=(mtime_ns, mtime_ns), dir_fd=directory)
    except BaseException:
        _remove(directory, path)
        raise
    etag = answer.headers.get("etag", "")
    return Fetched(file_name(url), digest, answer.size, mtime_ns, Known(etag, digest, mtime_ns) if etag else None)


def _compare(url: str, wanted: str, found: str) -> None:
    if wanted and wanted != found:
        raise DigestMismatchError(
            f"{without_password(url)}: is {found}, not {wanted}: correct --checksum, or the address"
        )


def _remove(directory: int, path: str) -> None:
    try:
        os.unlink(path, dir_fd=directory)
    except OSError:
        pass


def _last_modified(text: str) -> int:
    """Nanoseconds since the epoch; 0 when it is not known."""
    from email.utils import parsedate_to_datetime

    try:
        seconds = int(parsedate_to_datetime(text).timestamp())
    except (TypeError, ValueError, OverflowError, IndexError, OSError):
        return 0
    return max(0, min(seconds, _LAST_SECOND)) * 1_000_000_000
