"""Seccomp filters: of Docker's default profile, of profiles in its format; judged against libseccomp."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.errors import LimitError
from fastlayer.running import capabilities
from fastlayer.running.seccomp import syscalls
from fastlayer.running.seccomp.compiler import program
from fastlayer.running.seccomp.default import DEFAULT
from fastlayer.running.seccomp.profile import Circumstances, Condition, Profile, Rule, applicable, architectures, here
from tests.seccomp import (
    ALLOW,
    AUDIT,
    ENOSYS,
    EPERM,
    KILL,
    judged,
    libseccomp,
    lines,
    made_by_libseccomp,
    number_there,
    resolved,
)

DOCKERS = tuple(capabilities.DEFAULT_NAMES)
ALL = tuple(capabilities.NAMES)
WHERE = Circumstances("x86_64", DOCKERS, (6, 1))
MACHINES = ("x86_64", "aarch64", "riscv64", "x86", "arm")
PRIVATE = range(0xF0000, 0xF0010)


def call(name: str, *arguments: int, arch: str = "x86_64", where: Circumstances = WHERE) -> int:
    """What Docker's default profile says to a call by its name."""
    number = syscalls.numbers(arch)[name]
    return judged(lines(program(DEFAULT, where)), AUDIT[arch], number, arguments)


def _numbers(name: str) -> list[int]:
    first = syscalls.X32_BIT if name == "x32" else 0
    return [first + number for number in (*range(480), *range(510, 550), *PRIVATE, 0x3FFFFFFF)]


def _samples(rules: Iterable[Rule]) -> dict[str, list[tuple[int, ...]]]:
    """Arguments about all borders of what a call is asked."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for rule in rules:
        for condition in rule.conditions:
            values = {0, 1, condition.value, condition.second, ~condition.value, condition.value ^ condition.second}
            values |= {value + step for value in (condition.value, condition.second) for step in (-1, 1)}
            values |= {value + (high << 32) for value in set(values) for high in (1, 0xFFFFFFFF)}
            for name in rule.names:
                for value in values:
                    arguments = [0] * 6
                    arguments[condition.argument] = value & (1 << 64) - 1
                    found.setdefault(name, []).append(tuple(arguments))
    return found


def _assert_same(profile: Profile, where: Circumstances) -> None:
    """Ours and libseccomp's filter do the same with every call, but for those that are newer than the profile."""
    library = libseccomp()
    rules = [
        rule._replace(names=tuple(name for name in rule.names if resolved(library, name) is not None))
        for rule in applicable(profile, where)
    ]
    profile = profile._replace(rules=tuple(rule for rule in rules if rule.names))
    allowed = [name for name in architectures(profile, where.machine) if name in syscalls.architectures()]
    ours = lines(program(profile, where))
    theirs = made_by_libseccomp(library, profile, profile.rules, allowed)
    samples = _samples(profile.rules)
    for arch in allowed:
        table = syscalls.numbers(arch)
        names = {number: name for name, number in table.items()}
        named = [table[name] for rule in profile.rules for name in rule.names if name in table]
        last = max((number for number in named if number & 0x3FFFFFFF < 0xF0000), default=-1)
        for number in _numbers(arch):
            common = [args for name in samples for args in samples[name]] if names.get(number) == "socketcall" else []
            for arguments in ((), *samples.get(names.get(number, ""), ()), *common):
                wanted = judged(theirs, AUDIT[arch], number, arguments)
                if number > last and number not in named and wanted == profile.default and wanted & 0x7FF00000 == 0:
                    wanted = ENOSYS
                found = judged(ours, AUDIT[arch], number, arguments)
                assert found == wanted, (arch, number, names.get(number), arguments, hex(found), hex(wanted))
    for unknown in (0xC0000016, *(AUDIT[name] for name in AUDIT if AUDIT[name] not in map(AUDIT.get, allowed))):
        assert judged(ours, unknown, 0) == judged(theirs, unknown, 0) == KILL


