"""Running a command as root of an unprivileged container: Docker's capabilities and system call filter, as in a CI pod.

No namespace can be made there and nothing be mounted, whatever the machine allows. As a program,
``python -m tests.integration.confined COMMAND...``, it takes the rights from itself for good and becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CAPBSET_DROP, _SET_SECCOMP, _FILTER = 24, 22, 2  # prctl(2)
_LAST = 63
_REPOSITORY = Path(__file__).parents[2]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def confined(command: Sequence[str | os.PathLike[str]], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command so; root only."""
    words = [sys.executable, "-m", "tests.integration.confined", *map(os.fspath, command)]
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(words, capture_output=True, text=True, env=variables, cwd=_REPOSITORY, check=False)


def confine() -> None:
    """From the next exec on: until then the capabilities are there."""
    from fastlayer.running import capabilities
    from fastlayer.running.seccomp.compiler import program
    from fastlayer.running.seccomp.default import DEFAULT
    from fastlayer.running.seccomp.profile import here

    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(_LAST + 1):
        if not capabilities.DEFAULT >> number & 1:
            libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    lines = program(DEFAULT, here(tuple(capabilities.names(capabilities.DEFAULT))))
    assert lines, "no filter for this machine"
    if libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(lines) // 8, lines)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


if __name__ == "__main__":
    confine()
    os.execvp(sys.argv[1], sys.argv[1:])
