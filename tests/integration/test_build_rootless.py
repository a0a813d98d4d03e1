"""Builds by those who are not root: the same images, as far as one may own and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.buildroot import make_root
from tests.conftest import temporary_directory
from tests.integration.test_build import EPOCH, Builder
from tests.integration.userns import as_somebody, unshared

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="compares with what root builds")
DOCKERFILE = (
    "FROM busybox AS build\nWORKDIR /src\nCOPY . .\nRUN mkdir /out && cp a /out/res && rm /etc/group && id -u > /u\n"
    "FROM build\nCOPY --from=build /out /app/\nCOPY --chown=1000:1001 --link lib /lib/x/\nRUN ls -ln /app > /listed\n"
)
SCRIPT = """
import os, sys
from fastlayer.cli.main import run
archive, context, isolation, epoch = sys.argv[1:]
code = run(["load", "-q", "-i", archive]) or run(
    ["build", "-q", "--isolation", isolation, "--source-date-epoch", epoch, "-t", "made", context])
code = code or run(["save", "-o", os.devnull, "made"]) or run(["store", "check"])
sys.exit(code)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The base image as an archive, a context, and the id of what root builds of both."""
    place = tmp_path_factory.mktemp("reference")
    made = Builder(place, make_root(place / "root"))
    made.write(DOCKERFILE, a="1", lib__b="2")
    made.good("save", "-o", place / "base.tar", "busybox")
    return (
        place / "base.tar",
        made.context,
        made.good("build", "-q", "--source-date-epoch", EPOCH, made.context).strip(),
    )


@pytest.mark.parametrize("means", [as_somebody, unshared])
@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
@pytest.mark.parametrize("isolation", ["native", "oci"])
def test_the_same_image(
    reference: tuple[Path, Path, str], tmp_path: Path, means: Any, driver: str, isolation: str
) -> None:
    archive, context, wanted = reference
    for path in (archive, context, *archive.parents[:3]):
        os.chmod(path, 0o755)
    own = tmp_path / "context"
    shutil.copytree(context, own)
    shutil.copy(archive, tmp_path / "base.tar")
    words = [sys.executable, "-c", SCRIPT, tmp_path / "base.tar", own, isolation, EPOCH]
    done = means(words, tmp_path, FASTLAYER_ROOT=str(tmp_path / "store"), FASTLAYER_DRIVER=driver)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert wanted in lines and "sound" in lines[-1]


LATER = """
import os, subprocess, sys
archive, context, theirs = sys.argv[1:]
def fastlayer(*words, within=()):
    done = subprocess.run([*within, sys.executable, "-m", "fastlayer", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout
fastlayer("load", "-q", "-i", archive)
fastlayer("import", "-q", theirs, "imported")
fastlayer("build", "-q", "-t", "built", context)
tree = fastlayer("mount", "--rw", "--no-mount", "--name", "work", "built").strip()
open(tree + "/new", "w").close()
fastlayer("commit", "-q", "work", "committed")
for within in ((), ("unshare", "-Urm")):
    for image in ("imported", "built", "committed"):
        fastlayer("save", "-o", os.devnull, image, within=within)
    assert "sound" in fastlayer("store", "check", within=within)
"""


def test_what_was_made_in_one_namespace_is_whole_in_another(reference: tuple[Path, Path, str], tmp_path: Path) -> None:
    """Each command is a process of its own: some become root of a user namespace, to others owners look different."""
    archive, context, _ = reference
    shutil.copytree(context, tmp_path / "context")
    shutil.copy(archive, tmp_path / "base.tar")
    with temporary_directory() as theirs:
        (theirs / "file").write_text("root's")
        theirs.chmod(0o755)
        words = [sys.executable, "-c", LATER, tmp_path / "base.tar", tmp_path / "context", theirs]
        done = as_somebody(words, tmp_path, FASTLAYER_ROOT=str(tmp_path / "store"), FASTLAYER_DRIVER="vfs")
    assert done.returncode == 0, done.stderr


WITHIN = """
import os, sys
from fastlayer.cli.main import run
origin, target = sys.argv[1:]
os.makedirs(target)
code = run(["import", "-q", origin, "base"]) or run(["mount", "--rw", "--name", "work", "base", target])
open(target + "/new", "w").close()
sys.exit(code or run(["umount", "work"]) or run(["commit", "-q", "work", "committed"]))
"""
OUTSIDE = """
import os, sys
from fastlayer.cli.main import run
from fastlayer.running import rootless
rootless.become_root = lambda _: False  # the machine lets nobody
sys.exit(run(["save", "-o", os.devnull, "base", "committed"]) or run(["store", "check"]))
"""


def test_an_overlay_store_of_a_namespace_is_sound_outside(tmp_path: Path) -> None:
    """Nothing can be mounted there: the store is not unsound for that."""
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "file").write_text("1")
    subprocess.run(["chmod", "-R", "a+rX", tmp_path], check=True)
    given = {"FASTLAYER_ROOT": str(tmp_path / "store"), "FASTLAYER_DRIVER": "overlay2"}
    done = unshared([sys.executable, "-c", WITHIN, tmp_path / "origin", tmp_path / "target"], tmp_path, **given)
    assert done.returncode == 0, done.stderr
    done = as_somebody([sys.executable, "-c", OUTSIDE], tmp_path, **given)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "note: image" in done.stdout and "not permitted to mount" in done.stdout, done.stdout


SHARED = """
import sys
from fastlayer.cli.main import run
archive, context, cache, mounts, new = sys.argv[1:]
code = run(["load", "-q", "-i", archive]) or run(["cache", "import", "-q", mounts])
code = code or run(["build", "-q", "--cache-from", cache, "--cache-to", new + "/cache", "-t", "made", context])
sys.exit(code or run(["cache", "export", "-q", new + "/mounts"]) or run(["store", "check"]))
"""


def test_caches_that_others_wrote(tmp_path: Path) -> None:
    """In a user namespace: the build finds everything, and what cache mounts hold is the same."""
    made = Builder(tmp_path, make_root(tmp_path / "root"))
    made.write("FROM busybox\nRUN --mount=type=cache,target=/c echo 1 > /c/f && date > /d\n")
    cache, mounts = tmp_path / "cache", tmp_path / "mounts"
    made.build("--cache-to", f"type=local,dest={cache}")
    made.good("cache", "export", mounts)
    made.good("save", "-o", tmp_path / "base.tar", "busybox")
    words = [sys.executable, "-c", SHARED, tmp_path / "base.tar", made.context, cache, mounts, tmp_path / "new"]
    done = unshared(words, tmp_path, FASTLAYER_ROOT=str(tmp_path / "other"), FASTLAYER_DRIVER="overlay2")
    assert done.returncode == 0, (done.stdout, done.stderr)
    (wanted,) = json.loads(made.good("inspect", "made"))
    assert wanted["Id"] in done.stdout.splitlines()
    assert "warning" not in done.stderr and "sound" in done.stdout.splitlines()[-1]


PYTHON = """
import subprocess, sys
import fastlayer
archive, context = sys.argv[1:]
subprocess.run([sys.executable, "-m", "fastlayer", "load", "-q", "-i", archive], check=True)
print(fastlayer.build(context).steps)
"""


def test_copies_of_directories_that_nobody_may_write_to_are_removed(tmp_path: Path, reference: Any) -> None:
    own, store = tmp_path / "context", tmp_path / "store"
    (own / "d/deep").mkdir(parents=True)
    (own / "d/deep/file").write_text("seen")
    (own / "Dockerfile").write_text("FROM busybox\nRUN --mount=source=d,target=/m,rw cat /m/deep/file\n")
    shutil.copy(reference[0], tmp_path / "base.tar")
    for path in (own / "d/deep", own / "d"):
        path.chmod(0o500)
    words = [sys.executable, "-c", PYTHON, tmp_path / "base.tar", own]  # which does not move its process
    done = as_somebody(words, tmp_path, FASTLAYER_ROOT=str(store), FASTLAYER_DRIVER="vfs")
    assert done.returncode == 0 and done.stdout.endswith("1\n"), (done.stdout, done.stderr)
    assert not os.listdir(store / "cache/work")
