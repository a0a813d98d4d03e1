"""Runs that outlive who starts them: a monitor looks after each (csrc/fl_monitor.h).

The plan is that of an isolation; what is different is where the program's output goes, and who waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from fastlayer import _backend
from fastlayer._backend import RunMonitor, RunProgram
from fastlayer._values import NamedTuple
from fastlayer.errors import RunError
from fastlayer.running import idmaps, process
from fastlayer.running.steps import Plan

ADOPTED = 128 + 9


class Watch(NamedTuple):
    """What a monitor is to do. Descriptors stay the caller's; -1 where there is none.

    ``directory``: where the log and the exit status go. ``lock``: an open file, locked as long as the run lasts.
    ``listener``, ``client``: sockets of those who attach. ``stdin``: the program has a standard input.
    ``log_files``: 0 for no log; ``log_size``: bytes of one, 0 for any. ``size``: rows and columns of a terminal.
    ``oom``: open memory.events. ``cgroups``: directories to be removed.
    ``cleanup``: a command to be executed in the end, when the first client has gone, with ``environment``.
    """

    directory: int = -1
    lock: int = -1
    listener: int = -1
    client: int = -1
    stdin: bool = False
    stdin_once: bool = False
    log_size: int = 0
    log_files: int = 0
    size: tuple[int, int] = (0, 0)
    oom: int = -1
    cgroups: Sequence[str] = ()
    cleanup: Sequence[str] = ()
    environment: Sequence[str] = ()


class Begun(NamedTuple):
    """A run that has begun: the program's pid, the monitor's, as this process sees them. ``news``: its last record
    tells the exit status; the caller's."""

    pid: int
    monitor: int
    news: int


class Streams:
    """The ends of a program's standard streams: ``given`` to it, the others kept for its monitor."""

    def __init__(self, *, stdin: bool, terminal: bool) -> None:
        self._all: list[int] = []
        null = self._keep(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        self.input = self.out = self.err = -1
        self.given = (null, null, null)
        if terminal:
            return
        source = null
        if stdin:
            source, self.input = self._pipe()
        self.out, out = self._pipe()
        self.err, err = self._pipe()
        self.given = (source, out, err)

    def _keep(self, fd: int) -> int:
        self._all.append(fd)
        return fd

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        self._all += ends
        return ends

    def close(self) -> None:
        while self._all:
            os.close(self._all.pop())


def start(
    plan: Plan,
    program: RunProgram,
    watch: Watch,
    streams: Streams,
    *,
    terminal: int = -1,
    master: int = -1,
    maps: idmaps.IdMaps | None = None,
) -> Begun:
    """Starts it and returns when the program has been executed.

    ``terminal``: our end of the socket that the master of its terminal comes through; ``master``: that itself.
    ``maps``: of the user namespace that the plan makes. Raises ``RunError``; then nothing of it is left.
    """
    life_end, life = os.pipe2(os.O_CLOEXEC)
    news, news_end = os.pipe2(os.O_CLOEXEC)
    program = program._replace(terminal=plan.terminal)
    try:
        try:
            _backend.engine().run.watch(
                plan.keeper,
                plan.child,
                program,
                _monitor(watch, streams, terminal, master)._replace(news=news_end, life=life),
                namespaces=plan.namespaces,
                whole_tree=plan.whole_tree,
                slots=plan.slots,
                life=life_end,
            )
        finally:
            for fd in (life_end, news_end):
                os.close(fd)
        return _followed(news, plan, program, lambda keeper: _map(keeper, life, maps))
    except BaseException:
        os.close(news)
        raise
    finally:
        os.close(life)


def _monitor(watch: Watch, streams: Streams, terminal: int, master: int) -> RunMonitor:
    return RunMonitor(
        news=-1,
        life=-1,
        dir=watch.directory,
        lock=watch.lock,
        listener=watch.listener,
        client=watch.client,
        out=streams.out,
        err=streams.err,
        input=streams.input,
        terminal=terminal,
        master=master,
        rows=watch.size[0],
        columns=watch.size[1],
        stdin_once=watch.stdin_once,
        log_size=watch.log_size,
        log_files=watch.log_files,
        oom=watch.oom,
        cgroups=[os.fsencode(path) for path in watch.cgroups],
        cleanup=[os.fsencode(word) for word in watch.cleanup],
        environment=[os.fsencode(entry) for entry in watch.environment],
    )


def _followed(news: int, plan: Plan, program: RunProgram, map_ids: Callable[[int], None]) -> Begun:
    """Hears what the monitor says until the program runs, or all is over."""
    failure: RunError | None = None
    while True:
        data = os.read(news, process.RECORD_SIZE)
        if not data:
            raise failure or RunError("the monitor of the container was killed: look whether memory ran out (dmesg)")
        what, number, value = record = process.record_of(data)
        if what == process.MAP:
            map_ids(value)
        elif what == process.BEGUN:
            return Begun(value, number, news)
        elif failure is None:
            failure = process.failure_in(record, plan, program)


def _map(keeper: int, life: int, maps: idmaps.IdMaps | None) -> None:
    if maps is not None:
        idmaps.write(keeper, maps)
        os.write(life, b"g")


def status_of(news: int) -> int:
    """Waits for the end of a run by its ``Begun.news``, which is closed; 137 when its monitor was killed."""
    status = ADOPTED
    try:
        while data := os.read(news, process.RECORD_SIZE):
            what, _, value = process.record_of(data)
            if what == process.EXIT:
                status = value
    finally:
        with suppress(OSError):
            os.close(news)
    return status
