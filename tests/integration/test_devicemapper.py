"""The devicemapper driver on a real thin pool: in user-mode-linux, which boots once and runs tests/uml_devicemapper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import uml
from tests.buildroot import make_root
from tests.conftest import require
from tests.integration.test_build import reference

SECONDS = 1800  # minutes on a quiet machine: the guest starts programs slowly


def guests() -> set[str]:
    """The directories of all guests that run; a harness removes that of its guest at its end."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {os.fsdecode(word[8:]) for word in words if word.startswith(b"uml_dir=")}
    return found


@pytest.mark.timeout(SECONDS + 60)
def test_the_driver_in_its_own_kernel(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: the guest works on the files of the host as root")
    require(*uml.PROGRAMS, "crun")
    image = reference(tmp_path, make_root(tmp_path / "root"))  # what a build there has to come to
    selection = ["-q", "--color=no", "tests/uml_devicemapper"]
    assert uml.run(selection, seconds=SECONDS, memory="1500M", env={"FASTLAYER_TEST_IMAGE": image}) == 0


@pytest.mark.timeout(400)
def test_the_harness_tells_success_from_failure() -> None:
    require(*uml.PROGRAMS)
    assert uml.run_command(["sh", "-c", "exit 7"], seconds=120) == 7
    with pytest.raises(TimeoutError):
        uml.run_command(["sleep", "100"], seconds=6)
    with pytest.raises(RuntimeError, match="ended before"):
        uml.run_command(["sh", "-c", "echo o >/proc/sysrq-trigger; sleep 10"], seconds=120)
    assert not [place for place in guests() if not os.path.exists(place)], "a guest outlived its harness"


def test_the_probe_says_why_not_here() -> None:
    """Without device-mapper in the kernel, or with it: one line each, and nothing raised."""
    code = (
        "from pathlib import Path; from fastlayer.drivers.devicemapper import DeviceMapper; "
        "p = DeviceMapper.probe(Path('/tmp')); "
        "print(p.works or (bool(p.why) and bool(p.remedy) and '\\n' not in p.why + p.remedy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