# ---- the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", syscalls.architectures())
def test_numbers_are_libseccomps(arch: str) -> None:
    library = libseccomp()
    every = {name for each in syscalls.architectures() for name in syscalls.numbers(each)}
    compared = 0
    for name in every:
        theirs = number_there(library, arch, name)
        shared = arch == "x86" and -300 < theirs <= -100  # one of those that are made by a common call, too
        if theirs != -1 and not shared:  # else it is newer than the library
            assert syscalls.numbers(arch).get(name, -1) == max(theirs, -1), name
            compared += theirs >= 0
    assert compared > 300


def test_every_name_of_the_profile_is_a_call() -> None:
    known = {name for arch in syscalls.architectures() for name in syscalls.numbers(arch)}
    assert {name for rule in DEFAULT.rules for name in rule.names} - known == {
        "sync_file_range2"
    }  # of ppc, and another name on arm


# ---- the default ---------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("caps", [DOCKERS, ALL, ()], ids=["docker", "all", "none"])
def test_the_default_does_what_libseccomp_makes_of_it(machine: str, caps: tuple[str, ...]) -> None:
    _assert_same(DEFAULT, Circumstances(machine, caps, (6, 1)))


def test_each_capability_opens_its_calls() -> None:
    opens = {
        "CAP_SYS_ADMIN": ("mount", "unshare", "clone3", "bpf", "setns"),
        "CAP_BPF": ("bpf",),
        "CAP_PERFMON": ("perf_event_open",),
        "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd"),
        "CAP_SYS_TIME": ("settimeofday",),
        "CAP_SYS_CHROOT": ("chroot",),
        "CAP_SYS_MODULE": ("init_module",),
        "CAP_SYS_BOOT": ("reboot",),
        "CAP_SYS_NICE": ("mbind",),
        "CAP_SYSLOG": ("syslog",),
        "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    }
    for name, calls in opens.items():
        for each in calls:
            assert call(each, where=WHERE._replace(capabilities=(name,))) == ALLOW, (name, each)
            assert call(each, where=WHERE._replace(capabilities=())) in (EPERM, ENOSYS), each


def test_namespaces_vsock_and_personalities() -> None:
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert call("clone", flag | 17) == EPERM
        assert call("clone", flag | 17, where=WHERE._replace(capabilities=ALL)) == ALLOW
    assert call("clone", 17) == call("clone", 0x3D0F00) == ALLOW
    assert call("clone3") == ENOSYS
    assert [family for family in range(50) if call("socket", family) == EPERM] == [
        *(12, 19, 20, 23, 25, 34, 37, 38, 40),
        *range(46, 50),
    ]
    assert call("personality", 0xFFFFFFFF) == call("personality", 0x20008) == ALLOW
    assert call("personality", 0x40000) == EPERM


def test_tracing_needs_a_kernel_that_judges_after_it() -> None:
    assert call("ptrace") == ALLOW
    assert call("ptrace", where=WHERE._replace(kernel=(4, 7))) == EPERM
    assert call("ptrace", where=WHERE._replace(kernel=(4, 7), capabilities=ALL)) == ALLOW


def test_what_is_newer_than_the_profile_is_not_there() -> None:
    assert call("file_setattr") == ENOSYS
    assert judged(lines(program(DEFAULT, WHERE)), AUDIT["x86_64"], 500) == ENOSYS
    assert judged(lines(program(DEFAULT, WHERE)), AUDIT["x86_64"], 0x40000000 | 600) == ENOSYS
    assert call("io_uring_setup") == EPERM


@pytest.mark.parametrize("arch", ["x86_64", "x86", "x32"])
def test_32_bit_programs_are_judged_as_well(arch: str) -> None:
    assert call("read", arch=arch) == ALLOW
    assert call("mount", arch=arch) == EPERM


