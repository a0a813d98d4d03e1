"""``cache export``: cache mounts become chunks in an archive; those that are there are not written again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder import cachemounts
from fastlayer.builder.mountarchive.entries import to_line
from fastlayer.builder.mountarchive.index import Mount
from fastlayer.builder.mountarchive.pack import Packer
from fastlayer.builder.mountarchive.tree import Walk
from fastlayer.errors import NotFoundError
from fastlayer.layer.pipeline import default_jobs

if TYPE_CHECKING:
    from fastlayer.builder.cachemounts import CacheMount
    from fastlayer.builder.mountarchive.places import Target
    from fastlayer.store.store import Store

_BATCH = 1 << 18  # bytes of lines that are given on together


class Exported(NamedTuple):
    """``written``: how many chunks, ``new``: their bytes in the archive; ``sockets``: files that were left out."""

    mount: Mount
    written: int
    new: int
    sockets: int


class Export(NamedTuple):
    """``removed``: chunks that nobody needs any more."""

    mounts: tuple[Exported, ...]
    removed: int


def export(
    store: Store,
    target: Target,
    *,
    ids: Sequence[str] = (),
    jobs: int | None = None,
    check: Callable[[], None] = lambda: None,
    waiting: Callable[[str], None] = lambda _: None,
) -> Export:
    """Writes the cache mounts of ``ids`` to ``target``, which keeps its others; without ids all, and no others.

    Waits until no step has a mount; ``waiting`` is told its id, ``check`` is called meanwhile, and may raise. Raises
    ``NotFoundError`` for an id that is not there, ``StorageError``, ``FileChangedError``.
    """
    wanted = _wanted(store, ids)
    done = []
    threads = default_jobs(jobs)
    with ThreadPoolExecutor(threads) as pool:
        for mount in wanted:
            with cachemounts.alone(store, mount.id, check, partial(waiting, mount.id)) as found:
                if found is not None:
                    done.append(_one(store, found, target, pool, threads, check))
    mounts = {one.mount.id: one.mount for one in done}
    kept = {**target.mounts, **mounts} if ids else mounts
    return Export(tuple(done), target.finish(kept))


def _wanted(store: Store, ids: Sequence[str]) -> list[CacheMount]:
    """Of each id one mount."""
    there = {mount.id: mount for mount in cachemounts.all_mounts(store)}
    for identity in ids:
        if identity not in there:
            raise NotFoundError(f"{identity}: no cache mount has this id: `fastlayer cache ls` lists them")
    return [there[identity] for identity in (dict.fromkeys(ids) or sorted(there))]


def _one(
    store: Store, mount: CacheMount, target: Target, pool: ThreadPoolExecutor, jobs: int, check: Callable[[], None]
) -> Exported:
    data, lines = Packer(target, pool, jobs), Packer(target, pool, jobs)
    root = os.open(cachemounts.data_of(store, mount), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk = Walk(root, data.take, check)
        count = 0
        for batch in _batches(to_line(entry) for entry in walk.entries()):
            count += batch.count(b"\n")
            lines.take(batch)
    finally:
        os.close(root)
    made = Mount(mount.id, mount.used_ns, count, tuple(lines.finish()), tuple(data.finish()))
    return Exported(made, data.written + lines.written, data.new + lines.new, walk.sockets)


def _batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _BATCH:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
