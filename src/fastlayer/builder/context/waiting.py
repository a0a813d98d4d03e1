"""Waiting for what may never come - a server, a program - so that a build that is over need not wait for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import subprocess

Check = Callable[[], None]  # raises when there is nothing to wait for any more
T = TypeVar("T")
_TICK = 0.1  # seconds between two calls of it


def never() -> None:
    """The check of who waits to the end."""


class Abandoned(Exception):
    """For work that nobody waits for."""


def beside(work: Callable[[Check], T], check: Check) -> T:
    """What ``work`` returns or raises, which runs in a thread of its own; ``check`` is called meanwhile.

    When that raises nobody waits for the work: the check that it is given raises ``Abandoned``. What it uses must be
    its own.
    """
    result: list[T] = []
    errors: list[BaseException] = []
    over, done = threading.Event(), threading.Event()

    def abandoned() -> None:
        if over.is_set():
            raise Abandoned

    def carry_out() -> None:
        try:
            result.append(work(abandoned))
        except BaseException as exc:
            errors.append(exc)
        finally:
            done.set()

    threading.Thread(target=carry_out, daemon=True).start()
    try:
        while not done.wait(_TICK):
            check()
    except BaseException:
        over.set()
        raise
    if errors:
        raise errors[0]
    return result[0]


def run_program(
    command: Sequence[str], *, seconds: float, check: Check, cwd: str, env: Mapping[str, str], umask: int = -1
) -> subprocess.CompletedProcess[bytes]:
    """A program without input, and what it wrote. However this ends, nothing of it or of what it started is left.

    Raises ``OSError``, ``subprocess.TimeoutExpired`` after so many seconds, and what ``check`` raises.
    """
    import subprocess

    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    ends = time.monotonic() + seconds
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdin=null, stdout=pipe, stderr=pipe, umask=umask, start_new_session=True
    ) as process:
        try:
            while True:
                try:
                    stdout, stderr = process.communicate(timeout=_TICK)
                    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > ends:
                        raise
                    check()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
