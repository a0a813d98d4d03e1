"""Small archives that would take much memory are refused: the peak of a whole process."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayer.errors import ManifestError
from fastlayer.image.formats.tarstream import MAX_MEMBERS
from fastlayer.oci import jsontext
from tests.images import make_tar

PEAK = 200 << 20  # bytes


def pack(*members: tuple[str, bytes]) -> bytes:
    return gzip.compress(make_tar(members), 1)


def many_links() -> bytes:
    out = io.BytesIO()
    with gzip.open(out, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for number in range(20_000):
            info = tarfile.TarInfo(f"{number}/" + "/".join(["n" * 200] * 15))
            info.type, info.linkname = tarfile.SYMTYPE, "/".join(["t" * 200] * 15)
            tar.addfile(info)
    return out.getvalue()


def many_members() -> bytes:
    head = tarfile.TarInfo("again").tobuf(tarfile.USTAR_FORMAT)
    return gzip.compress(head * (MAX_MEMBERS + 1) + bytes(1024), 1)


def many_entries() -> bytes:
    return pack(("manifest.json", b"[" + b",".join([b"{}"] * 5_000_000) + b"]"))


def many_steps() -> bytes:
    config = b'{"os":"linux","architecture":"amd64","history":[' + b",".join([b'{"a":1}'] * 900_000) + b"]}"
    return pack(
        ("config.json", config), ("manifest.json", json.dumps([{"Config": "config.json", "Layers": []}]).encode())
    )


def as_many_steps_as_allowed() -> bytes:
    steps = b",".join([b'{"a":1,"empty_layer":true}'] * (jsontext.MAX_VALUES // 3 - 9))
    config = b'{"os":"linux","architecture":"amd64","history":[' + steps + b"]}"
    return pack(
        ("config.json", config), ("manifest.json", json.dumps([{"Config": "config.json", "Layers": []}]).encode())
    )


def loaded(work: Path, data: bytes) -> tuple[int, int, str]:
    """Exit code, peak memory and messages of a load."""
    archive = work / "archive.tar.gz"
    archive.write_bytes(data)
    words = ["load", "-q", "--root", str(work / "store"), "--driver", "vfs", "-i", str(archive)]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *words], capture_output=True, text=True, check=False)
    return done.returncode, int(done.stdout.split()[-1]) << 10, done.stderr


# The peak of the program alone: the one that wait4 tells counts what the process was before exec, too.
_MEASURED = """
import atexit, runpy
@atexit.register
def peak():
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
runpy.run_module("fastlayer", run_name="__main__")
"""


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer has memory of its own")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (many_links, "MiB of names and link targets"),
        (many_members, "members, which no image has"),
        (many_entries, "values: do not use it"),
        (many_steps, "values: do not use it"),
    ],
)
def test_little_memory_for_a_bomb(tmp_path: Path, make: Callable[[], bytes], message: str) -> None:
    code, peak, errors = loaded(tmp_path, make())
    assert code != 0
    assert message in errors
    assert errors.count("\n") == 1
    assert peak < PEAK


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer has memory of its own")
def test_the_largest_history_fits(tmp_path: Path) -> None:
    code, peak, errors = loaded(tmp_path, as_many_steps_as_allowed())
    assert (code, errors) == (0, "")
    assert peak < PEAK


def test_values_are_counted_outside_strings() -> None:
    text = json.dumps({"a": ",[{" * jsontext.MAX_VALUES}).encode()
    assert jsontext.parse_object(text, "it", len(text))
    text = b'{"a":[' + b",".join([b"1"] * jsontext.MAX_VALUES) + b"]}"
    with pytest.raises(ManifestError, match="more than 250000 values"):
        jsontext.parse_object(text, "it", len(text))
