"""Blobs on their way into the store, which stay where they are when the way breaks off.

Below ``downloads/`` of the store a blob has a file, named by its digest, with its bytes at their places, and a log that
says which of them have come: a line of JSON (``size``, ``identity``: bytes that are there never become others without a
new one), then lines ``START END``, each appended when its bytes have been written. A line that a killed process has
begun is no line. The file is locked (flock(2)) by whoever fetches the blob; others wait for it. What the log says is
believed for the moment only: the digest has the last word, and a blob that has another one is thrown away.

What nobody fetches any more stays for a while, for whoever asks for it again (``store/downloads.py``).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fastlayer.content.files import explained, write_all
from fastlayer.layer.pipeline import checkpoint
from fastlayer.oci.digest import Digest
from fastlayer.store.downloads import LOG, downloads_of
from fastlayer.transfer.pulling.spans import Spans

if TYPE_CHECKING:
    from fastlayer.store.store import Store

_WAIT = 0.05  # seconds between two looks whether another process is done
_LONGEST_LOG = 8 << 20
_LONGEST_HEAD = 200


class KeptBlob:
    """The file of a blob, locked; a context manager. ``spans``: the bytes that are there, ``identity``: their name."""

    def __init__(self, store: Store, digest: Digest, size: int) -> None:
        place = downloads_of(store.root)
        with explained("cannot make", place):
            place.mkdir(mode=0o700, exist_ok=True)
        self.path = place / f"{digest.algorithm}-{digest.encoded}"
        self.size = size
        self.spans = Spans()
        self.identity = ""
        self._log_path = Path(f"{self.path}{LOG}")
        self._fd = self._log = -1

    def lock(self, done: Callable[[], bool], meanwhile: Callable[[], object] | None = None) -> bool:
        """Makes the file ours; False when ``done`` says that there is nothing left to do.

        It is waited for, ``meanwhile`` being called; without that, False if somebody has it.
        """
        while not done():
            with explained("cannot write", self.path):
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            if self._is_ours(fd):
                if done():  # by whoever had the file until now
                    self.path.unlink(missing_ok=True)
                    os.close(fd)
                    return False
                self._fd = fd
                self._open_log()
                return True
            os.close(fd)
            if meanwhile is None:
                return False
            time.sleep(_WAIT)
            checkpoint()
            meanwhile()
        return False

    def _is_ours(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found, named = os.fstat(fd), os.stat(self.path)
        except BlockingIOError:
            return False
        except FileNotFoundError:  # whoever had it is done
            return False
        return os.path.samestat(found, named)

    def _open_log(self) -> None:
        with explained("cannot write", self._log_path):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._log = os.open(self._log_path, flags, 0o600)
            whole = os.fstat(self._fd).st_size
            found = _read_log(self._log, self.size)
        if found is None or any(end > whole for _, end in found[1]):
            self.reset()
        else:
            self.identity, self.spans = found

    def reset(self) -> None:
        """Nothing is there."""
        self.spans = Spans()
        self.identity = os.urandom(16).hex()
        with explained("cannot write", self.path):
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._log, 0)
            write_all(self._log, json.dumps({"size": self.size, "identity": self.identity}).encode() + b"\n")

    def write(self, data: bytes | memoryview, at: int) -> None:
        """Bytes at their place; they count when they are noted. Raises ``NoSpaceError``, ``StorageError``."""
        view = memoryview(data)
        with explained("cannot write", self.path):
            while view:
                count = os.pwrite(self._fd, view, at)
                view, at = view[count:], at + count

    def note(self, start: int, end: int) -> None:
        """What has been written is there, for others too."""
        with explained("cannot write", self._log_path):
            write_all(self._log, b"%d %d\n" % (start, end))

    def readinto(self, buffer: memoryview, at: int) -> int:
        with explained("read", self.path):
            return os.preadv(self._fd, [buffer], at)

    def give(self, store: Store, lease: str, digest: Digest) -> None:
        """The blob is complete and verified: it becomes one of the store."""
        store.content.adopt(self.path, lease, digest=digest, trusted=True, how="move")
        with explained("cannot remove", self._log_path):
            self._log_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        fds, self._fd, self._log = (self._log, self._fd), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> KeptBlob:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _read_log(fd: int, size: int) -> tuple[str, Spans] | None:
    """What the log says: identity and spans; None for one that is not of this blob."""
    if os.fstat(fd).st_size > _LONGEST_LOG:
        return None
    head, *lines = os.pread(fd, _LONGEST_LOG, 0).split(b"\n")
    if len(head) > _LONGEST_HEAD:
        return None
    try:
        said = json.loads(head)
        if said["size"] != size:
            return None
        spans = Spans()
        for line in lines[:-1]:  # behind the last line feed there is nothing, or a line that was cut short
            start, end = map(int, line.split())
            if not 0 <= start < end <= size:
                return None
            spans.add(start, end)
        return str(said["identity"]), spans
    except (ValueError, KeyError, TypeError):
        return None
