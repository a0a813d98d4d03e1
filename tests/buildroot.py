"""A small root file system to build on: busybox, users, a directory for everybody."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BUSYBOX = Path("/bin/busybox")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
_GROUP = "root:x:0:\napp:x:1001:\nextra:x:1002:app\n"


def require_busybox() -> None:
    """Skips where there is none; on CI that is a failure."""
    if not BUSYBOX.exists():
        if os.environ.get("CI"):
            pytest.fail("busybox-static is not installed")
        pytest.skip("busybox-static is not installed")


def make_root(place: Path) -> Path:
    """The root file system below ``place``, which is made."""
    require_busybox()
    for name in ("bin", "etc", "tmp", "root", "home/app"):
        (place / name).mkdir(parents=True)
    (place / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (place / "bin/busybox").chmod(0o755)
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (place / "bin" / applet).symlink_to("busybox")
    (place / "etc/passwd").write_text(_PASSWD)
    (place / "etc/group").write_text(_GROUP)
    (place / "tmp").chmod(0o1777)
    return place


def add_program(root: Path, name: str) -> None:
    """A program of the host, with the libraries it is linked to, where the host has them."""
    found = shutil.which(name)
    assert found is not None, name
    said = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    libraries = [word for line in said.splitlines() for word in line.split() if word.startswith("/")]
    for path in (found, *libraries):
        place = root / path[1:]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
