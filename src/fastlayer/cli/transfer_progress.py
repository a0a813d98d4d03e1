"""How a transfer is shown, on stderr: a line per blob on a terminal that moves, a line when one ends elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from fastlayer.cli.output import human, json_line
from fastlayer.cli.progress import is_terminal
from fastlayer.transfer.events import BlobProgress, Observer, silent

_DELAY = 0.5  # seconds before bars are drawn
_OBJECT_EVERY = 1.0  # seconds between the objects of rawjson about a blob
_WORDS = {
    "waiting": "Waiting",
    "receiving": "Receiving",
    "unpacking": "Unpacking",
    "compressing": "Compressing and sending",
    "sending": "Sending",
    "present": "Already there",
    "mounted": "Mounted",
    "done": "Done",
}


class TransferReporter:
    """``with TransferReporter(mode, quiet=False) as shown: push(..., observe=shown.observe)``."""

    def __init__(self, mode: str, *, quiet: bool) -> None:
        self._mode = "none" if quiet or mode == "quiet" else mode
        if self._mode == "auto":
            self._mode = "tty" if is_terminal() else "plain"
        self._started = time.monotonic()
        self._said: dict[str, float] = {}
        self._bars: Any = None
        self._rows: dict[str, Any] = {}

    def __enter__(self) -> TransferReporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def observe(self) -> Observer:
        shown: dict[str, Observer] = {"plain": self._line, "tty": self._draw, "rawjson": self._object}
        return shown.get(self._mode, silent)

    def _line(self, blob: BlobProgress) -> None:
        if blob.ended:
            size = f" {human(blob.total)}" if blob.total is not None else ""
            print(f"{_name(blob)}: {_WORDS[blob.doing]}{size}", file=sys.stderr, flush=True)

    def _object(self, blob: BlobProgress) -> None:
        now = time.monotonic()
        if not blob.ended and now - self._said.get(_name(blob), -_OBJECT_EVERY) < _OBJECT_EVERY:
            return
        self._said[_name(blob)] = now
        value = {"schema": 1, **blob._asdict()}
        print(json_line(value).decode(), file=sys.stderr, flush=True)

    def _draw(self, blob: BlobProgress) -> None:
        if time.monotonic() - self._started < _DELAY:
            return
        if self._bars is None:
            self._bars = _open_bars()
        name = _name(blob)
        if name not in self._rows:
            self._rows[name] = self._bars.add_task("", total=None, name=name)
        done = blob.moved + blob.kept
        self._bars.update(self._rows[name], description=_WORDS[blob.doing], completed=done, total=blob.total)


def _name(blob: BlobProgress) -> str:
    """12 digits, as docker shows them."""
    text = blob.name or str(blob.digest or "")
    return text.partition(":")[2][:12] or text


def _open_bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bars = Progress(
        TextColumn("{task.fields[name]}"),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bars.start()
    return bars
