"""A seccomp profile as values: which system calls are allowed, to whom, and what becomes of the others."""

from __future__ import annotations

import os
from typing import Literal

from fastlayer._values import NamedTuple

# what the kernel does with a call (include/uapi/linux/seccomp.h); ERRNO and TRACE have a number in their lower half
KILL_THREAD, KILL_PROCESS, TRAP, ERRNO, TRACE, LOG, ALLOW = (
    0x00000000,
    0x80000000,
    0x00030000,
    0x00050000,
    0x7FF00000,
    0x7FFC0000,
    0x7FFF0000,
)
_PERMISSIVE = (ALLOW, LOG, TRACE)

Operator = Literal["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]


class Condition(NamedTuple):
    """Compares an argument (0 to 5) with ``value``; ``MASKED_EQ``: what the mask ``value`` leaves, with ``second``."""

    argument: int
    operator: Operator
    value: int
    second: int = 0


class Rule(NamedTuple):
    """What becomes of calls whose arguments meet all ``conditions``.

    The rule counts where the program has all of ``with_capabilities`` and none of ``without_capabilities``, on these
    ``machines`` and not on ``other_machines`` (names of architectures; none: all), from the kernel ``since`` on and
    before the kernel ``until``.
    """

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...] = ()
    with_capabilities: tuple[str, ...] = ()
    without_capabilities: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    other_machines: tuple[str, ...] = ()
    since: tuple[int, int] = (0, 0)
    until: tuple[int, int] | None = None


class Profile(NamedTuple):
    """``default``: what becomes of all that no rule is about. ``others``: the architectures that a machine's programs
    may use besides its own: pairs of a machine's and theirs. ``flags``: for seccomp(2)."""

    default: int
    rules: tuple[Rule, ...]
    others: tuple[tuple[str, tuple[str, ...]], ...] = ()
    flags: int = 0


class Circumstances(NamedTuple):
    """Where and to whom a profile is applied. ``machine``: an architecture of ``syscalls.py``, or another word for one
    that is not known here."""

    machine: str
    capabilities: tuple[str, ...]
    kernel: tuple[int, int]


def here(capabilities: tuple[str, ...]) -> Circumstances:
    """This machine, for a program with these capabilities."""
    release = os.uname().release.split(".")
    major, minor = (int("".join(filter(str.isdecimal, part[:4])) or 0) for part in (*release, "0")[:2])
    return Circumstances(machine_of(os.uname().machine), capabilities, (major, minor))


def machine_of(name: str) -> str:
    """The architecture that ``uname -m`` calls ``name``."""
    if name in ("i386", "i486", "i586", "i686"):
        return "x86"
    return "arm" if name.startswith("armv") else name


def applicable(profile: Profile, where: Circumstances) -> list[Rule]:
    """The rules that count there."""
    return [rule for rule in profile.rules if _counts(rule, where)]


def _counts(rule: Rule, where: Circumstances) -> bool:
    has = where.capabilities
    return (
        all(name in has for name in rule.with_capabilities)
        and not any(name in has for name in rule.without_capabilities)
        and (not rule.machines or where.machine in rule.machines)
        and where.machine not in rule.other_machines
        and where.kernel >= rule.since
        and (rule.until is None or where.kernel < rule.until)
    )


def architectures(profile: Profile, machine: str) -> tuple[str, ...]:
    """Those whose programs may run under the profile: the machine's own first."""
    others = next((others for name, others in profile.others if name == machine), ())
    return tuple(dict.fromkeys((machine, *others)))


def is_permissive(action: int) -> bool:
    """Whether it lets a call happen."""
    return action & 0xFFFF0000 in _PERMISSIVE
