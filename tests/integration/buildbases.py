"""The base images of the corpus, as archives that docker, buildah and fastlayer load: no registry is asked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from fastlayer.oci.platform import host_platform
from tests.integration.buildcases import STAMP

BUSYBOX, DEBIAN = "fastlayer.invalid/busybox", "fastlayer.invalid/debian"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CREATED = "2023-11-14T22:13:20Z"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "app:x:1000:1000:app:/home/app:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nstaff:x:50:app\napp:x:1000:\nnogroup:x:65534:\n",
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n",
    "etc/resolv.conf": "",
    "etc/old/one": "1\n",
    "etc/old/two": "2\n",
    "home/app/.profile": "# app\n",
}
_DIRECTORIES = {
    "dev": 0o755,
    "proc": 0o555,
    "sys": 0o555,
    "run": 0o755,
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}


def busybox(place: Path) -> Path:
    """The archive of the small base image, made in ``place``; OSError when busybox-static is not installed."""
    tree, archive = place / "busybox", place / "busybox.tar"
    program = tree / "bin/busybox"
    program.parent.mkdir(parents=True)
    shutil.copyfile("/bin/busybox", program)
    program.chmod(0o755)
    for applet in subprocess.run([program, "--list-full"], check=True, capture_output=True, text=True).stdout.split():
        path = tree / applet
        if path != program:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(os.path.relpath(program, path.parent))
    for name, text in _FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        (tree / name).chmod(0o644)
    for name, mode in _DIRECTORIES.items():
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name).chmod(mode)
    for path in (tree / "home/app", tree / "home/app/.profile"):
        os.chown(path, 1000, 1000)
    return image_archive(_layer(tree, place / "busybox.layer"), archive, BUSYBOX)


def debian(place: Path) -> Path:
    """The archive of a Debian with python3, from a tree that is made once and kept; needs debootstrap and a mirror."""
    from bench.workloads import debian_with_python

    return image_archive(debian_with_python(), place / "debian.tar", DEBIAN)


def _layer(tree: Path, out: Path) -> Path:
    """A tree as a plain tar, every time the same, sorted."""
    options = ["--numeric-owner", "--sort=name", f"--mtime=@{STAMP}", "--format=posix"]
    options += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]
    subprocess.run(["tar", *options, "-C", tree, "-cf", out, "."], check=True)
    return out


def image_archive(layer: Path, out: Path, name: str) -> Path:
    """An archive as ``docker load`` reads it: one layer, PATH, and a shell as the command."""
    with open(layer, "rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    config = {
        "created": _CREATED,
        **{key: value for key, value in host_platform().to_dict().items() if value},
        "config": {"Env": [_PATH], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created": _CREATED, "created_by": "base"}],
    }
    work = out.with_suffix(".parts")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "config.json").write_text(json.dumps(config))
    (work / "layer.tar").symlink_to(layer)
    entry = {"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}
    (work / "manifest.json").write_text(json.dumps([entry]))
    subprocess.run(["tar", "-hC", work, "-cf", out, "manifest.json", "config.json", "layer.tar"], check=True)
    shutil.rmtree(work)
    return out
