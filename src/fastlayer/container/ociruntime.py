"""A container run by crun or runc, which its monitor looks after as after a program of ours."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fastlayer.errors import RunError
from fastlayer.running import oci, watched

if TYPE_CHECKING:
    from fastlayer.running.native import Rights
    from fastlayer.running.spec import Spec
    from fastlayer.running.watched import Begun, Streams, Watch

_PATIENCE = 30.0  # seconds for a runtime to start a program
_NAP = 0.001


def begin(wanted: str, spec: Spec, rights: Rights, bundle: str, watch: Watch, streams: Streams) -> Begun:
    """Starts the runtime, and returns when it has executed the program; ``Begun.pid`` is the program's.

    ``wanted``: ``oci`` for the first there is. ``bundle``: a directory to be made. Raises ``RunError``.
    """
    runtime = oci.Oci(None if wanted == "oci" else wanted).find()
    if runtime is None:
        names = "neither crun nor runc is" if wanted == "oci" else f"{wanted} is not"
        raise RunError(f"{names} installed", remedy="install crun or runc")
    os.makedirs(bundle, mode=0o700)
    terminal = spec.terminal >= 0
    master = slave = -1
    given = streams.given
    if terminal:
        master, slave = os.openpty()
    plan = oci.plan_of(spec, runtime, bundle, rights)
    try:
        if terminal:  # the runtime has one of the host, and passes on what goes through its own
            plan.terminal = plan.slot(os.dup(slave))
        program = oci.program_of(spec, runtime, bundle, given)
        maps = rights.maps if rights.wants_namespace else None
        # the runtime passes on changes of the size alone, so there is none to begin with
        begun = watched.start(plan, program, watch._replace(size=(0, 0)), streams, master=master, maps=maps)
    finally:
        plan.close()
        for fd in (master, slave):
            if fd >= 0:
                os.close(fd)
    return _settled(begun, spec, runtime, bundle, watch)


def _settled(begun: Begun, spec: Spec, runtime: str, bundle: str, watch: Watch) -> Begun:
    """When the program has been executed, or the runtime has ended: then it says why, or was done already."""
    import select

    poll = select.poll()
    poll.register(begun.news, select.POLLIN)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found = program_of(begun.pid)
        if found:
            return begun._replace(pid=found)
        if poll.poll(0):
            oci.raise_what_it_logged(spec, bundle, os.path.basename(runtime))
            return begun
        time.sleep(_NAP)
    with suppress(ProcessLookupError):
        os.kill(begun.pid, signal.SIGKILL)  # all of it goes with the first process of its namespace
    raise RunError(f"{os.path.basename(runtime)} has not started the program within {_PATIENCE:.0f} s")


def program_of(runtime: int) -> int:
    """The pid of what a runtime has started, 0 before that."""
    try:
        for thread in os.listdir(f"/proc/{runtime}/task"):
            with open(f"/proc/{runtime}/task/{thread}/children", "rb") as file:
                children = file.read().split()
            for child in map(int, children):
                if not _is_own(child, runtime):
                    return child
    except (OSError, ValueError):
        pass
    return 0


def _is_own(pid: int, runtime: int) -> bool:
    """Whether it is the runtime still: a fork of it, or runc, which executes itself, or a copy in a memfd."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        name = file.read().partition(b"(")[2].rpartition(b")")[0].decode("utf-8", "replace")
    program = os.readlink(f"/proc/{pid}/exe")
    same = os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(f"/proc/{runtime}/exe"))
    return same or name.startswith(("runc:[", "exe")) or "memfd:" in program or os.path.basename(program) == "runc"
