"""System calls that Python has no functions for."""

from __future__ import annotations

import ctypes
import os
from typing import Any

# by machine, what libc does in all threads or not at all: capget, capset, pivot_root, seccomp, execveat
NUMBERS = {
    "x86_64": (125, 126, 155, 317, 322),
    "aarch64": (90, 91, 41, 277, 281),
    "riscv64": (90, 91, 41, 277, 281),
}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def call(name: str, *arguments: Any) -> int:
    result = int(getattr(libc, name)(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def longs(*arguments: Any) -> list[Any]:
    return [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
