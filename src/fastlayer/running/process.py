"""A run from its caller's side: starts the keeper, hears what it reports, and ends it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from fastlayer import _backend
from fastlayer._backend import RunProgram
from fastlayer.errors import RunError
from fastlayer.running import idmaps
from fastlayer.running.filters import Filter
from fastlayer.running.spec import Spec, complete_env, search_path
from fastlayer.running.steps import Failure, Plan, failure_of

if TYPE_CHECKING:
    import threading

MAP, _KEEPER, _CHILD, _STAGE, EXIT, PID, BEGUN = range(1, 8)  # enum fl_run_what
RECORD_SIZE = 16  # bytes of struct fl_run_record
_EXEC = 8
_STAGES = {
    1: "set up standard input and output",
    2: "enter the working directory",
    3: "set the seccomp filter",
    4: "drop capabilities",
    5: "set groups",
    6: "set the user",
    7: "set capabilities",
    9: "set limits (ulimit)",
}
_OF_IDS = (5, 6)
_TICK = 0.03  # seconds between two looks at `stop`


def program_of(
    spec: Spec, stdio: tuple[int, int, int], *, caps: int | None, filter_: Filter | None = None
) -> RunProgram:
    return RunProgram(
        paths=[os.fsencode(path) for path in search_path(spec)],
        argv=[os.fsencode(word) for word in spec.args],
        env=[os.fsencode(entry) for entry in complete_env(spec)],
        cwd=os.fsencode(spec.cwd),
        uid=spec.user.uid,
        gid=spec.user.gid,
        groups=spec.user.groups,
        caps=caps,
        no_new_privileges=spec.no_new_privileges,
        filter=filter_.program if filter_ is not None else b"",
        stdio=stdio,
        filter_flags=filter_.flags if filter_ is not None else 0,
        limits=[(limit.number, limit.soft, limit.hard) for limit in spec.limits],
    )


def run(plan: Plan, program: RunProgram, stop: threading.Event | None, maps: idmaps.IdMaps | None = None) -> int:
    """Runs it to its end and returns its status (128 + n: ended by signal n).

    When it returns or raises, whatever the reason, nothing of the run is left: no process, mount or mount point.
    ``stop``: when set, everything is killed. Raises ``RunError`` when it cannot be started.
    """
    life_end, life = os.pipe()
    report, report_end = os.pipe()
    pid = 0
    try:
        try:
            pid = _backend.engine().run.start(
                plan.keeper,
                plan.child,
                program,
                namespaces=plan.namespaces,
                whole_tree=plan.whole_tree,
                slots=plan.slots,
                life=life_end,
                report=report_end,
            )
        finally:
            plan.close()
            os.close(life_end)
            os.close(report_end)
        call = _Call(plan, program, pid, life, maps)
        try:
            call.follow(report, stop)
        finally:
            life = call.life
    finally:
        if life >= 0:
            os.close(life)
        os.close(report)
        if pid:
            _wait(pid)
    return call.result()


def _wait(pid: int) -> None:
    """The end of the keeper is when the last mount has gone."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # someone in this process waits for all children


class _Call:
    """One run while it lasts."""

    def __init__(self, plan: Plan, program: RunProgram, pid: int, life: int, maps: idmaps.IdMaps | None) -> None:
        self.plan, self.program, self.pid, self.life, self.maps = plan, program, pid, life, maps
        self.records: list[Record] = []

    def follow(self, report: int, stop: threading.Event | None) -> None:
        import select

        poll = select.poll()
        poll.register(report, select.POLLIN)
        while True:
            if stop is not None and stop.is_set():
                self.end()
            if poll.poll(_TICK * 1000 if stop is not None and self.life >= 0 else None):
                data = os.read(report, RECORD_SIZE)
                if not data:
                    return
                self._hear(data)

    def end(self) -> None:
        if self.life >= 0:
            os.close(self.life)
            self.life = -1

    def _hear(self, data: bytes) -> None:
        what, number, value = record_of(data)
        if what == MAP and self.maps is not None:
            idmaps.write(self.pid, self.maps)
            if self.life >= 0:
                os.write(self.life, b"g")
            return
        self.records.append((what, number, value))

    def result(self) -> int:
        """Raises ``RunError``."""
        for record in self.records:
            failure = failure_in(record, self.plan, self.program)
            if failure is not None:
                raise failure
        ends = [value for what, _, value in self.records if what == EXIT]
        if ends:
            return ends[0]
        if self.life < 0:
            return 128 + 9  # stopped before it had begun
        raise RunError("the keeper of the step was killed: look whether memory ran out (dmesg)")


Record = tuple[int, int, int]  # what, number, value


def record_of(data: bytes) -> Record:
    """struct fl_run_record."""
    what, number, value = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (0, 4, 8))
    return what, number, value


def failure_in(record: Record, plan: Plan, program: RunProgram) -> RunError | None:
    """What a record says has failed, in words."""
    what, number, value = record
    if what == _STAGE:
        return _not_started(program, number, value)
    if what in (_KEEPER, _CHILD):
        return _cannot(failure_of(plan.keeper if what == _KEEPER else plan.child, number, value))
    return None


def _not_started(program: RunProgram, stage: int, errnum: int) -> RunError:
    name = os.fsdecode(program.argv[0])
    if stage == _EXEC:
        return not_executed(name, errnum, searched=len(program.paths) > 1)
    if stage in _OF_IDS and errnum == errno.EINVAL:  # user_namespaces(7): an id without a mapping
        return idmaps.not_mapped(program.uid, program.gid, errnum)
    about = os.fsdecode(program.cwd) if stage == 2 else ""
    return _cannot(Failure(_STAGES.get(stage, f"stage {stage}"), about, errnum))


def not_executed(name: str, errnum: int, *, searched: bool) -> RunError:
    """As a shell tells it: 127 for what is not there, 126 for what is but cannot be executed."""
    if errnum == errno.ENOENT:
        where = "is in no directory of PATH" if searched else "is not there, or the interpreter it names is not"
        return RunError(f"{name}: not found: it {where} in the root file system", status=127)
    if errnum == errno.ENOEXEC:
        why = "exec format error: it is of another architecture, or a script without #! in its first line"
        return RunError(f"{name}: cannot be executed: {why}", status=126)
    return RunError(f"{name}: cannot be executed: {os.strerror(errnum)}", status=126)


_NEXT = {
    errno.EPERM: "run as root, or where user namespaces are allowed, or choose another isolation",
    errno.ENOSPC: "the kernel's limit of namespaces (sysctl user.max_*_namespaces) or the file system is full",
    errno.EROFS: "the root has no such place and cannot be written: leave out --readonly-image, or mount elsewhere",
    errno.ENOSYS: "this kernel is too old for it: choose another isolation",
}


def _cannot(failure: Failure) -> RunError:
    about = f" {failure.about}" if failure.about else ""
    message = f"cannot {failure.doing}{about}: {os.strerror(failure.errnum)}"
    return RunError(message, remedy=_NEXT.get(failure.errnum, ""), errnum=failure.errnum)
