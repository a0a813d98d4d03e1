"""Judging seccomp filters: an interpreter of classic BPF, and libseccomp, which makes filters of the same profiles."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from fastlayer.running.seccomp.profile import Profile, Rule

ARCHITECTURES = {
    "x86_64": 0xC000003E,
    "x86": 0x40000003,
    "x32": 0x4000003E,
    "arm": 0x40000028,
    "aarch64": 0xC00000B7,
    "riscv64": 0xC00000F3,
}
AUDIT = {**ARCHITECTURES, "x32": 0xC000003E}  # what the kernel says
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0
Line = tuple[int, int, int, int]


def lines(program: bytes) -> list[Line]:
    return list(struct.iter_unpack("<HBBI", program))


def judged(program: Sequence[Line], architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What the kernel would do with a call (bpf(4), "classic")."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    words = struct.unpack("<16I", data)
    at = accumulator = 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        if code == 0x20:
            accumulator = words[operand // 4]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return operand
        else:
            at += true if _holds(code, accumulator, operand) else false


def _holds(code: int, accumulator: int, operand: int) -> bool:
    return {
        0x15: accumulator == operand,
        0x25: accumulator > operand,
        0x35: accumulator >= operand,
        0x45: bool(accumulator & operand),
    }[code]


# ---- libseccomp ----------------------------------------------------------------------------------


class _Compare(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    )


_OPERATORS = ("", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")


def libseccomp() -> Any:
    """The library; a test that wants it is skipped where it is not installed."""
    name = ctypes.util.find_library("seccomp")
    if name is None:
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail("libseccomp2 is not installed")
        pytest.skip("libseccomp2 is not installed")
    library = ctypes.CDLL(name)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_arch_native.restype = ctypes.c_uint32
    return library


def resolved(library: Any, name: str) -> int | None:
    """The number, or a negative stand-in for a call that only other architectures have; None: unknown to it."""
    number = int(library.seccomp_syscall_resolve_name(name.encode()))
    return None if number == -1 else number


def number_there(library: Any, architecture: str, name: str) -> int:
    """Negative: not there."""
    return int(library.seccomp_syscall_resolve_name_arch(ARCHITECTURES[architecture], name.encode()))


def made_by_libseccomp(
    library: Any, profile: Profile, rules: Iterable[Rule], architectures: Sequence[str]
) -> list[Line]:
    """The filter that libseccomp makes of the rules, given to it as runc does."""
    context = ctypes.c_void_p(library.seccomp_init(profile.default))
    try:
        tokens = [ARCHITECTURES[name] for name in architectures]
        for token in tokens:
            assert library.seccomp_arch_add(context, token) in (0, -17)
        if library.seccomp_arch_native() not in tokens:
            assert library.seccomp_arch_remove(context, library.seccomp_arch_native()) == 0
        for rule in rules:
            if rule.action != profile.default:
                _add(library, context, rule)
        with tempfile.TemporaryFile() as file:
            assert library.seccomp_export_bpf(context, file.fileno()) == 0
            file.seek(0)
            return lines(file.read())
    finally:
        library.seccomp_release(context)


def _add(library: Any, context: ctypes.c_void_p, rule: Rule) -> None:
    compares = (_Compare * len(rule.conditions))()
    for place, condition in zip(compares, rule.conditions, strict=True):
        place.argument, place.operator = condition.argument, _OPERATORS.index(condition.operator)
        place.one, place.two = condition.value, condition.second
    for name in rule.names:
        number = resolved(library, name)
        if number is not None:
            done = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(rule.action), number, len(compares), compares
            )
            assert done == 0, (name, rule, done)
