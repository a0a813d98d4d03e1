"""The ways to run a program in a root file system, and which one works here.

==========  ==========================================================================================================
``native``  our own namespaces: as root, or in a user namespace; needs no other program, starts within milliseconds
``oci``     crun or runc, when one is installed
``chroot``  chroot(2) alone: for a container that may neither mount nor make namespaces
==========  ==========================================================================================================

They are tried in this order: each isolates as well as the next or better, ``native`` is the fastest by far, and what it
does depends on no other program's version.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError, RunError, UsageError
from fastlayer.mounts.mount import Mount
from fastlayer.running.spec import Spec

if TYPE_CHECKING:
    import threading

_HOME = {
    "native": "fastlayer.running.native:Native",
    "oci": "fastlayer.running.oci:Oci",
    "chroot": "fastlayer.running.chroot:Chroot",
}
_chosen: dict[str, Isolation] = {}  # what has worked in this process
_passed_over: dict[str, str] = {}  # by what was found to work: why those before it do not


class Probe(NamedTuple):
    """Whether an isolation works here: ``why`` not, and the ``remedy`` that would make it work. One line each."""

    works: bool
    why: str = ""
    remedy: str = ""


def tried(isolation: Isolation, root: Sequence[Mount]) -> Probe:
    """By running a program that is not there: all is well when it comes as far as looking for it."""
    null = os.open("/dev/null", os.O_RDWR)
    try:
        isolation.run(Spec(root=root, args=["/fastlayer-probe"]), stdout=null, stderr=null, stop=None)
    except RunError as exc:
        return Probe(True) if exc.status == 127 else Probe(False, exc.message, exc.remedy)
    except FastlayerError as exc:
        return Probe(False, str(exc))
    finally:
        os.close(null)
    return Probe(False, "the probe ran a program that is not there")


class Isolation(Protocol):
    """A way to run a program."""

    name: str
    mounts: bool
    """Whether it mounts the root of a program; else the root has to be a directory (``spec.directory``)."""

    def probe(self) -> Probe:
        """Tries it for real, without leaving anything."""
        ...

    def run(self, spec: Spec, *, stdout: int, stderr: int, stop: threading.Event | None) -> int:
        """Runs it to its end and returns its exit status, 128 + n when signal n ended it.

        Whatever happens - it ends, ``stop`` is set (within a second), an exception in the caller, its death - all
        processes of the run are killed, and nothing of it stays mounted or made but what the program itself wrote.
        Raises ``RunError`` when it cannot be started, with ``status`` 127 when there is no such program in the root,
        126 when there is but it cannot be executed; ``UsageError`` for what cannot be run at all.
        """
        ...


class Verdict(NamedTuple):
    """What probing an isolation found."""

    name: str
    probe: Probe


def names() -> tuple[str, ...]:
    """In the order they are tried."""
    return tuple(_HOME)


def isolation(name: str) -> Isolation:
    """The isolation of that name, working or not. Raises ``UsageError``."""
    if name not in _HOME:
        raise UsageError(f"isolation {name!r} is unknown: use {', '.join(_HOME)}")
    module, _, attribute = _HOME[name].partition(":")
    return cast("Isolation", getattr(importlib.import_module(module), attribute)())


def probes() -> Iterator[Verdict]:
    """Every isolation in turn: for ``fastlayer doctor``."""
    for name in _HOME:
        yield Verdict(name, isolation(name).probe())


def asked(wanted: str | None = None) -> str | None:
    """The name of the isolation that is demanded: ``wanted``, else ``FASTLAYER_ISOLATION``; None: any."""
    return wanted or os.environ.get("FASTLAYER_ISOLATION") or None


def choose(wanted: str | None = None) -> Isolation:
    """The isolation to use: ``wanted``, else ``FASTLAYER_ISOLATION``, else the first that works.

    A demand is met or refused, never replaced. Raises ``RunError`` with the reasons and what would help.
    """
    wanted = asked(wanted)
    reasons: list[str] = []
    for name in (wanted,) if wanted else _HOME:
        found = _working(name, reasons)
        if found is not None:
            if not wanted:
                _passed_over[name] = "; ".join(reasons)
            return found
    raise RunError(f"no way to run a step: {'; '.join(reasons)}")


def passed_over(name: str, wanted: str | None = None) -> str:
    """What those before it said, when ``choose(wanted)`` came to this one by itself; empty: nothing came before it."""
    return "" if asked(wanted) else _passed_over.get(name, "")


def _working(name: str, reasons: list[str]) -> Isolation | None:
    """None, and one reason more, when it does not work here."""
    if name not in _chosen:
        found = isolation(name)
        verdict = found.probe()
        if not verdict.works:
            reasons.append(f"{name}: {verdict.why}" + (f": {verdict.remedy}" if verdict.remedy else ""))
            return None
        _chosen[name] = found
    return _chosen[name]
