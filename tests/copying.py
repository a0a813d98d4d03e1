"""What tests of COPY and ADD share: instructions from text, staging directories, layers as plain values."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.gather import Gathered, Staging, gather
from fastlayer.builder.copying.rows import Copying, Row
from fastlayer.builder.dockerfile.instructions import Add, Copy, understand
from fastlayer.builder.dockerfile.parser import parse

CREATED = 1_700_000_000_000_000_000
Value = tuple[object, ...]


def instruction(text: str) -> Copy | Add:
    """One COPY or ADD."""
    found = understand(parse(text.encode("utf-8", "surrogateescape"), "Dockerfile").instructions[0])
    assert isinstance(found, (Copy, Add))
    return found


_opened: list[int] = []


def opened(path: Path | str) -> int:
    """A descriptor that stays open until ``close_all``."""
    _opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    return _opened[-1]


def close_all() -> None:
    """At the end of a test."""
    while _opened:
        os.close(_opened.pop())


def folder(path: Path | str) -> Folder:
    return Folder(opened(path))


class Stage:
    """A place where things are fetched and extracted to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def fresh(self) -> tuple[int, str]:
        self.count += 1
        path = self.path / str(self.count)
        path.mkdir(parents=True)
        return opened(path), str(path)


def gathered(text: str, tree: Path | None, work: Path, **options: object) -> Gathered:
    staging = Staging(Stage(work / f"staging-{os.urandom(4).hex()}").fresh)
    return gather(instruction(text), folder(tree) if tree else None, staging, created_ns=CREATED, **options)  # type: ignore[arg-type]


def planned(
    text: str, tree: Path | None, lower: Path | None, work: Path, *, workdir: str = "/", **options: object
) -> tuple[Gathered, Copying]:
    found = gathered(text, tree, work, **options)
    return found, found.place(folder(lower) if lower else None, workdir=workdir, created_ns=CREATED)


def all_rows(copying: Copying) -> list[Row]:
    rows = [row for batch in copying.rows() for row in batch]
    assert len({row[1] for row in rows}) == len(rows), "a path twice"
    return sorted(rows, key=lambda row: row[1])


def content(row: Row, roots: Sequence[int]) -> bytes:
    with open(os.open(row[11], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=roots[row[10]]), "rb") as file:
        data = file.read()
    assert len(data) == row[5]
    return data


def layer(copying: Copying, roots: Sequence[int]) -> dict[str, Value]:
    """The rows by path, without times: type, permissions, owner, content or link, names of the same file."""
    rows = all_rows(copying)
    names: dict[int, list[str]] = {}
    for row in rows:
        if row[13]:
            names.setdefault(row[13], []).append(os.fsdecode(row[1]))
    found = {}
    for row in rows:
        kind = stat.filemode(row[2])[0]
        what: object = row[8] if kind == "l" else content(row, roots) if kind == "-" else row[7]
        same = tuple(sorted(names.get(row[13], ())))
        mode = 0o777 if kind == "l" else row[2] & 0o7777
        found[os.fsdecode(row[1])] = (kind, mode, row[3], row[4], what, same if len(same) > 1 else ())
    return found
