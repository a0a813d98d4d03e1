"""cache export, cache import and cache limit as they are typed, around builds that use the mounts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.test_build import Builder
from tests.shell import COMMAND, Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
ADD = "FROM busybox\nARG V=1\nRUN --mount=type=cache,target=/c echo $V >> /c/log && cp /c/log /seen\n"


def machine(place: Path, root: Path, name: str) -> Builder:
    (place / name).mkdir()
    made = Builder(place / name, root)
    made.write(ADD)
    return made


def seen(made: Builder) -> str:
    return (made.tree(made.root.parent) / "seen").read_text()


@pytest.mark.parametrize("form", ["directory", "file", "pipe"])
def test_a_pipeline_keeps_its_caches(tmp_path: Path, root: Path, form: str) -> None:
    """Each machine begins with nothing but what the one before it has left."""
    place = tmp_path / ("kept.tar" if form == "file" else "kept")
    data = b""
    for number in (1, 2, 3):
        made = machine(tmp_path, root, f"m{number}")
        if form == "pipe":
            if data:
                made.good("cache", "import", "-", input=data)
        else:
            made.good("cache", "import", "--if-exists", place)
        made.build("--build-arg", f"V={number}")
        done = made.run("cache", "export", "-" if form == "pipe" else place)
        assert done.returncode == 0, done.stderr
        data = done.stdout
    made.context.joinpath("Dockerfile").write_text(ADD.replace("ARG V=1", "ARG V=3"))
    assert seen(made) == "1\n2\n3\n"


def test_what_is_told(tmp_path: Path, root: Path) -> None:
    made = machine(tmp_path, root, "one")
    made.build()
    (row,) = made.rows("cache", "export", tmp_path / "a")
    assert row["ID"] == "/c" and row["Files"] == 2 and row["Size"] == 2 and row["NewChunks"] == 2
    (row,) = made.rows("cache", "export", tmp_path / "a")
    assert row["NewChunks"] == 0 and row["Written"] == 0
    (row,) = made.rows("cache", "import", tmp_path / "a")
    assert row == {"schema": 1, "ID": "/c", "Files": 2, "Kept": 1, "Written": 0}
    assert "/c" in made.good("cache", "export", tmp_path / "a")


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store")
    shell.good("cache", "limit")
    assert "is not there" in shell.refused("cache", "import", tmp_path / "nothing")
    assert shell.good("cache", "import", "--if-exists", tmp_path / "nothing") == ""
    assert "no cache mount has this id" in shell.refused("cache", "export", "--id", "x", tmp_path / "a")
    (tmp_path / "bad").write_bytes(b"x" * 1000)
    shell.refused("cache", "import", tmp_path / "bad")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").write_text("1")
    assert "no archive of cache mounts" in shell.refused("cache", "import", tmp_path / "other")
    assert "holds other things" in shell.refused("cache", "export", tmp_path / "other")
    shell.refused("cache", "limit", "--max-age", "soon", code=2)
    shell.refused("cache", "limit", "--max-size", "much", code=2)
    shell.refused("cache", "prune", "--type", "step", "--id", "x", "-f", code=2)


def test_limits_are_kept_when_builds_end(tmp_path: Path, root: Path) -> None:
    made = machine(tmp_path, root, "one")
    made.build()
    assert made.rows("cache", "limit", "--max-size", "1g", "--max-age", "168h") == [
        {"schema": 1, "ID": "", "MaxSize": 10**9, "MaxAge": 604800}
    ]
    made.build("--build-arg", "V=2")
    assert {row["Type"] for row in made.rows("cache", "ls")} == {"step", "mount"}
    made.good("cache", "limit", "--id", "/c", "--max-size", "1")
    made.build("--build-arg", "V=3")
    assert {row["Type"] for row in made.rows("cache", "ls")} == {"step"}
    assert made.rows("cache", "limit", "--clear") == []


def test_whoever_wants_another_directory_has_another(tmp_path: Path, root: Path) -> None:
    """Root's own cache, and one with files of a context, do not get in the way of a user's."""
    made = machine(tmp_path, root, "one")
    (made.context / "seed").mkdir()
    (made.context / "seed/file").write_text("seed 1\n")
    base = made.context / "Dockerfile"
    base.write_text("FROM scratch\nCOPY seed /seed\n")
    made.good("build", "-q", "-t", "seed", made.context)
    base.write_text(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c touch /c/of-root; test ! -e /c/mine\n"
        "RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/file; echo seed $N > /c/file\n"
        "USER app\nRUN --mount=type=cache,target=/c,uid=1000,mode=0700 ls /c; ls -ld /c; touch /c/mine\n"
    )
    for number in (1, 2):
        lines = made.build("--build-arg", f"N={number + 1}")
        assert any(line.endswith(f"seed {number}") for line in lines), lines
        assert any("drwx------" in line and " app " in line for line in lines), lines
        assert not any(line.endswith("of-root") for line in lines if "touch" not in line), lines
    names = {row["What"] for row in made.rows("cache", "ls") if row["Type"] == "mount"}
    (seeded,) = names - {"/c", "/c,uid=1000,mode=0700"}
    assert len(names) == 3 and seeded.startswith("/c,from=") and seeded.endswith(",source=/seed")
    made.good("cache", "export", "--id", "/c,uid=1000,mode=0700", tmp_path / "kept")
    made.good("cache", "prune", "-f", "--type", "mount")
    made.good("cache", "import", tmp_path / "kept")
    assert any(line.endswith(" mine") for line in made.build("--build-arg", "N=9"))


def test_prune_of_mounts(tmp_path: Path, root: Path) -> None:
    made = machine(tmp_path, root, "one")
    made.build()
    assert "0 steps and 0 cache mounts" in made.good("cache", "prune", "-f", "--type", "mount", "--unused-for", "1h")
    assert "0 steps and 1 cache mounts" in made.good("cache", "prune", "-f", "--type", "mount")
    assert "Would remove 1 steps" in made.good("cache", "prune", "--dry-run", "-a", "--type", "step")


def test_export_and_import_that_are_killed(tmp_path: Path, root: Path) -> None:
    """The archive and the mount are what they were, or what they should be."""
    one, two = machine(tmp_path, root, "one"), machine(tmp_path, root, "two")
    one.build()
    (data,) = (one.root / "cache/mounts").glob("*/data")
    for number in range(200):
        (data / f"f{number}").write_bytes(os.urandom(40_000))
    place = tmp_path / "a"
    for number in range(6):
        kill([*COMMAND, "cache", "export", place], one.env, place, 0.02 * number)
        if (place / "cache-mounts.json").exists():
            two.good("cache", "import", place)
    one.good("cache", "export", place)
    for number in range(6):
        kill([*COMMAND, "cache", "import", place], two.env, two.root / "cache/work", 0.02 * number)
        found = [mount for mount in two.rows("cache", "ls") if mount["Type"] == "mount"]
        assert len(found) <= 1
    two.good("cache", "import", place)
    two.good("store", "gc")
    (copy,) = (two.root / "cache/mounts").glob("*/data")
    assert sorted(os.listdir(copy)) == sorted(os.listdir(data))
    assert all((copy / name).read_bytes() == (data / name).read_bytes() for name in os.listdir(data))
    assert not os.listdir(two.root / "cache/work")
    index = json.loads((place / "cache-mounts.json").read_text())
    (mount,) = index["mounts"]
    names = {f"{chunk[0]}.zst" for chunk in (*mount["lines"], *mount["data"])}
    assert {path.name for path in (place / "chunks").rglob("*") if path.is_file()} == names


def kill(command: list[str | Path], env: dict[str, str], sign: Path, wait: float) -> None:
    """SIGKILL, ``wait`` seconds after there is something at ``sign``."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    process.wait()
