"""What observers are told of one blob on its way, not more often than anybody could look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fastlayer.errors import RegistryError
from fastlayer.oci.digest import Digest
from fastlayer.transfer.events import BlobProgress, Doing, Observer

_EVERY = 0.1  # seconds


class Teller:
    """Passes on what several threads have to say, one at a time. After ``stop`` they are stopped by what they say."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def tell(self, progress: BlobProgress) -> None:
        if self._stopped:
            raise RegistryError("given up, for another blob could not be moved")
        with self._lock:
            self._observe(progress)


class Track:
    """One blob. ``name``: what it is called while its digest is not known."""

    def __init__(self, teller: Teller, digest: Digest | None, total: int | None, name: str) -> None:
        self._tell = teller.tell
        self._digest, self._total, self._name = digest, total, name
        self._doing: Doing = "waiting"
        self._next = 0.0

    def begin(self, doing: Doing) -> Callable[[int], None]:
        """What is told from now on how many bytes have gone."""
        self._doing = doing
        self._say(doing, 0)
        return self._went

    def _went(self, offset: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY
            self._say(self._doing, offset)

    def end(self, doing: Doing, digest: Digest, size: int) -> None:
        """All of it is there now."""
        self._digest, self._total = digest, size
        self._say(doing, size if doing == "done" else 0, kept=0 if doing == "done" else size)

    def _say(self, doing: Doing, moved: int, kept: int = 0) -> None:
        self._tell(BlobProgress(self._digest, doing, moved, kept, self._total, self._name))
