"""The trees that are measured. Made once into a cache, then unpacked onto the file system under test.

debian  debootstrap minbase, and the same after installing python3 python3-pip git gcc perl libc6-dev
wheels  an empty site-packages, and about 37 k files of wheels in it
one     the "debian" tree, and a copy with one byte of one file changed
many    an empty tree, and 1 M empty files in 1000 directories
big     one file of 4 GiB, and a copy with 1 MiB in its middle changed
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CACHE = Path(os.environ.get("FASTLAYER_BENCH_CACHE", "/var/tmp/fastlayer-bench"))
PACKAGES = ("python3", "python3-pip", "git", "gcc", "perl", "libc6-dev")
WHEELS = ("ansible==10.7.0", "sympy==1.13.3", "django==5.1.4")


class Pair(NamedTuple):
    """Tree A, tree B."""

    a: Path
    b: Path


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-500:]}")


def _cached(name: str, make: object) -> Path:
    archive = CACHE / f"{name}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        work = CACHE / f"{name}.{os.getpid()}"
        try:
            make(work)  # type: ignore[operator]
            _run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", work, "-cf", f"{work}.tar", ".")
            os.rename(f"{work}.tar", archive)
        finally:
            # a debootstrap that failed leaves these mounted
            subprocess.run(["umount", "-q", work / "proc", work / "sys"], stderr=subprocess.DEVNULL)
            shutil.rmtree(work, ignore_errors=True)
    return archive


def _unpack(archive: Path, target: Path) -> None:
    if not target.exists():
        target.mkdir(parents=True)
        _run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", target, "-xpf", archive)


def _debootstrap(target: Path) -> None:
    _run("debootstrap", "--variant=minbase", "bookworm", target)


def _install(target: Path, *packages: str) -> None:
    _unpack(_cached("debian-base", _debootstrap), target)
    _run("chroot", target, "apt-get", "-qq", "update")
    _run(
        "chroot", target, "env", "DEBIAN_FRONTEND=noninteractive",
        "apt-get", "-qqy", "--no-install-recommends", "install", *(packages or PACKAGES),
    )  # fmt: skip


def _pip(target: Path) -> None:
    target.mkdir(parents=True)
    _run(sys.executable, "-m", "pip", "-q", "install", "--no-compile", "--no-deps", "--target", target, *WHEELS)
    _run(sys.executable, "-m", "compileall", "-q", target / "django", target / "sympy")


def debian(root: Path) -> Pair:
    """11 k changed entries, 470 MB."""
    a, b = root / "debian-a", root / "debian-b"
    _unpack(_cached("debian-base", _debootstrap), a)
    _unpack(_cached("debian-full", _install), b)
    return Pair(a, b)


def wheels(root: Path) -> Pair:
    """37 k added files."""
    a, b = root / "wheels-a", root / "wheels-b"
    a.mkdir(parents=True, exist_ok=True)
    _unpack(_cached("wheels", _pip), b)
    return Pair(a, b)


def equal(root: Path) -> Pair:
    """The debian-full and wheels trees together, twice: about 54 k equal entries."""
    a, b = root / "equal-a", root / "equal-b"
    if not b.exists():
        a.mkdir(parents=True)
        for tree in (debian(root).b, wheels(root).b):
            _run("cp", "-a", tree, a / tree.name)
        _run("cp", "-a", a, b)
    return Pair(a, b)


def one(root: Path) -> Pair:
    """The pair of `equal` with one byte of one file of B changed, times kept."""
    a, b = root / "equal-a", root / "one-b"
    if not b.exists():
        equal(root)
        _run("cp", "-a", a, b)
        changed = b / "debian-b/usr/bin/python3.11"
        before = changed.stat()
        with open(changed, "r+b") as file:
            file.seek(before.st_size // 2)
            byte = file.read(1)[0]
            file.seek(before.st_size // 2)
            file.write(bytes([byte ^ 1]))
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    return Pair(a, b)


def many(root: Path) -> Pair:
    """1 M empty files."""
    a, b = root / "many-a", root / "many-b"
    a.mkdir(parents=True, exist_ok=True)
    if not b.exists():
        for number in range(1000):
            directory = b / f"d{number:03}"
            directory.mkdir(parents=True)
            at = os.open(directory, os.O_RDONLY)
            for name in range(1000):
                os.close(os.open(f"f{name:03}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=at))
            os.close(at)
    return Pair(a, b)


def big(root: Path) -> Pair:
    """One file of 4 GiB (pseudo-random), 1 MiB of it changed."""
    a, b = root / "big-a", root / "big-b"
    if not b.exists():
        import random

        block = random.Random(1).randbytes(64 << 20)
        a.mkdir(parents=True)
        with open(a / "disk.img", "wb") as file:
            for number in range(64):
                file.write(number.to_bytes(8, "little") + block[8:])
        _run("cp", "-a", "--reflink=auto", a, b)
        with open(b / "disk.img", "r+b") as file:
            file.seek(2 << 30)
            file.write(random.Random(2).randbytes(1 << 20))
    return Pair(a, b)


def debian_with_python() -> Path:
    """An archive: the smaller Debian with python3, the base image of the applications that tests build."""
    return _cached("debian-python", _install_python)


def _install_python(target: Path) -> None:
    _install(target, "python3")
    for name in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        for path in (target / name).rglob("*"):
            if path.is_file():
                path.unlink()
