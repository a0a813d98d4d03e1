"""The filters that are kept ready are those that would be made. Run as a program: writes them anew."""

from __future__ import annotations

import re
from binascii import b2a_base64
from pathlib import Path

import pytest

from fastlayer.running import capabilities
from fastlayer.running.seccomp import ready
from fastlayer.running.seccomp.compiler import program
from fastlayer.running.seccomp.default import DEFAULT
from fastlayer.running.seccomp.profile import Circumstances

MACHINES = ("x86_64", "aarch64")
USUAL = tuple(capabilities.names(capabilities.DEFAULT))
_WIDTH = 108


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kernel", [(4, 8), (5, 4), (6, 1), (7, 3)])
def test_it_is_what_the_compiler_makes(machine: str, kernel: tuple[int, int]) -> None:
    where = Circumstances(machine, USUAL, kernel)
    assert ready.program(where) == program(DEFAULT, where)


@pytest.mark.parametrize(
    "where",
    [
        Circumstances("x86_64", USUAL, (4, 7)),
        Circumstances("x86_64", USUAL[1:], (6, 1)),
        Circumstances("x86_64", (*USUAL, "CAP_SYS_ADMIN"), (6, 1)),
        Circumstances("riscv64", USUAL, (6, 1)),
    ],
)
def test_another_one_has_to_be_made(where: Circumstances) -> None:
    assert ready.program(where) is None


def test_others_are_others() -> None:
    usual = program(DEFAULT, Circumstances("x86_64", USUAL, (6, 1)))
    for where in (Circumstances("x86_64", USUAL, (4, 7)), Circumstances("x86_64", (*USUAL, "CAP_SYS_ADMIN"), (6, 1))):
        assert program(DEFAULT, where) != usual


def _table() -> str:
    rows = ["_MADE = {\n"]
    for machine in MACHINES:
        text = b2a_base64(program(DEFAULT, Circumstances(machine, USUAL, (6, 1))), newline=False).decode()
        lines = (text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH))
        rows += [f'    "{machine}": (\n', *(f'        "{line}"\n' for line in lines), "    ),\n"]
    return "".join([*rows, "}\n"])


if __name__ == "__main__":
    place = Path(str(ready.__file__))
    place.write_text(re.sub(r"_MADE = \{\n.*?^\}\n", lambda _: _table(), place.read_text(), flags=re.M | re.S))
