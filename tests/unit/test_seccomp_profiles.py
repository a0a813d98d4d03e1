"""Seccomp profiles in Docker's format: read, applied, written for OCI runtimes; and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlayer.errors import UsageError
from fastlayer.running import capabilities
from fastlayer.running.seccomp import syscalls
from fastlayer.running.seccomp.compiler import allows, program
from fastlayer.running.seccomp.default import DEFAULT
from fastlayer.running.seccomp.profile import Circumstances, Condition, Profile
from fastlayer.running.seccomp.reading import read_profile
from fastlayer.running.seccomp.runtime import seccomp_of
from tests.seccomp import ALLOW, AUDIT, EPERM, KILL, judged, lines

WHERE = Circumstances("x86_64", tuple(capabilities.DEFAULT_NAMES), (6, 1))
CONTAINERS = Path("/usr/share/containers/seccomp.json")


def read(**fields: Any) -> Profile:
    return read_profile(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **fields}).encode(), "p.json")


def rule(names: list[str], action: str = "SCMP_ACT_ALLOW", **fields: Any) -> dict[str, Any]:
    return {"names": names, "action": action, **fields}


def said(profile: Profile, name: str, *arguments: int, where: Circumstances = WHERE, arch: str = "x86_64") -> int:
    return judged(lines(program(profile, where)), AUDIT[arch], syscalls.numbers(arch)[name], arguments)


@pytest.mark.parametrize(
    "action,wanted",
    [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x80000000),
        ("SCMP_ACT_TRAP", 0x30000),
        ("SCMP_ACT_ERRNO", 0x50001),
        ("SCMP_ACT_TRACE", 0x7FF00001),
        ("SCMP_ACT_LOG", 0x7FFC0000),
        ("SCMP_ACT_ALLOW", ALLOW),
    ],
)
def test_actions(action: str, wanted: int) -> None:
    default = "SCMP_ACT_LOG" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    profile = read(defaultAction=default, syscalls=[rule(["write"], action)])
    assert said(profile, "write") == wanted
    assert said(read(defaultAction=action, syscalls=[rule(["write"])]), "read") == wanted


def test_errors_by_number_and_by_name() -> None:
    profile = read(
        defaultErrnoRet=38,
        syscalls=[
            rule(["read"], "SCMP_ACT_ERRNO", errnoRet=5),
            rule(["write"], "SCMP_ACT_ERRNO", errno="ENOMEM"),
            rule(["open"], "SCMP_ACT_ERRNO"),
            rule(["close"], "SCMP_ACT_TRACE", errnoRet=7),
        ],
    )
    calls = ("read", "write", "open", "close", "stat")
    assert [said(profile, name) for name in calls] == [0x50005, 0x5000C, 0x50001, 0x7FF00007, 0x50026]


@pytest.mark.parametrize(
    "operator,holds",
    [
        ("NE", (1, 1, 0, 1, 1)),
        ("LT", (1, 1, 0, 0, 0)),
        ("LE", (1, 1, 1, 0, 0)),
        ("EQ", (0, 0, 1, 0, 0)),
        ("GE", (0, 0, 1, 1, 1)),
        ("GT", (0, 0, 0, 1, 1)),
    ],
)
def test_operators_compare_all_64_bits(operator: str, holds: tuple[int, ...]) -> None:
    value = 5 << 32 | 5
    condition = {"index": 2, "value": value, "op": f"SCMP_CMP_{operator}"}
    profile = read(syscalls=[rule(["ioctl"], args=[condition]), rule(["openat2"])])
    arguments = (4 << 32 | 9, value - 1, value, value + 1, 6 << 32)
    assert [said(profile, "ioctl", 0, 0, number) == ALLOW for number in arguments] == list(map(bool, holds))


def test_masks() -> None:
    condition = {"index": 0, "value": 0xF00000F0, "valueTwo": 0x10000050, "op": "SCMP_CMP_MASKED_EQ"}
    profile = read(syscalls=[rule(["clone"], args=[condition])])
    assert said(profile, "clone", 0x1000005F) == said(profile, "clone", 7 << 32 | 0x1ABCDE5F) == ALLOW
    assert said(profile, "clone", 0x2000005F) == EPERM


def test_conditions_on_one_argument_are_alternatives() -> None:
    conditions = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (3, 5)]
    profile = read(syscalls=[rule(["kill"], args=conditions), rule(["openat2"])])
    assert [said(profile, "kill", number) == ALLOW for number in (3, 4, 5)] == [True, False, True]
    both = [{"index": index, "value": 1, "op": "SCMP_CMP_EQ"} for index in (0, 1)]
    profile = read(syscalls=[rule(["kill"], args=both), rule(["openat2"])])
    assert [said(profile, "kill", *pair) == ALLOW for pair in ((1, 1), (1, 2), (2, 1))] == [True, False, False]


def test_includes_and_excludes() -> None:
    profile = read(
        syscalls=[
            rule(["mount"], includes={"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}),
            rule(["chroot"], excludes={"caps": ["CAP_SYS_ADMIN"]}),
            rule(["read"], includes={"arches": ["amd64"]}),
            rule(["write"], excludes={"arches": ["amd64", "s390x"]}),
            rule(["ptrace"], includes={"minKernel": "4.8"}),
            rule(["bpf"], excludes={"minKernel": "5.10.3"}),
            rule(["openat2"]),
        ]
    )
    names = ("mount", "chroot", "read", "write", "ptrace", "bpf")

    def allowed(where: Circumstances) -> list[str]:
        arch = where.machine
        return [name for name in names if said(profile, name, where=where, arch=arch) == ALLOW]

    assert allowed(WHERE) == ["chroot", "read", "ptrace"]
    assert allowed(WHERE._replace(capabilities=("CAP_SYS_ADMIN", "CAP_CHOWN"))) == ["mount", "read", "ptrace"]
    assert allowed(WHERE._replace(capabilities=("CAP_SYS_ADMIN",))) == ["read", "ptrace"]
    assert allowed(WHERE._replace(kernel=(4, 4))) == ["chroot", "read", "bpf"]
    assert allowed(WHERE._replace(machine="aarch64")) == ["chroot", "write", "ptrace"]


def test_architectures() -> None:
    own = read(syscalls=[rule(["read"])])
    assert judged(lines(program(own, WHERE)), AUDIT["x86"], 3) == KILL
    assert judged(lines(program(own, WHERE)), AUDIT["x86_64"], 0x40000000) == KILL
    listed = read(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_MIPS"], syscalls=[rule(["read"])])
    assert judged(lines(program(listed, WHERE)), AUDIT["x86"], 3) == ALLOW
    pair = {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    mapped = read(archMap=[pair], syscalls=[rule(["read"])])
    assert judged(lines(program(mapped, WHERE)), AUDIT["x86"], 3) == KILL
    assert judged(lines(program(mapped, WHERE._replace(machine="aarch64"))), AUDIT["arm"], 3) == ALLOW


def test_flags_old_names_and_unknown_calls() -> None:
    flags = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"]
    old = {"name": "read", "action": "SCMP_ACT_ALLOW", "comment": "x"}
    profile = read(flags=flags, syscalls=[old, rule(["of_the_future"])])
    assert profile.flags == 2 and said(profile, "read") == ALLOW


def test_podmans_profile_is_read() -> None:
    if not CONTAINERS.exists():
        pytest.skip("containers-common is not installed")
    profile = read_profile(CONTAINERS.read_bytes(), "seccomp.json")
    assert said(profile, "read") == said(profile, "clone", 0x11) == ALLOW
    assert said(profile, "bpf") == EPERM
    assert said(profile, "bpf", where=WHERE._replace(capabilities=("CAP_SYS_ADMIN",))) == ALLOW


def test_what_runtimes_are_given_says_the_same() -> None:
    """Read back, with nothing left to choose."""
    for where in (WHERE, WHERE._replace(capabilities=("CAP_SYS_ADMIN",)), WHERE._replace(machine="aarch64")):
        value = seccomp_of(DEFAULT, where)
        again = read_profile(json.dumps(value).encode(), "config.json")
        assert program(again, where) == program(DEFAULT, where)
        assert (
            value["architectures"]
            == {
                "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
            }[where.machine]
        )


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("\\xff", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no defaultAction: .*seccomp=unconfined"),
        ('{"defaultAction": "ALLOW"}', 'defaultAction "ALLOW" is unknown'),
        ('{"defaultAction": 7}', "is unknown"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "nobody listens"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}', "from 0 to 4095"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "errorcode"}', "no error of errno"),
        ('{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": true}', "from 0 to 4095"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}', "the flag X is unknown"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["a"], "archMap": [{}]}', "both architectures"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}', "syscalls is {}, not a list"),
    ],
)
def test_what_is_no_profile(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^p.json: .*{message}"):
        read_profile(text.encode("ascii").replace(b"\\xff", b"\xff"), "p.json")


@pytest.mark.parametrize(
    "entry,message",
    [
        (7, "not an object"),
        ({"names": ["read"]}, "action null is unknown"),
        ({"names": "read", "action": "SCMP_ACT_ALLOW"}, "names is"),
        ({"names": [7], "action": "SCMP_ACT_ALLOW"}, "list of texts"),
        ({"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}, "both name and names"),
        (rule(["read"], args=[{"index": 6, "op": "SCMP_CMP_EQ"}]), "index is 6: use a number from 0 to 5"),
        (rule(["read"], args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]), "value is -1"),
        (rule(["read"], args=[{"index": 0, "value": 1.5, "op": "SCMP_CMP_EQ"}]), "value is 1.5"),
        (rule(["read"], args=[{"index": 0, "value": 1 << 64, "op": "SCMP_CMP_EQ"}]), "value is 1844"),
        (rule(["read"], args=[{"index": 0, "op": "EQ"}]), 'op "EQ" is unknown'),
        (rule(["read"], includes={"minKernel": "4"}), 'minKernel "4"'),
        (rule(["read"], includes=["x"]), "not an object"),
    ],
)
def test_what_is_no_rule(entry: Any, message: str) -> None:
    good = rule(["write"])
    with pytest.raises(UsageError, match=r"^p.json: syscalls\[1\].*" + message):
        read(syscalls=[good, entry])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "SCMP_ACT_ALLOW", "read", "4.8"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["names", "x", "caps"]), inner, max_size=3)
    ),
    max_leaves=6,
)
RULE_KEYS = ["names", "name", "action", "errnoRet", "errno", "args", "includes", "excludes", "index", "op", "value"]
TOP_KEYS = ["defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags"]


def _values(keys: list[str], inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), inner, max_size=4)


@given(_values(TOP_KEYS, JSON | st.lists(_values(["architecture", "subArchitectures"], JSON))), JSON)
def test_nonsense_is_an_error_of_the_profile(fields: dict[str, Any], entry: Any) -> None:
    _read_or_refused({**fields, "syscalls": [entry]})


@given(st.lists(_values(RULE_KEYS, JSON | st.lists(_values(RULE_KEYS, JSON), max_size=2)), max_size=3))
def test_nonsense_is_an_error_of_the_rule(entries: list[Any]) -> None:
    _read_or_refused({"syscalls": [{"action": "SCMP_ACT_ALLOW", **entry} for entry in entries]})


def _read_or_refused(fields: dict[str, Any]) -> None:
    try:
        program(read(**fields), WHERE)
    except UsageError as exc:
        assert str(exc).startswith("p.json: ") and "\n" not in str(exc)


def test_conditions_are_kept_as_they_are() -> None:
    entry = {"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ"}
    (found,) = read(syscalls=[rule(["read"], args=[entry])]).rules
    assert found.conditions == (Condition(1, "MASKED_EQ", 2, 3),)


@pytest.mark.parametrize(
    "profile,allowed",
    [
        (DEFAULT, True),
        (read(syscalls=[rule(["execveat"])]), True),
        (read(syscalls=[rule(["execve"])]), False),
        (read(defaultAction="SCMP_ACT_ALLOW"), True),
        (read(defaultAction="SCMP_ACT_LOG"), True),
        (read(defaultAction="SCMP_ACT_ALLOW", syscalls=[rule(["execveat"], "SCMP_ACT_KILL")]), False),
        (read(syscalls=[rule(["execveat"], args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}])]), False),
    ],
)
def test_whether_a_call_may_be_made(profile: Profile, allowed: bool) -> None:
    assert allows(profile, WHERE, "execveat") is allowed
    assert (said(profile, "execveat", 3) in (ALLOW, 0x7FFC0000)) is allowed
