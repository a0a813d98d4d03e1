"""From a profile to the filter that the kernel runs at every system call.

The filter finds the architecture, then by binary search the range of numbers that the call is in; a call without
conditions is decided after about eight comparisons. What a profile says means here what it means to libseccomp and to
runc:

* a rule without conditions wins over those with; of rules with conditions the first that is met counts;
* an architecture that the profile does not name ends the thread;
* where unknown calls are refused, those newer than all that the profile names fail with ENOSYS, so that programs take
  what is older;
* 32-bit x86 also makes calls of sockets and of System V IPC through one common call each: rules for them hold there.
"""

from __future__ import annotations

import errno
from functools import lru_cache

from fastlayer.running.seccomp import bpf, syscalls
from fastlayer.running.seccomp.profile import (
    ALLOW,
    ERRNO,
    KILL_THREAD,
    LOG,
    Circumstances,
    Condition,
    Profile,
    Rule,
    applicable,
    architectures,
    is_permissive,
)

_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # struct seccomp_data, little endian
_AUDIT = {  # AUDIT_ARCH_* (linux/audit.h)
    "x86_64": 0xC000003E,
    "x86": 0x40000003,
    "arm": 0x40000028,
    "aarch64": 0xC00000B7,
    "riscv64": 0xC00000F3,
}
_WIDE = ("x86_64", "aarch64", "riscv64")  # have arguments of 64 bits
_NONE = 0xFFFFFFFF  # the number of a call that a tracer has taken back
_SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown "
    "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
_IPC = {1: "semop semget semctl semtimedop", 11: "msgsnd msgrcv msgget msgctl", 21: "shmat shmdt shmget shmctl"}
_COMMON = {  # of x86: name -> common call, its first argument
    **{name: ("socketcall", number) for number, name in enumerate(_SOCKETCALL.split(), 1)},
    **{name: ("ipc", number) for first, names in _IPC.items() for number, name in enumerate(names.split(), first)},
}

_Choice = tuple[tuple[Condition, ...], int]
_Outcome = int | tuple[bool, tuple[_Choice, ...]]  # an action, or what depends on (wide) arguments


@lru_cache
def program(profile: Profile, where: Circumstances) -> bytes:
    """The filter (struct sock_filter, 8 bytes each); empty for a machine that is not known here.

    Raises ``LimitError`` for a profile that is too large for the kernel.
    """
    if where.machine not in _AUDIT:
        return b""
    rules = applicable(profile, where)
    allowed = [name for name in architectures(profile, where.machine) if name in syscalls.architectures()]
    code = bpf.Code()
    start = code.act(KILL_THREAD)
    for name in reversed([name for name in allowed if name in _AUDIT]):
        start = code.jump(bpf.EQUAL, _AUDIT[name], _block(code, profile, rules, name, allowed), start)
    code.straight(bpf.LOAD, _ARCHITECTURE, start)
    return code.assembled()


def _block(code: bpf.Code, profile: Profile, rules: list[Rule], name: str, allowed: list[str]) -> int:
    """One architecture; x32 is a part of x86-64."""
    ranges = _ranges(profile, rules, name)
    if name == "x86_64":
        beyond = _ranges(profile, rules, "x32") if "x32" in allowed else [(syscalls.X32_BIT, KILL_THREAD)]
        ranges += [*beyond, (_NONE, profile.default)]
    starts = [start for start, _ in ranges]
    return code.straight(
        bpf.LOAD, _NUMBER, code.search(starts, lambda index: _decided(code, profile, ranges[index][1]))
    )


def allows(profile: Profile, where: Circumstances, call: str) -> bool:
    """Whether programs of the machine itself may make that call, whatever its arguments."""
    table = syscalls.numbers(where.machine) if where.machine in _AUDIT else {}
    if call not in table:
        return where.machine not in _AUDIT  # there is no filter
    ranges = _ranges(profile, applicable(profile, where), where.machine)
    outcome = [outcome for start, outcome in ranges if start <= table[call]][-1]
    return outcome in (ALLOW, LOG)


# ---- what becomes of each number -----------------------------------------------------------------


