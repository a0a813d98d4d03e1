"""How a build is shown: BuildKit's plain lines, a live tree on a terminal, objects for machines. All on stderr."""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from fastlayer.builder.progress import Observer, Silent, Vertex
from fastlayer.cli.output import json_line
from fastlayer.cli.plain import printable
from fastlayer.cli.progress import is_terminal

if TYPE_CHECKING:
    from fastlayer.cli.build_tree import Tree

_SPECIAL = re.compile(rb"[^ -~\n]| \n| \Z|\n\n|\A\n|\A\Z|\n\Z")  # what is not printed as it is
_LINE = 8192  # bytes of a line of output that are shown at once


def observer(mode: str, *, quiet: bool) -> Observer:
    """The one for ``--progress``."""
    if quiet or mode in ("quiet", "none"):
        return Silent()
    if mode == "rawjson":
        return Objects()
    if mode == "tty" or (mode == "auto" and is_terminal()):
        from fastlayer.cli.build_tree import Tree

        return Tree(forced=mode == "tty")
    return Lines()


class Lines:
    """``#4 [2/3] RUN make``, ``#4 0.213 cc -o app``, ``#4 DONE 1.2s``: one block for each vertex as BuildKit writes it.

    An empty line stands between lines of different vertices. What begins beside others is named when there is something
    to say of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: dict[int, float] = {}
        self._cached: set[int] = set()
        self._rest: dict[int, bytearray] = {}
        self._waiting: set[int] = set()  # vertices whose name has not been printed yet
        self._shown = 0  # number of the vertex that wrote the last line

    def begin(self, vertex: Vertex) -> None:
        with self._lock:
            alone = not self._started
            self._started[vertex.number] = time.monotonic()
            self._waiting.add(vertex.number)
            if alone:
                self._name(vertex)

    def cached(self, vertex: Vertex) -> None:
        with self._lock:
            self._cached.add(vertex.number)

    def missed(self, vertex: Vertex, reason: str) -> None:
        if reason:
            self.note(vertex, f"not cached: {reason}")

    def note(self, vertex: Vertex, text: str) -> None:
        with self._lock:
            self._print(vertex, text)

    def output(self, vertex: Vertex, stream: int, data: bytes) -> None:
        with self._lock:
            rest = self._rest.setdefault(vertex.number, bytearray())
            rest += data
            *lines, tail = bytes(rest).split(b"\n")
            if len(tail) > _LINE:
                lines, tail = [*lines, tail], b""
            self._rest[vertex.number] = bytearray(tail)
            if lines:
                self._show(vertex, b"\n".join(lines))

    def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None:
        with self._lock:
            if rest := self._rest.pop(vertex.number, b""):
                self._show(vertex, bytes(rest))
            if error is not None:
                self._print(vertex, f"ERROR: {error}")
            else:
                self._print(vertex, "CACHED" if vertex.number in self._cached else f"DONE {seconds:.1f}s")
            del self._started[vertex.number]

    def _show(self, vertex: Vertex, output: bytes) -> None:
        """Lines of output, all at once: a step may write millions of them."""
        from fastlayer.cli.build_text import line_of

        head = f"#{vertex.number} {time.monotonic() - self._started[vertex.number]:.3f} "
        self._name(vertex)
        if _SPECIAL.search(output) is None:
            self._write(vertex, head + output.decode().replace("\n", "\n" + head))
        else:
            self._write(vertex, "\n".join(f"{head}{line_of(line)}".rstrip() for line in output.split(b"\n")))

    def _name(self, vertex: Vertex) -> None:
        if vertex.number in self._waiting:
            self._waiting.discard(vertex.number)
            self._write(vertex, f"#{vertex.number} {printable(vertex.name)}")

    def _print(self, vertex: Vertex, text: str) -> None:
        self._name(vertex)
        self._write(vertex, f"#{vertex.number} {printable(text)}")

    def _write(self, vertex: Vertex, lines: str) -> None:
        gap = "\n" if self._shown not in (0, vertex.number) else ""
        self._shown = vertex.number
        print(f"{gap}{lines}", file=sys.stderr, flush=True)


class Objects:
    """One JSON object a line: ``{"schema": 1, "event": "begin", "vertex": 4, "name": ...}``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self, vertex: Vertex) -> None:
        self._tell("begin", vertex, name=vertex.name, line=vertex.line)

    def cached(self, vertex: Vertex) -> None:
        self._tell("cached", vertex)

    def missed(self, vertex: Vertex, reason: str) -> None:
        self._tell("missed", vertex, reason=reason)

    def note(self, vertex: Vertex, text: str) -> None:
        self._tell("note", vertex, text=text)

    def output(self, vertex: Vertex, stream: int, data: bytes) -> None:
        self._tell("output", vertex, stream=stream, data=data.decode("utf-8", "replace"))

    def end(self, vertex: Vertex, seconds: float, error: str | None = None) -> None:
        self._tell("end", vertex, seconds=round(seconds, 6), error=error)

    def _tell(self, event: str, vertex: Vertex, **more: Any) -> None:
        line = json_line({"schema": 1, "event": event, "vertex": vertex.number, **more}).decode()
        with self._lock:
            print(line, file=sys.stderr, flush=True)


if TYPE_CHECKING:
    _CHECKED: list[type[Observer]] = [Lines, Objects, Tree]
