"""What a step writes, on its way to whoever follows the build."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlayer.builder.progress import Work

_PIECE = 1 << 16
_KEPT = 8 << 10  # bytes of the end that are kept, for the message when it fails


class Output:
    """Two pipes for the block: ``stdout`` and ``stderr`` are their writing ends. All that was written has been passed
    on when the block ends."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tail = bytearray()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.stdout = self.stderr = -1

    def __enter__(self) -> Output:
        self.stdout = self._pipe(1)
        self.stderr = self._pipe(2)
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        for thread in self._threads:
            thread.join()

    def tail(self) -> bytes:
        """The last that was written, by either."""
        return bytes(self._tail)

    def _pipe(self, stream: int) -> int:
        source, sink = os.pipe2(os.O_CLOEXEC)
        thread = threading.Thread(target=self._pass_on, args=(source, stream), daemon=True)
        self._threads.append(thread)
        thread.start()
        return sink

    def _pass_on(self, source: int, stream: int) -> None:
        with open(source, "rb", buffering=0) as file:
            while data := file.read(_PIECE):
                with self._lock:
                    self._tail += data
                    del self._tail[:-_KEPT]
                self._work.output(stream, data)
