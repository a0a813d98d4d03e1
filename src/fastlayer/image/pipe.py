"""A writer and a reader of a layer at work at the same time, with a pipe between them."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from fastlayer.metadata.leases import Lease
    from fastlayer.snapshot.driver import LayerTarget
    from fastlayer.snapshot.snapshotter import Snapshotter

T = TypeVar("T")
R = TypeVar("R")

_PIPE_SIZE = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2)


@contextmanager
def piped(write: Callable[[int], T], done: list[T] | None = None) -> Iterator[int]:
    """A descriptor for the block, to read what ``write`` writes to the other end in a thread; its result is ``done``.

    When one fails the other finds the pipe closed; the error raised is the writer's if it has one of its own.
    """
    source, sink = os.pipe2(os.O_CLOEXEC)
    _widen(sink)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result = write(sink)
            if done is not None:
                done.append(result)
        except BaseException as exc:
            failed.append(exc)
        finally:
            os.close(sink)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield source
    except BaseException as exc:
        os.close(source)
        thread.join()
        if failed and not isinstance(failed[0], BrokenPipeError) and isinstance(exc, Exception):
            raise failed[0] from None
        raise
    os.close(source)
    thread.join()
    if failed:
        raise failed[0]


def through_pipe(write: Callable[[int], T], read: Callable[[int], R]) -> tuple[T, R]:
    """Calls ``write`` with the one end of a pipe and ``read`` with the other; returns both results."""
    done: list[T] = []
    with piped(write, done) as source:
        result = read(source)
    return done[0], result


def stream_layer(
    snapshotter: Snapshotter,
    lease: Lease,
    name: str,
    parent: str | None,
    write: Callable[[int], T],
    *,
    about: str,
    ignore_chown: bool = False,
) -> T:
    """The committed snapshot ``name`` on ``parent``, extracted from the layer that ``write`` writes to a descriptor.

    ``about``: the tree that the layer is of, for messages.
    """
    key = f"stream-{name}"
    rebase = snapshotter.driver.independent
    snapshotter.prepare(key, None if rebase else parent, lease=lease)
    number, parents = snapshotter.number(key)
    with snapshotter.driver.layer_target(number, parents) as target:
        place = target
        result, _ = through_pipe(write, lambda layer: _extract(layer, place, about, ignore_chown))
    snapshotter.commit(name, key, parent=parent if rebase else None, lease=lease)
    return result


def _extract(layer: int, target: LayerTarget, about: str, ignore_chown: bool) -> None:
    from fastlayer.errors import UnsafeEntryError
    from fastlayer.layer.apply import apply

    with io.FileIO(layer, closefd=False) as file:
        file.name = about
        try:
            apply([file], target.path, format=target.format, ignore_chown=ignore_chown)
        except UnsafeEntryError as exc:  # that the tree can have and the driver's format cannot
            entry = str(exc).removeprefix(f"{about}: ")
            raise UnsafeEntryError(f"{about}/{entry}: leave it out, or use another driver (`--driver vfs`)") from exc


def _widen(fd: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        pass  # beyond the user's share (pipe-user-pages-soft): the usual size will do
