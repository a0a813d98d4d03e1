"""Tests that need another kernel: Debian's user-mode-linux (6.1) boots on the host's own tree and runs pytest in it.

    status = run(["tests/uml_devicemapper"], seconds=300)

The guest sees the files of the host (hostfs), and has its own empty ``/tmp`` and ``/dev/shm`` in memory, where tests
belong; hostfs is slow, so one boot runs many tests. Everything the guest prints is streamed; no process is left behind.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
KERNEL = "linux.uml"
PROGRAMS = (KERNEL, "insmod", "dmsetup", "thin_delta", "mkfs.ext4", "mkfs.xfs")  # .ci/system has their packages
MODULES = (
    "drivers/block/loop",
    "drivers/md/dm-mod",
    "drivers/md/dm-bufio",
    "drivers/md/persistent-data/dm-persistent-data",
    "drivers/md/dm-bio-prison",
    "drivers/md/dm-thin-pool",
)
_NOISE = (b"SELinux:", b"mmapper_init", b"Failed to initialize ubd", b"reboot: ", b"sysrq: ")

# Directories of its own in memory; the project stays where it is, even below one of them.
OWN_DIRECTORIES = """mount -t tmpfs run /run
mkdir /run/project && mount --bind {project} /run/project
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
[ -e {project}/setup.py ] || {{ mkdir -p {project} && mount --bind /run/project {project}; }}
"""

_INIT = (
    """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
"""
    + OWN_DIRECTORIES
    + """for module in {modules}; do
    insmod /usr/lib/uml/modules/$(uname -r)/kernel/$module.ko || echo "cannot load $module"
done
dmsetup mknodes
cd {project}
{environment} {command} </dev/null
echo $? >{status}
sync
echo o >/proc/sysrq-trigger
sleep 60
"""
)


def run(selection: Sequence[str], *, seconds: float, memory: str = "1G", env: Mapping[str, str] | None = None) -> int:
    """Runs pytest with these arguments inside a guest; returns its exit status.

    ``memory`` of the guest, its tmpfs included. Raises ``TimeoutError`` after ``seconds``, ``RuntimeError`` when the
    guest ends without a status. Paths of ``selection`` are relative to the project, or absolute and not below /tmp.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *selection]
    return run_command(command, seconds=seconds, memory=memory, env=env)


def run_command(
    command: Sequence[str], *, seconds: float, memory: str = "1G", env: Mapping[str, str] | None = None
) -> int:
    """As ``run``, with any command."""
    where = Path(tempfile.mkdtemp(prefix="fastlayer-uml-", dir="/var/tmp"))
    try:
        init = where / "init"
        init.write_text(_script(command, where / "status", env or {}))
        init.chmod(0o755)
        _boot(init, memory, seconds)
        try:
            return int((where / "status").read_text())
        except (FileNotFoundError, ValueError):
            raise RuntimeError("the guest ended before its command did: see its output") from None
    finally:
        shutil.rmtree(where, ignore_errors=True)


def _script(command: Sequence[str], status: Path, env: Mapping[str, str]) -> str:
    given = {"FASTLAYER_UML": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", **env}
    return _INIT.format(
        modules=" ".join(MODULES),
        project=shlex.quote(str(PROJECT)),
        environment="env " + " ".join(shlex.quote(f"{name}={value}") for name, value in given.items()),
        command=shlex.join(command),
        status=shlex.quote(str(status)),
    )


def _boot(init: Path, memory: str, seconds: float) -> None:
    guest = subprocess.Popen(
        [
            *(KERNEL, f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", "rw", f"init={init}"),
            *(f"uml_dir={init.parent}/", "con=null", "con0=null,fd:1", "quiet", "loglevel=2", "panic=-1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=kernel_environment(init.parent),
    )
    try:
        _stream(guest, time.monotonic() + seconds)
    finally:
        _end(guest)


def kernel_environment(where: Path) -> dict[str, str]:
    """Of the kernel as a process. ``where``: a directory for what has to be compiled for it (``uml_state.c``)."""
    environment = {**os.environ, "TMPDIR": "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp"}
    if platform.machine() == "x86_64":
        library = where / "uml_state.so"
        source = Path(__file__).with_name("uml_state.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        environment["LD_PRELOAD"] = str(library)
    return environment


def _stream(guest: subprocess.Popen[bytes], deadline: float) -> None:
    """Prints what the guest prints until it ends."""
    import select

    assert guest.stdout is not None
    out, held = guest.stdout.fileno(), b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the guest did not end in time")
        if not select.select([out], [], [], left)[0]:
            continue
        read = os.read(out, 65536)
        *lines, held = (held + read).split(b"\n")
        for line in lines:
            if not line.startswith(_NOISE):
                _show(line + b"\n")
        if not any(noise.startswith(held) or held.startswith(noise) for noise in _NOISE):  # the dots of pytest
            _show(held)
            held = b""
        if not read:
            return


def _show(text: bytes) -> None:
    print(text.replace(b"\r", b"").decode(errors="replace"), end="", flush=True)


def _end(guest: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the guest: the processes of its session."""
    for pid in _session(guest.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    guest.wait()
    if guest.stdout is not None:
        guest.stdout.close()


def _session(leader: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.getsid(int(name)) == leader:
                    found.append(int(name))
            except (ProcessLookupError, PermissionError):
                pass
    return found
