"""Running a command on another kernel: Debian's user-mode-linux (6.1) as an ordinary process, on this machine's files.

It has what a kernel of a build machine may lack (project quotas of XFS and ext4), and lacks what newer ones have
(``lowerdir+``). ``/tmp`` and ``/dev/shm`` are its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import require
from tests.uml import OWN_DIRECTORIES, kernel_environment

INSIDE = "FASTLAYER_TEST_IN_UML"
_REPOSITORY = Path(__file__).parents[2]
_MODULES = ("drivers/block/loop", "fs/overlayfs/overlay", "fs/quota/quota_tree", "fs/quota/quota_v2")

_INIT = (
    """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys
"""
    + OWN_DIRECTORIES
    + """for module in {modules}; do insmod /usr/lib/uml/modules/$(uname -r)/kernel/$module.ko; done
export PATH={path} HOME=/tmp PYTHONDONTWRITEBYTECODE=1 {inside}=1
cd {project}
{command} >{out}/output 2>&1
echo $? >{out}/status
sync
halt -f
"""
)


def on_uml(command: Sequence[str], *, memory: str = "700M", timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs the command as root there. Skips the test (fails it on CI) when user-mode-linux is not installed."""
    require("linux.uml")
    out = Path(tempfile.mkdtemp(prefix="fastlayer-uml-", dir="/var/tmp"))  # not /tmp, which is hidden inside
    try:
        init = out / "init"
        init.write_text(
            _INIT.format(
                modules=" ".join(_MODULES),
                path=shlex.quote(os.environ.get("PATH", "/usr/bin:/bin")),
                inside=INSIDE,
                project=shlex.quote(str(_REPOSITORY)),
                command=shlex.join(command),
                out=out,
            )
        )
        init.chmod(0o755)
        options = [f"mem={memory}", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", "con=null", "quiet"]
        console = subprocess.run(
            ["linux.uml", *options, "con0=null,fd:1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=kernel_environment(out),
            check=False,
        )
        status = out / "status"
        if not status.exists():
            raise RuntimeError(
                f"user-mode-linux did not get through: {console.stdout.decode('utf-8', 'replace')[-3000:]}"
            )
        return subprocess.CompletedProcess(
            command, int(status.read_text()), (out / "output").read_text(errors="replace")
        )
    finally:
        shutil.rmtree(out)


def pytest_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
