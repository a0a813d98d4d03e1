"""A blob on its way into the store: a temporary file, hashed as it grows, and a rename when it is what it should be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.content.files import Durability, explained, make_durable, new_file, sync_directory, write_all
from fastlayer.errors import DigestMismatchError, StorageError, UsageError
from fastlayer.oci.digest import Digest

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_LEASE = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_HASHES = ("sha256", "sha384", "sha512")
_PIECE = 1 << 20
_WORTH_A_THREAD = 256 << 10  # bytes whose hashing takes much longer than telling a thread of them


Keep = Callable[[Digest], object]  # is told of a digest before it is looked for or named


class Stored(NamedTuple):
    """A blob in the store: what it hashes to and its bytes."""

    digest: Digest
    size: int


def new_hash(algorithm: str) -> Any:
    """A hasher for digests of that algorithm. Raises ``UsageError`` for one that cannot be computed here."""
    if algorithm not in _HASHES:
        raise UsageError(f"digests of {algorithm} are not supported here: use sha256 or sha512")
    import hashlib

    return hashlib.new(algorithm, usedforsecurity=False)


def temporary_name(lease: str) -> str:
    """A new name in ``ingest/`` that tells the lease."""
    if not _LEASE.fullmatch(lease):
        raise UsageError(f"{lease!a} is no name of a lease: 1 to 64 letters and digits")
    return f"{lease}-{os.urandom(6).hex()}"


def lease_of(name: str) -> str:
    """The lease in the name of an unfinished blob; empty for what has another kind of name."""
    lease, dash, _ = name.partition("-")
    return lease if dash else ""


class Ingest:
    """See ``ContentStore.ingest``. A context manager: leaving it without ``commit`` removes what was written."""

    def __init__(
        self,
        store: Path,
        lease: str,
        digest: Digest | None,
        size: int | None,
        *,
        trusted: bool,
        durability: Durability,
        keep: Keep | None = None,
    ) -> None:
        self.size = 0
        self._keep = keep
        self._store = store
        self._digest = digest
        self._wanted_size = size
        self._durability = durability
        self._algorithm = digest.algorithm if digest is not None else "sha256"
        self._hasher = None if trusted else new_hash(self._algorithm)
        self._pool: ThreadPoolExecutor | None = None
        self._path: Path | None = store / "ingest" / temporary_name(lease)
        with explained("cannot write", self._path):
            self._fd = new_file(self._path)

    def fileno(self) -> int:
        """The temporary file, for callers that fill it themselves; then they call ``take``."""
        return self._fd

    def write(self, data: Any) -> None:
        """All of ``data``. Raises ``DigestMismatchError`` as soon as there is too much of it, ``NoSpaceError``."""
        self._grow(len(data))
        if self._hasher is None or len(data) < _WORTH_A_THREAD:
            if self._hasher is not None:
                self._hasher.update(data)
            self._write(data)
            return
        hashed = self._thread().submit(self._hasher.update, data)
        try:
            self._write(data)
        finally:
            hashed.result()  # the caller may use its buffer again

    def _write(self, data: Any) -> None:
        with explained("cannot write", self._store):  # the temporary name would tell nobody anything
            write_all(self._fd, data)

    def _thread(self) -> ThreadPoolExecutor:
        """Hashes while we write. Of this blob only: a thread does not survive a fork."""
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(1)
        return self._pool

    def take(self, source: int, size: int, *, shared: bool = False) -> None:
        """The first ``size`` bytes of the file ``source``; when ``shared`` they are in the temporary file already."""
        if shared:
            self._take_shared()
            return
        buffer = memoryview(bytearray(min(_PIECE, max(size, 1))))
        offset = 0
        while offset < size:
            with explained("read", source):
                count = os.preadv(source, [buffer[: size - offset]], offset)
            if not count:
                return
            self.write(buffer[:count])
            offset += count

    def _take_shared(self) -> None:
        with explained("read", self._path):
            size = os.fstat(self._fd).st_size
            self._grow(size)
            if self._hasher is None:
                return
            buffer = memoryview(bytearray(_PIECE))
            offset = 0
            while count := os.preadv(self._fd, [buffer], offset):
                self._hasher.update(buffer[:count])
                offset += count

    def link(self, path: Any, source: int) -> bool:
        """Replaces the empty temporary file by another name of the file at ``path``, open as ``source``.

        False where that is not possible.
        """
        assert self._path is not None
        second = self._path.with_name(self._path.name + "l")
        try:
            os.link(path, second, follow_symlinks=True)
        except OSError:
            return False
        try:
            fd = os.open(second, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not os.path.sameopenfile(fd, source):
                os.close(fd)
                raise StorageError(116, "link", os.fspath(path))  # ESTALE: another file has the name now
            os.rename(second, self._path)
        except BaseException:
            second.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        return True

    def _grow(self, count: int) -> None:
        self.size += count
        if self._wanted_size is not None and self.size > self._wanted_size:
            name = f"{self._digest}: " if self._digest else ""
            raise DigestMismatchError(f"{name}longer than the {self._wanted_size} bytes it should have")

    def commit(self, digest: str | None = None) -> Stored:
        """Verifies the blob and gives it its name. Raises ``DigestMismatchError``, ``StorageError``.

        ``digest``: of a trusted blob, when it was not known at the beginning.
        """
        verified = self._verified(Digest(digest) if digest is not None else None)
        if self._keep is not None:
            self._keep(verified)
        return self._name(verified)

    def _name(self, digest: Digest) -> Stored:
        assert self._path is not None
        target = self._store / "blobs" / digest.algorithm
        with explained("cannot write", target / digest.encoded):
            make_durable(self._fd, self._durability)
            if digest.algorithm != "sha256":
                target.mkdir(exist_ok=True)
            os.rename(self._path, target / digest.encoded)
            self._path = None
            sync_directory(target, self._durability)
        self._close()
        return Stored(digest, self.size)

    def _verified(self, given: Digest | None) -> Digest:
        if self._wanted_size is not None and self.size != self._wanted_size:
            name = f"{self._digest}: " if self._digest else ""
            raise DigestMismatchError(f"{name}has {self.size} bytes instead of {self._wanted_size}")
        wanted = self._digest or given
        if self._hasher is None:
            if wanted is None:
                raise UsageError("a trusted blob needs its digest")
            return wanted
        found = Digest(f"{self._algorithm}:{self._hasher.hexdigest()}")
        if wanted is not None and found != wanted:
            raise DigestMismatchError(f"{wanted}: the bytes hash to {found}: fetch it again")
        return found

    def abort(self) -> None:
        """Removes what was written. Does nothing after ``commit``."""
        self._close()
        if self._path is not None:
            path, self._path = self._path, None
            with explained("cannot remove", path):
                path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.abort()
