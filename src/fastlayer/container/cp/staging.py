"""Where copies are made complete: a directory beside their place, of which nothing stays.

Not even when this process is killed: another one, of a session of its own, waits for its end and then takes the
directory away. It has the lock of the layer with it until that is done, for the descriptor of that is its own, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from fastlayer.container.cp.spot import opened_directory
from fastlayer.layer.target import empty


@contextmanager
def staging(parent: int) -> Iterator[int]:
    """A directory on the file system of ``parent``, gone with the block; a block that fails leaves no trace."""
    name = b".fastlayer-cp-" + os.urandom(8).hex().encode()
    times = os.fstat(parent)
    with _guarded(parent, name, times):
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            with opened_directory(parent, name) as fd:
                try:
                    yield fd
                    times = os.fstat(parent)
                finally:
                    empty(fd)
        finally:
            os.rmdir(name, dir_fd=parent)
            os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextmanager
def _guarded(parent: int, name: bytes, times: os.stat_result) -> Iterator[None]:
    life_end, life = os.pipe2(os.O_CLOEXEC)
    guard = os.fork()
    if guard == 0:
        os.close(life)
        _guard(life_end, parent, name, times)
    os.close(life_end)
    try:
        yield
    finally:
        with suppress(OSError):  # it has been killed
            os.write(life, b"d")
        os.close(life)
        with suppress(ChildProcessError):
            os.waitpid(guard, 0)


def _guard(life: int, parent: int, name: bytes, times: os.stat_result) -> NoReturn:
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        if not os.read(life, 1):  # it was killed
            with opened_directory(parent, name) as fd:
                empty(fd)
            os.rmdir(name, dir_fd=parent)
            os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    finally:
        os._exit(0)
