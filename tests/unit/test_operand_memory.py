"""A layer tar as an operand is held as flat records: the peak memory of a whole process, entry by entry."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

ENTRIES = 100_000
BOUND = 220  # bytes of memory for each entry, whatever the operand is for


def write_tar(path: Path, entries: int) -> None:
    with open(path, "wb") as file:
        for number in range(entries):
            info = tarfile.TarInfo(f"usr/share/d{number % 500:03d}/file-{number:07d}")
            info.mtime = 1_700_000_000
            file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(1024))


def peak(a: Path, b: Path) -> int:
    """Bytes of memory that one diff took at most."""
    words = [sys.executable, "-m", "fastlayer", "diff", str(a), str(b)]
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(words[0], words, {**os.environ, "FASTLAYER_BACKEND": "native"}, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_maxrss << 10


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer has memory of its own")
@pytest.mark.parametrize("side", ["a", "b", "both"])
def test_memory_per_entry(tmp_path: Path, side: str) -> None:
    few, many, nothing = tmp_path / "few.tar", tmp_path / "many.tar", tmp_path / "nothing"
    nothing.mkdir()
    write_tar(few, 1)
    write_tar(many, ENTRIES)

    def operands(tar: Path) -> tuple[Path, Path]:
        return {"a": (tar, nothing), "b": (nothing, tar), "both": (tar, tar)}[side]

    assert peak(*operands(many)) - peak(*operands(few)) < ENTRIES * BOUND
