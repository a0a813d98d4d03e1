"""What ADD fetched from http(s) addresses with an ETag, kept from build to build: the next one asks only if it is new.

A directory with, by the sha256 of an address, what it gave (JSON), and the contents by their digests. Files appear
whole, by renaming; contents are verified when they are used again; what was not used for longest goes when there is too
much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from fastlayer.builder.copying.remote import MODE, Known

MAX_FILE = 256 << 20  # bytes; larger contents are fetched each time
MAX_ALL = 1 << 30
_MAX_COUNT = 4096  # files
_SMALL = 4096  # bytes of what is known of an address
_CHUNK = 1 << 20


class Addresses:
    """``directory``: made when something is kept. Where it cannot be written to nothing is kept; nothing is raised."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def known(self, url: str) -> Known | None:
        """What an address gave, when that is still here."""
        import json

        try:
            with open(self._about(url), "rb") as file:
                found = json.loads(file.read(_SMALL))
            known = Known(str(found["etag"]), str(found["digest"]), int(found["mtime_ns"]))
            return known if os.path.getsize(self._content(known.digest)) <= MAX_FILE else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, url: str, known: Known, directory: int, name: str) -> None:
        """Keeps what was fetched to a name in a directory's descriptor."""
        import json

        try:
            if os.stat(name, dir_fd=directory).st_size > MAX_FILE:
                return
            os.makedirs(self._directory, 0o700, exist_ok=True)
            content = open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb")
            with content, self._appearing(self._content(known.digest)) as out:
                while data := content.read(_CHUNK):
                    out.write(data)
            with self._appearing(self._about(url)) as out:
                out.write(json.dumps(known._asdict()).encode())
            self._sweep()
        except OSError:
            return

    def put(self, digest: str, directory: int, name: str) -> bool:
        """Puts the content of a digest at a new name in a directory's descriptor; False when it is not here, whole."""
        import hashlib

        hashed = hashlib.sha256()
        try:
            with open(self._content(digest), "rb") as content:
                os.utime(content.fileno())  # it was used
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(name, flags, MODE, dir_fd=directory), "wb") as out:
                    while data := content.read(_CHUNK):
                        hashed.update(data)
                        out.write(data)
        except OSError:
            pass
        if "sha256:" + hashed.hexdigest() == digest:
            return True
        _remove(name, directory)
        _remove(self._content(digest))
        return False

    def _about(self, url: str) -> str:
        import hashlib

        return os.path.join(
            self._directory, hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest() + ".json"
        )

    def _content(self, digest: str) -> str:
        name = digest.removeprefix("sha256:")
        if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
            raise ValueError(digest)
        return os.path.join(self._directory, name)

    @contextmanager
    def _appearing(self, path: str) -> Iterator[BinaryIO]:
        """A new file that has its name when the block has ended well."""
        temporary = f"{path}.{os.urandom(6).hex()}.new"
        try:
            with open(temporary, "xb", opener=_private) as file:
                yield file
            os.rename(temporary, path)
        except BaseException:
            _remove(temporary)
            raise

    def _sweep(self) -> None:
        with os.scandir(self._directory) as entries:
            found = [(entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in entries]
        total, count = sum(size for _, size, _ in found), len(found)
        for _, size, path in sorted(found):
            if total <= MAX_ALL and count <= _MAX_COUNT:
                return
            os.unlink(path)
            total, count = total - size, count - 1


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove(path: str, directory: int | None = None) -> None:
    try:
        os.unlink(path, dir_fd=directory)
    except OSError:
        pass
