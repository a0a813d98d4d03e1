"""Builds that have nothing to do, recognised before the builder is loaded.

When a build has found all its steps in the cache, what it looked at is written down: the Dockerfile and ignore files
word by word, a digest of the scanned context, the images its bases were, the keys of its steps. When all of that is
still so, the result is the same. Anything else - another option, a changed file, a pruned step - is for the builder.

A memo is a file below ``<root>/cache/memos``, named by what was asked for. It is only a shortcut: losing one costs
time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer._version import __version__
from fastlayer.errors import FastlayerError

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.builder.result import BuildResult
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import Image
    from fastlayer.store.store import Store

SCHEMA = 1
_BATCH = 1 << 12  # entries; as builder/context/table.py has it
_CTIME = slice(32, 40)  # seconds, in a record of a scan (csrc/fl_entry.h)
_SIZE = 96
_FRESH_NS = 3600 * 10**9  # older ones go through the builder, which notes that the steps were of use
_LARGEST = 1 << 20  # bytes of a Dockerfile or ignore file
_NAMES = ("Dockerfile", "Containerfile")
_IGNORES = (".dockerignore", ".containerignore")
_MOST = 64  # memos that are kept

Question = Mapping[str, Any]  # JSON values: everything that was asked for


class Answer(NamedTuple):
    """``vertices``: names and lines, as they would be shown; ``totals``: the numbers of ``BuildResult``; ``lint``: the
    rule's name, message, first and last line of each warning."""

    target: str
    names: tuple[str, ...]
    vertices: tuple[tuple[str, int], ...]
    totals: Mapping[str, Any]
    lint: tuple[tuple[str, str, int, int], ...]


def question(context: str, file: str | None, asked: Mapping[str, Any]) -> Question | None:
    """What is asked for, when a memo can be of it: the context is a directory, the Dockerfile a file."""
    if file == "-" or not os.path.isdir(context):
        return None
    here = os.stat(context)
    place = [os.path.realpath(context), here.st_dev, here.st_ino]
    cwd = os.getcwd() if file is not None else ""
    return {"schema": SCHEMA, "version": __version__, "context": place, "cwd": cwd, "file": file, **asked}


def recall(store: Store, asked: Question) -> Answer | None:
    """The answer that is remembered, if everything is as it was."""
    path = _path(store, asked)
    try:
        memo = json.loads(path.read_bytes())
        if memo["question"] != json.loads(json.dumps(asked)) or time.time_ns() - memo["used_ns"] > _FRESH_NS:
            return None
        if memo["files"] != _files(asked) or not _all_there(store, memo):
            return None
        if memo["scan"] is not None and memo["scan"] != _scan(asked["context"][0], memo["program"]):
            return None
        vertices = tuple((name, line) for name, line in memo["vertices"])
        lint = tuple((name, message, start, end) for name, message, start, end in memo["lint"])
        return Answer(memo["target"], tuple(memo["names"]), vertices, memo["totals"], lint)
    except (OSError, ValueError, KeyError, TypeError, FastlayerError):
        return None


def remember(store: Store, asked: Question, shop: Workshop, result: BuildResult) -> None:
    """Writes down a build that found everything in the cache; nothing when that cannot be told again so cheaply."""
    context, image = shop.context, result.image
    scan = None
    if context.tree.is_scanned:
        scanned = context.tree.digested
        scan = _digest((batch.all_records(), batch.all_heap()) for batch in scanned.table.batches)
        if _is_racy(scan, scanned.racy_ns):
            return
    if store.read_only:
        return
    try:
        files = _files(asked)
    except (OSError, ValueError):  # too large, or not to be read any more
        return
    memo = {
        "question": asked,
        "used_ns": time.time_ns(),
        "files": files,
        "program": _program(context.patterns),
        "scan": scan,
        "bases": shop.bases,
        "lint": [[found.rule.name, found.message, found.start, found.end] for found in result.lint],
        "steps": [step.key for step, _ in shop.steps if step.key not in shop.elsewhere],
        "chain": _stack(store, image),
        "target": str(image.target.digest),
        "names": list(image.names),
        "vertices": [[vertex.name, vertex.line] for vertex in shop.journal.vertices],
        "totals": result.totals,
    }
    _write(_path(store, asked), json.dumps(memo).encode())


