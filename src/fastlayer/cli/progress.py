"""Progress on stderr: a bar on a terminal, sparse lines elsewhere, nothing for quick work.

rich is imported only when a bar is really shown, that is when work on a terminal lasts more than half a second.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastlayer.cli.output import human, json_line

if TYPE_CHECKING:
    from fastlayer.layer.progress import Progress

_DELAY = 0.5  # seconds before anything is shown
_OBJECT_EVERY = 1.0  # seconds between objects of rawjson
_LINE_EVERY = 10.0  # seconds between plain lines


class Reporter:
    """A progress callback with a life time.

    ``with Reporter("auto", quiet=False) as report: diff(..., progress=report.callback)``
    """

    def __init__(self, mode: str, *, quiet: bool) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._started = time.monotonic()
        self._last_line = self._started
        self._tty = mode == "tty" or (mode == "auto" and is_terminal())
        self._mode = "quiet" if quiet or mode in ("none", "quiet") else mode

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def callback(self) -> Any:
        """What to hand to the library: a callable, or None when nothing would be shown."""
        if self._mode == "quiet" or (self._mode == "auto" and not self._tty):
            return None
        return self._update

    def _update(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._started < _DELAY:
            return
        if self._tty:
            self._draw(progress)
        elif self._mode == "rawjson":
            self._tell(progress, now)
        elif now - self._last_line >= _LINE_EVERY:
            self._last_line = now
            print(f"{progress.stage}: {progress.entries} entries, {human(progress.bytes)}", file=sys.stderr)

    def _tell(self, progress: Progress, now: float) -> None:
        if now - self._last_line < _OBJECT_EVERY:
            return
        self._last_line = now
        value = {"schema": 1, **{name: getattr(progress, name) for name in ("stage", "entries", "bytes", "total")}}
        print(json_line(value).decode(), file=sys.stderr)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar, self._task = _open_bar(forced=self._mode == "tty")
        self._bar.update(
            self._task,
            description=progress.stage,
            completed=progress.bytes,
            total=progress.total,
            entries=f"{progress.entries} entries",
        )


def is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and os.environ.get("CI") != "true"


def _open_bar(*, forced: bool) -> tuple[Any, Any]:
    """The bar has the only colours there are; rich leaves them out with NO_COLOR or TERM=dumb."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[entries]}"),
        console=Console(stderr=True, force_terminal=True if forced else None),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=None, entries="")
