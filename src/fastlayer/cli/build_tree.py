"""A build on a terminal: what has ended scrolls by, what is under way stands below with its last lines of output."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from fastlayer.cli.build_text import tail_lines
from fastlayer.cli.plain import printable

if TYPE_CHECKING:
    from fastlayer.builder.progress import Vertex

_LINES = 6  # of output for each vertex; BUILDKIT_TTY_LOG_LINES
_KEPT = 8192  # bytes of output that are remembered for them


class _Running:
    def __init__(self, vertex: Vertex) -> None:
        self.vertex = vertex
        self.started = time.monotonic()
        self.output = b""
        self.cached = False


class Tree:
    """rich is imported when the first vertex begins. ``forced``: also where stderr is no terminal."""

    def __init__(self, *, forced: bool) -> None:
        self._forced = forced
        self._lock = threading.RLock()
        self._running: dict[int, _Running] = {}
        self._live: Any = None
        text = os.environ.get("BUILDKIT_TTY_LOG_LINES", "")
        self._lines = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else _LINES

    def begin(self, vertex: Vertex) -> None:
        with self._lock:
            self._running[vertex.number] = _Running(vertex)
            self._open()

    def cached(self, vertex: Vertex) -> None:
        self._running[vertex.number].cached = True

    def missed(self, vertex: Vertex, reason: str) -> None:
        if reason:
            self.note(vertex, f"not cached: {reason}")

    def note(self, vertex: Vertex, text: str) -> None:
        with self._lock:
            self._print(f"   {text}", "dim")

    def output(self, vertex: Vertex, stream: int, data: bytes) -> None:
        with self._lock:
            running = self._running[vertex.number]
            running.output = (running.output + data)[-_KEPT:]

    def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None:
        with self._lock:
            running = self._running.pop(vertex.number)
            if error is not None:
                for line in tail_lines(running.output, 2 * self._lines):
                    self._print(f"   {line}", "dim")
                self._print(f" x {vertex.name}  ERROR", "red")
            elif running.cached:
                self._print(f" = {vertex.name}  CACHED", "cyan")
            else:
                self._print(f" + {vertex.name}  {seconds:.1f}s", "green")
            if not self._running:
                self._close()

    def __rich_console__(self, _console: Any, _options: Any) -> Any:
        """What rich draws ten times a second."""
        from rich.text import Text

        with self._lock:
            for running in list(self._running.values()):
                passed = time.monotonic() - running.started
                yield Text(
                    f" > {printable(running.vertex.name)}  {passed:.1f}s", "bold", no_wrap=True, overflow="ellipsis"
                )
                for line in tail_lines(running.output, self._lines):
                    yield Text(f"   {line}", "dim", no_wrap=True, overflow="ellipsis")

    def _open(self) -> None:
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True, force_terminal=True if self._forced else None, highlight=False, markup=False)
            self._live = Live(self, console=console, transient=True, refresh_per_second=10)
            self._live.start()

    def _close(self) -> None:
        """Until another vertex begins: nothing flickers, and an error is printed below the tree."""
        self._live.stop()
        self._live = None

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        self._open()
        self._live.console.print(Text(printable(text), style), soft_wrap=True)