# ---- what is compared ------------------------------------------------------------------------------


def _path(store: Store, asked: Question) -> Path:
    hashed = _backend.hashing().Sha256()
    hashed.update(json.dumps(asked, sort_keys=True).encode())
    name: str = hashed.hexdigest()[:32]
    return store.root / "cache" / "memos" / name


def _files(asked: Question) -> dict[str, str | None]:
    """All files that may be the Dockerfile or its ignore file, with what they say; None: not there."""
    return {path: _text(path) for path in _candidates(asked)}


def _candidates(asked: Question) -> Iterator[str]:
    context, file = asked["context"][0], asked["file"]
    named = [os.path.join(context, name) for name in _NAMES]
    if file is not None:
        named = [os.path.join(asked["cwd"], file), os.path.join(context, file)]
    for path in named:
        yield path
        yield path + _IGNORES[0]
    yield from (os.path.join(context, name) for name in _IGNORES)


def _text(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb", buffering=0) as file:
        data = file.read(_LARGEST + 1) or b""
    if len(data) > _LARGEST:
        raise ValueError("too large to be kept")
    return data.decode("latin-1")


def _program(patterns: Sequence[str]) -> str | None:
    """The patterns as the engine reads them."""
    if not patterns:
        return None
    from fastlayer.builder.dockerfile.ignore import program

    return program(patterns).decode("latin-1")


def _scan(context: str, program: str | None) -> list[Any]:
    """``_digest`` of the context as it is."""
    fd = os.open(context, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        more = {} if program is None else {"ignore": program.encode("latin-1")}
        scanner = _backend.engine().scan.Scanner(fd, xattrs="docker", **more)
        return _digest(iter(lambda: scanner.next_batch(_BATCH), None))
    finally:
        os.close(fd)


def _digest(batches: Iterable[tuple[bytes, bytes]]) -> list[Any]:
    """Of all records and heaps of a scan, and its latest ctime in seconds."""
    hashed = _backend.hashing().Sha256()
    latest = 0
    for records, heap in batches:
        hashed.update(records)
        hashed.update(heap)
        latest = max(latest, _latest(records))
    return [hashed.hexdigest(), latest]


def _latest(records: bytes) -> int:
    view = memoryview(records).cast("q")
    return max(view[_CTIME.start // 8 :: _SIZE // 8], default=0)


def _is_racy(scan: list[Any], racy_ns: int) -> bool:
    """Whether a file may change without its ctime telling (git's racy rule), to the second."""
    return bool((scan[1] + 1) * 10**9 > racy_ns)


def _all_there(store: Store, memo: Mapping[str, Any]) -> bool:
    keys = memo["steps"]
    with store.database.read() as db:
        for name, digest in {**memo["bases"], **dict.fromkeys(memo["names"], memo["target"])}.items():
            if _named(db, name) != digest:
                return False
        if not memo["names"] and _named(db, memo["target"]) is None:
            return False
        there = db.execute(
            f"SELECT count(*) FROM build_steps WHERE key IN ({','.join('?' * len(keys))})", keys
        ).fetchone()[0]
        stacked = db.execute(
            "SELECT 1 FROM snapshots WHERE key = ? AND state = 'ready' AND kind = 'committed'", (memo["chain"],)
        ).fetchone()
    return there == len(set(keys)) and (stacked is not None or memo["chain"] is None)


def _stack(store: Store, image: Image) -> str | None:
    """The name of the snapshot of all layers; None: there is none, as the layers are blobs that nobody needed yet."""
    from fastlayer.image.holders import holders

    name = str(image.chain_id) if image.chain_id else None
    return name if name is not None and holders(store, name) else None


def _named(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT digest FROM images WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _write(path: Path, data: bytes) -> None:
    """Complete or not at all; the oldest go when there are many."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh.write_bytes(data)
        os.replace(fresh, path)
        found = sorted(path.parent.iterdir(), key=lambda memo: memo.stat().st_mtime)
        for old in found[:-_MOST]:
            old.unlink(missing_ok=True)
    except OSError:
        fresh.unlink(missing_ok=True)