def test_the_way_to_a_decision_is_short() -> None:
    code = lines(program(DEFAULT, WHERE))

    def steps(number: int) -> int:
        at = count = 0
        accumulator = 0
        while code[at][0] != 6:
            kind, true, false, operand = code[at]
            at, count = at + 1, count + 1
            if kind == 0x20:
                accumulator = (number, AUDIT["x86_64"])[operand // 4]
            elif kind == 0x05:
                at += operand
            else:
                holds = accumulator == operand if kind == 0x15 else accumulator >= operand
                at += true if holds else false
        return count

    assert max(steps(number) for number in range(335) if number not in (41, 56, 135)) <= 14
    assert len(code) < 1000


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert program(DEFAULT, WHERE._replace(machine="vax")) == b""
    assert here(DOCKERS).kernel >= (5, 0)


# ---- any profile ---------------------------------------------------------------------------------

OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
VALUES = st.one_of(st.integers(0, 20), st.integers(0, (1 << 64) - 1), st.sampled_from([0xFFFFFFFF, 1 << 32, 1 << 63]))
NAMES = ["read", "close", "kill", "ioctl", "prctl", "socket", "bind", "shmget", "openat2", "clone3", "time"]


@st.composite
def profiles(draw: st.DrawFn, *, several: bool) -> Profile:
    """``several``: a call may have many rules; else it has one: of what goes beyond that
    libseccomp 2.5 makes wrong filters."""
    default = draw(st.sampled_from([EPERM, ALLOW, 0x7FFC0000, 0x30000, 0x80000000, 0]))
    rules = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        action = draw(st.sampled_from([ALLOW, EPERM, 0x50007, 0x7FF00003, 0x80000000]))
        places = draw(st.lists(st.integers(0, 5), max_size=3, unique=True))
        for _ in range(draw(st.integers(1, 3)) if several else 1):
            conditions = tuple(
                Condition(place, draw(st.sampled_from(OPERATORS)), draw(VALUES), draw(VALUES))  # type: ignore[arg-type]
                for place in (draw(st.lists(st.integers(0, 5), max_size=3, unique=True)) if several else places)
            )
            action = draw(st.sampled_from([action, 0x50009])) if several else action
            rules.append(Rule((name,), action, conditions))
    return Profile(default, tuple(rules), (("x86_64", ("x86", "x32")), ("aarch64", ("arm",))))


@given(profiles(several=False), st.sampled_from(["x86_64", "aarch64"]))
@settings(max_examples=40, deadline=None)
def test_any_profile_does_what_libseccomp_makes_of_it(profile: Profile, machine: str) -> None:
    _assert_same(profile, WHERE._replace(machine=machine))


@given(profiles(several=True))
@settings(deadline=None)
def test_any_profile_does_what_it_says(profile: Profile) -> None:
    code, table = lines(program(profile, WHERE)), syscalls.numbers("x86_64")
    for name, samples in _samples(profile.rules).items():
        for arguments in samples:
            assert judged(code, AUDIT["x86_64"], table[name], arguments) == _meant(profile, name, arguments)


def _meant(profile: Profile, name: str, arguments: tuple[int, ...]) -> int:
    """A rule without conditions, else the first that is met, else the default."""
    rules = [rule for rule in profile.rules if name in rule.names and rule.action != profile.default]
    for rule in sorted(rules, key=lambda rule: bool(rule.conditions)):
        if all(_is_met(condition, arguments[condition.argument]) for condition in rule.conditions):
            return rule.action
    return profile.default


def _is_met(condition: Condition, argument: int) -> bool:
    value = condition.value
    return {
        "NE": argument != value,
        "LT": argument < value,
        "LE": argument <= value,
        "EQ": argument == value,
        "GE": argument >= value,
        "GT": argument > value,
        "MASKED_EQ": argument & value == condition.second & value,
    }[condition.operator]


def test_far_jumps_lead_where_they_should() -> None:
    rules = tuple(
        Rule((name,), 0x50000 | number % 4000, (Condition(number % 6, "EQ", number << 33 | 5),))
        for name, number in syscalls.numbers("x86_64").items()
    )
    profile = Profile(EPERM, rules)
    code = lines(program(profile, WHERE))
    for name, number in syscalls.numbers("x86_64").items():
        arguments = [0] * 6
        arguments[number % 6] = number << 33 | 5
        assert judged(code, AUDIT["x86_64"], number, arguments) == 0x50000 | number % 4000, name
        arguments[number % 6] += 1
        assert judged(code, AUDIT["x86_64"], number, arguments) == EPERM


def test_a_profile_that_is_too_large_is_refused() -> None:
    conditions = [(Condition(0, "EQ", value), Condition(1, "GE", value << 32)) for value in range(1000)]
    profile = Profile(EPERM, tuple(Rule(("read",), ALLOW, each) for each in conditions))
    with pytest.raises(LimitError, match="the kernel takes 4096"):
        program(profile, WHERE)
