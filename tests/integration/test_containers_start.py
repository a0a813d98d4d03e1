"""What `run` loads: most of its time is the loading of modules, so those that it has no use for stay out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastlayer import _backend
from tests.buildroot import make_root
from tests.conftest import needs_root
from tests.containers import Command

STANDARD = "inspect dataclasses gettext uuid platform hashlib socket selectors shutil tempfile ipaddress urllib.parse"
STANDARD += " click subprocess concurrent.futures asyncio logging argparse termios random statistics tarfile zipfile"
OURS = "running.seccomp.compiler running.seccomp.syscalls oci.manifest oci.image_index layer.diff layer.apply builder"
OURS += " image.load image.unpack container.commit container.execute volume.plugin running.oci running.chroot"
ENGINE = "extract encode tarread clone changes merge scan upper"


@needs_root
def test_run_loads_what_it_needs(tmp_path: Path) -> None:
    command = Command(tmp_path / "store", FASTLAYER_DRIVER="overlay2")
    command.out("import", "-q", make_root(tmp_path / "root"), "box")
    words = [sys.executable, "-X", "importtime", "-m", "fastlayer", "run", "--rm", "box", "true"]
    done = subprocess.run(words, env=command.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip() for line in lines}
    unwanted = {*STANDARD.split(), *(f"fastlayer.{name}" for name in OURS.split())}
    if _backend.engine().name == "native":
        unwanted |= {f"fastlayer._native.{name}" for name in ENGINE.split()} | {"fastlayer._baseline"}
    assert "fastlayer.container.launch" in loaded and not loaded & unwanted
