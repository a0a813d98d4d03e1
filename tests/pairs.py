"""Two trees side by side, made, changed and compared through one backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastlayer import _backend

WHEN = 1_600_000_000_123_456_789


@contextmanager
def directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def table_of(engine: _backend.Engine, a: Any, b: Any, **options: Any) -> Any:
    differ = engine.changes.Differ(a, b, **options)
    while differ.step():
        pass
    return differ.finish()


class Pair:
    """Two trees to be changed and compared. Times are fixed at the latest moment, from the leaves up."""

    def __init__(self, base: Path, engine: _backend.Engine) -> None:
        self.engine = engine
        self.a, self.b = base / "a", base / "b"
        self.a.mkdir()
        self.b.mkdir()
        self.keep_times: set[Path] = set()

    def both(self, make: Callable[[Path], object]) -> None:
        make(self.a)
        make(self.b)

    def settle_times(self) -> None:
        for root in (self.a, self.b):
            for folder, names, files in os.walk(root, topdown=False):
                for path in [Path(folder, name) for name in (*names, *files)]:
                    if path not in self.keep_times:
                        os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)
            if root not in self.keep_times:
                os.utime(root, ns=(WHEN, WHEN))

    def at(self, path: Path, when: int) -> None:
        """Sets a time that settle_times leaves alone."""
        os.utime(path, ns=(when, when), follow_symlinks=False)
        self.keep_times.add(path)

    def table(self, **options: Any) -> Any:
        self.settle_times()
        with directory(self.a) as a, directory(self.b) as b:
            return table_of(self.engine, a, b, **options)

    def rows(self, **options: Any) -> list[tuple[str, bytes, int]]:
        return [(row.kind, row.path, row.what) for row in _backend.iter_rows(self.table(**options))]

    def lines(self, **options: Any) -> list[str]:
        """Without the parents."""
        return [f"{kind} {os.fsdecode(path)}" for kind, path, _ in self.rows(**options) if kind != "P"]


def put(path: Path, data: bytes = b"", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def link_names(root: Path, *names: str, data: bytes = b"x") -> None:
    first = put(root / names[0], data)
    for name in names[1:]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).hardlink_to(first)
