"""A root file system that can run programs, and running them: for tests of isolations."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastlayer.mounts.mount import Mount
from fastlayer.running.chroot import Chroot
from fastlayer.running.isolation import Isolation
from fastlayer.running.native import Native
from fastlayer.running.oci import Oci
from fastlayer.running.spec import Spec, directory
from tests.conftest import require

ISOLATIONS: dict[str, Callable[[], Isolation]] = {
    "native": Native,
    "crun": lambda: Oci("crun"),
    "runc": lambda: Oci("runc"),
    "chroot": Chroot,
}
_numbers = itertools.count()
STAMP = 1_600_000_000_123_456_789
APPLETS = (
    "cat chmod chown echo env false grep head hostname id kill ln ls mkdir mknod mount nslookup ping ps pwd readlink "
)
APPLETS += "rm rmdir sed setsid sh sleep stat tail tee test touch true umount unshare wc whoami chroot"


class Ended(NamedTuple):
    """How a program ended, and what it wrote."""

    status: int
    out: str
    err: str


def busybox_root(root: Path) -> Path:
    """A small root file system: busybox, /etc with users, /tmp, /root; every entry with the same time."""
    require("busybox")
    found = shutil.which("busybox")
    assert found is not None
    if "not a dynamic" not in _ldd(found) and "statically" not in _ldd(found):
        pytest.skip("busybox is not linked statically")
    for name in ("bin", "etc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(found, root / "bin/busybox")
    for applet in APPLETS.split():
        os.symlink("busybox", root / "bin" / applet)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\napp:x:1001:\nextra:x:2000:app\n")
    settle(root)
    return root


def _ldd(path: str) -> str:
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def settle(root: Path) -> None:
    for place, folders, files in os.walk(root, topdown=False):
        for name in (*files, *folders):
            os.utime(Path(place) / name, ns=(STAMP, STAMP), follow_symlinks=False)
    os.utime(root, ns=(STAMP, STAMP))


def picture(root: Path) -> dict[str, tuple[Any, ...]]:
    """Every path with what a layer would hold of it."""
    found: dict[str, tuple[Any, ...]] = {}
    for place, folders, files in os.walk(root):
        for name in (*files, *folders, "."):
            path = Path(place) / name
            about = os.lstat(path)
            text = os.readlink(path) if path.is_symlink() else ""
            size = 0 if path.is_dir() else about.st_size
            found[os.path.relpath(path, root)] = (
                about.st_mode,
                about.st_uid,
                about.st_gid,
                about.st_mtime_ns,
                size,
                text,
            )
    return found


def run(isolation: Isolation, root: Path | Sequence[Mount], *args: str, stop: Any = None, **fields: Any) -> Ended:
    """Runs it with pipes, read while it runs."""
    mounts = directory(str(root)) if isinstance(root, Path) else root
    spec = Spec(root=mounts, args=args, **fields)
    texts = [b"", b""]
    pipes = [os.pipe(), os.pipe()]

    def read(number: int) -> None:
        with open(pipes[number][0], "rb") as file:
            texts[number] = file.read()

    readers = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for reader in readers:
        reader.start()
    try:
        status = isolation.run(spec, stdout=pipes[0][1], stderr=pipes[1][1], stop=stop or threading.Event())
    finally:
        for _, end in pipes:
            os.close(end)
        for reader in readers:
            reader.join()
    return Ended(status, texts[0].decode("utf-8", "replace"), texts[1].decode("utf-8", "replace"))


def shell(isolation: Isolation, root: Path | Sequence[Mount], script: str, **fields: Any) -> Ended:
    return run(isolation, root, "/bin/sh", "-c", script, **fields)


def unique() -> str:
    """Seconds to sleep, in words of no other test on this machine."""
    return str(10**9 + os.getpid() % 10**7 * 100 + next(_numbers) % 100)


def processes(marker: str) -> list[int]:
    """Those whose command line has the marker, zombies left out."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if marker.encode() in line:
            found.append(int(name))
    return found


def mounts_of_host() -> list[str]:
    return sorted(Path("/proc/self/mountinfo").read_text().splitlines())