def _ranges(profile: Profile, rules: list[Rule], name: str) -> list[tuple[int, _Outcome]]:
    """(first number, outcome) of ranges with one outcome, in order."""
    table = syscalls.numbers(name)
    first = syscalls.X32_BIT if name == "x32" else 0
    named = [table[call] for rule in rules for call in rule.names if call in table]
    last = max((number for number in named if number < first + syscalls.ARM_PRIVATE), default=first - 1)
    newer = profile.default if is_permissive(profile.default) else ERRNO | errno.ENOSYS
    found = _outcomes(profile, rules, name)
    known = {number: outcome for number, outcome in found.items() if number <= last}
    private = {number: outcome for number, outcome in found.items() if number > last}
    return [*_runs(known, first, profile.default), *_runs(private, last + 1, newer)]


def _runs(found: dict[int, _Outcome], first: int, rest: _Outcome) -> list[tuple[int, _Outcome]]:
    runs: list[tuple[int, _Outcome]] = []
    after = first

    def add(number: int, outcome: _Outcome) -> None:
        if not runs or runs[-1][1] != outcome:
            runs.append((number, outcome))

    for number in sorted(found):
        if number > after:
            add(after, rest)
        add(number, found[number])
        after = number + 1
    add(after, rest)
    return runs


def _outcomes(profile: Profile, rules: list[Rule], name: str) -> dict[int, _Outcome]:
    """What rules say of the calls of one architecture, by number."""
    table = syscalls.numbers(name)
    wide = name in _WIDE
    found: dict[int, _Outcome] = {}
    for rule in rules:
        if rule.action == profile.default:
            continue
        for call in rule.names:
            if call in table:
                _add(found, table[call], rule.conditions, rule.action, wide)
            if name == "x86" and call in _COMMON:
                common, number = _COMMON[call]
                others = tuple(condition for condition in rule.conditions if condition.argument)
                conditions = (Condition(0, "EQ", number), *others)
                _add(found, table[common], conditions, rule.action, wide)
    return found


def _add(found: dict[int, _Outcome], number: int, conditions: tuple[Condition, ...], action: int, wide: bool) -> None:
    before = found.get(number)
    if isinstance(before, int):
        return
    if not conditions:
        found[number] = action
    else:
        choices = () if before is None else before[1]
        found[number] = (wide, (*choices, (conditions, action)))


# ---- arguments -----------------------------------------------------------------------------------


def _decided(code: bpf.Code, profile: Profile, outcome: _Outcome) -> int:
    if isinstance(outcome, int):
        return code.act(outcome)
    wide, choices = outcome
    label = code.act(profile.default)
    for conditions, action in reversed(choices):
        otherwise, label = label, code.act(action)
        for condition in reversed(conditions):
            label = _condition(code, condition, wide, label, otherwise)
    return label


def _condition(code: bpf.Code, condition: Condition, wide: bool, yes: int, no: int) -> int:
    operator = condition.operator
    if operator in ("NE", "LT", "LE"):
        yes, no = no, yes
    if operator == "MASKED_EQ":
        return _masked(code, condition, wide, yes, no)
    jump = {"EQ": bpf.EQUAL, "NE": bpf.EQUAL, "GE": bpf.FROM, "LT": bpf.FROM}.get(operator, bpf.ABOVE)
    low, high = _halves(condition.argument)
    label = code.straight(bpf.LOAD, low, code.jump(jump, condition.value, yes, no))
    if not wide:
        return label
    upper = condition.value >> 32
    label = code.jump(bpf.EQUAL, upper, label, no)
    if jump != bpf.EQUAL:
        label = code.jump(bpf.ABOVE, upper, yes, label)
    return code.straight(bpf.LOAD, high, label)


def _masked(code: bpf.Code, condition: Condition, wide: bool, yes: int, no: int) -> int:
    mask, value = condition.value, condition.second & condition.value
    label = yes
    low, high = _halves(condition.argument)
    for place, bits, wanted in ((low, mask, value), (high, mask >> 32 if wide else 0, value >> 32)):
        bits &= 0xFFFFFFFF
        if bits or place == low:
            label = code.jump(bpf.EQUAL, wanted, label, no)
            label = code.straight(bpf.LOAD, place, code.straight(bpf.AND, bits, label))
    return label


def _halves(argument: int) -> tuple[int, int]:
    low = _ARGUMENTS + 8 * argument
    return low, low + 4
