"""Plain users with ranges of ids: files of layers belong to ids that only a user namespace lets them work with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.buildroot import make_root
from tests.conftest import require
from tests.integration.userns import as_somebody

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="shows another /etc/subuid in place of the machine's")
IDS = {
    "/etc/passwd": "somebody:x:54321:54321::/:/bin/sh\n",
    "/etc/subuid": "somebody:200000:65536\n",
    "/etc/subgid": "somebody:300000:65536\n",
}
PRIVATE = "mkdir -m 700 /private && echo 1 > /private/file && chown -R 7:8 /private && echo hi > /plain"

# each command is a process of its own
COMMANDS = """
import io, os, subprocess, sys, tarfile
os.chdir(os.environ["HOME"])
def fastlayer(*words):
    done = subprocess.run([sys.executable, "-m", "fastlayer", *words], capture_output=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout
def owners(tar):
    return {member.name: (member.uid, member.gid) for member in tarfile.open(fileobj=io.BytesIO(tar))}
archive, private = sys.argv[1:]
WANTED = {"plain": (0, 0), "private": (7, 8), "private/file": (7, 8)}
fastlayer("import", "-q", archive, "base")
fastlayer("run", "--name", "box", "base", "sh", "-c", private)
"""


def run(scratch: Path, code: str) -> None:
    require("newuidmap", "newgidmap")
    if not all(map(os.path.exists, IDS)):
        pytest.skip("no /etc/subuid to show another one in place of")
    shown = {}
    for place, text in IDS.items():
        file = scratch / os.path.basename(place)
        file.write_text(text)
        shown[file] = place
    make_root(scratch / "root")
    subprocess.run(["tar", "-C", scratch / "root", "-cf", scratch / "base.tar", "."], check=True)
    command = [sys.executable, "-c", COMMANDS + code, scratch / "base.tar", PRIVATE]
    given = {"FASTLAYER_ROOT": str(scratch / "store"), "FASTLAYER_DRIVER": "vfs"}
    done = as_somebody(command, scratch, shown=shown, **given)
    assert done.returncode == 0, done.stderr


def test_what_a_container_wrote_is_seen_with_its_owners(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
assert fastlayer("diff", "box").decode().split() == ["A", "/plain", "A", "/private", "A", "/private/file"]
for tar in (fastlayer("diff", "box", "-o", "-"), fastlayer("export", "box")):
    found = owners(tar)
    assert {name: found[name] for name in WANTED} == WANTED, found
assert owners(fastlayer("cp", "-a", "box:/private", "-"))["private/file"] == (7, 8)
fastlayer("commit", "-q", "box", "made")
names = fastlayer("run", "--rm", "made", "ls", "-ln", "/private").decode().split()
assert "7" in names and "8" in names, names
""",
    )


def test_it_is_measured_kept_and_removed(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("ps", "-a", "-s"); fastlayer("inspect", "-s", "box"); fastlayer("mounts", "--usage")
fastlayer("system", "df", "-v")
fastlayer("commit", "-q", "box", "made")
fastlayer("checkpoint", "box", "then"); fastlayer("fork", "box", "other"); fastlayer("rollback", "box", "then")
assert b"A /private/file" in fastlayer("diff", "base", "made")
assert b"sound" in fastlayer("store", "check")
fastlayer("rmi", "made"); fastlayer("checkpoint", "--rm", "box", "then"); fastlayer("store", "gc")
assert b"Removed: other" in fastlayer("system", "prune", "-af")
left = os.listdir(os.path.join(os.environ["FASTLAYER_ROOT"], "vfs"))
assert left == ["identity"], left
""",
    )


def test_a_running_container_is_reached_from_outside(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("run", "-d", "--name", "busy", "base", "sh", "-c", "echo hi > /new; mkfifo /wait; cat /wait")
while b"/wait" not in fastlayer("diff", "busy"):
    assert b"busy" in fastlayer("ps"), fastlayer("logs", "busy")
assert fastlayer("cp", "busy:/new", "-") and "new" in owners(fastlayer("export", "busy"))
fastlayer("commit", "-q", "busy", "made"); fastlayer("rm", "-f", "busy")
""",
    )


def test_volumes(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
fastlayer("run", "--rm", "-v", "data:/data", "base", "sh", "-c", private.replace("/p", "/data/p"))
for words in (("ls", "-s"), ("clone", "data", "copy"), ("snapshot", "data", "s1")):
    fastlayer("volume", *words)
fastlayer("volume", "export", "data", "-o", "data.tar")
found = owners(open("data.tar", "rb").read())
assert {name: found[name] for name in WANTED} == WANTED, found
fastlayer("volume", "snapshots", "rm", "data", "s1"); fastlayer("volume", "rm", "data")
assert b"copy" in fastlayer("volume", "prune", "-af")
""",
    )
