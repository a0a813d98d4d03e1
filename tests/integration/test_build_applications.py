"""Two applications that differ in their source and entry point alone: what the second takes from the first.

Their image is a Debian, a package by apt, a library by pip, the source, and the entry point: a layer each but for the
last, which changes no file. What apt and pip need lies in the context.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_root, require
from tests.integration import buildbases
from tests.integration.buildcases import agent, cases, stage
from tests.integration.judges import fresh
from tests.integration.test_build import outcome
from tests.shell import Shell

pytestmark = [needs_root, pytest.mark.timeout(600)]
EPOCH = "1700000000"
CASES = {case.name: case for case in cases()}

DOCKERFILE = """\
FROM fastlayer.invalid/debian
RUN --mount=source=debs,target=/debs echo 'deb [trusted=yes] file:/debs ./' >/etc/apt/sources.list \\
 && apt-get update && apt-get install -y --no-install-recommends greet && apt-get clean \\
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/apt/* /var/cache/ldconfig/* /var/lib/dpkg/*-old
RUN --mount=source=wheels,target=/wheels PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/wheels python3 -m pip install \\
    --no-index --find-links /wheels --no-compile --no-cache-dir --break-system-packages flaskish
COPY {source} /app/
ENTRYPOINT {entry}
"""
ONE = DOCKERFILE.format(source="app.py", entry='["python3", "/app/app.py"]')
TWO = DOCKERFILE.format(source="service.py", entry='["python3", "/app/service.py", "--all"]')
ASK = """
import socket, os
with socket.socket(socket.AF_UNIX) as agent:
    agent.connect(os.environ["SSH_AUTH_SOCK"])
    agent.sendall(bytes([0, 0, 0, 1, 11]))  # SSH_AGENTC_REQUEST_IDENTITIES
    print(os.getuid(), agent.recv(100).hex())
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    path = fresh(Path("/dev/shm") / f"applications-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def debian(place: Path) -> Path:
    require("debootstrap", "dpkg-deb")
    return buildbases.debian(place)


@pytest.fixture(scope="module")
def context(place: Path) -> Path:
    """Both applications, and what they are made of."""
    found = stage(CASES["lesson-flask-one"], fresh(place / "case"))
    shutil.copyfile(CASES["lesson-flask-two"].path / "service.py", found / "service.py")
    (found / "Dockerfile").write_text(ONE)
    (found / "Dockerfile.two").write_text(TWO)
    return found


@pytest.fixture(scope="module")
def shell(place: Path, debian: Path) -> Shell:
    return with_base(place / "store", debian)


def with_base(root: Path, archive: Path) -> Shell:
    made = Shell(root, "overlay2")
    made.good("load", "-q", "-i", archive)
    return made


def build(shell: Shell, context: Path, name: str, *words: str | Path) -> dict[str, str]:
    """How each step ended."""
    fixed = ("--network", "none", "--progress", "plain", "--source-date-epoch", EPOCH)
    done = shell.run("build", "-t", name, *fixed, *words, context)
    assert done.returncode == 0, done.stderr.decode()
    return outcome(done.stderr.decode().splitlines())


def layers(shell: Shell, name: str) -> list[str]:
    found = shell.good("inspect", "-f", "{{range .RootFS.Layers}}{{.}} {{end}}", name)
    return found.split()


def identity(shell: Shell, name: str) -> str:
    return shell.good("inspect", "-f", "{{.Id}}", name)


def test_the_second_takes_what_the_first_has(shell: Shell, context: Path, place: Path, debian: Path) -> None:
    first = build(shell, context, "one")
    assert list(first.values()) == ["CACHED", "DONE", "DONE", "DONE"]  # FROM, apt, pip, source
    second = build(shell, context, "two", "-f", context / "Dockerfile.two")
    assert list(second.values()) == ["CACHED", "CACHED", "CACHED", "DONE"]

    one, two = layers(shell, "one"), layers(shell, "two")
    assert len(one) == len(two) == 4 and one[:3] == two[:3] and one[3] != two[3]
    rows = [shell.rows("history", "--no-trunc", name) for name in ("one", "two")]
    assert [row["Size"] for row in rows[0][2:]] == [row["Size"] for row in rows[1][2:]]
    for app, name in zip(rows, ("app.py", "service.py"), strict=True):
        assert str(app[0]["CreatedBy"]).startswith("ENTRYPOINT") and app[0]["Size"] == "0 B"
        assert app[1]["CreatedBy"] == f"COPY {name} /app/ # buildkit"
        assert app[1]["Size"] == f"{(context / name).stat().st_size} B"
        assert str(app[4]["Size"]).endswith(" MB") and all(row["Size"] != "0 B" for row in app[2:4])

    other = with_base(place / "other", debian)
    build(other, context, "two", "-f", context / "Dockerfile.two")
    assert list(build(other, context, "one").values()) == ["CACHED", "CACHED", "CACHED", "DONE"]
    assert layers(other, "one") == one and layers(other, "two") == two
    for name in ("one", "two"):
        assert identity(other, name) == identity(shell, name)


@pytest.mark.parametrize("name,wanted", [("one", "greetings, one\n"), ("two", "greetings, --all\n")])
def test_they_run(shell: Shell, context: Path, place: Path, name: str, wanted: str) -> None:
    build(shell, context, name, *(("-f", context / "Dockerfile.two") if name == "two" else ()))
    tree = fresh(place / "run")
    shell.good("mount", name, tree)
    try:
        entry = shell.good("inspect", "-f", "{{range .Config.Entrypoint}}{{.}} {{end}}", name).split()
        done = subprocess.run(["chroot", tree, *entry], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, wanted), done.stderr
    finally:
        shell.good("umount", tree)


def test_a_line_of_the_source_is_changed(shell: Shell, context: Path, place: Path) -> None:
    """Nothing but the source is done again, and it is said why."""
    build(shell, context, "one")
    changed = shutil.copytree(context, place / "changed")
    (changed / "app.py").write_text((changed / "app.py").read_text().replace('"one"', '"once more"'))
    words = ("--network", "none", "--progress", "plain", "--explain", "--source-date-epoch", EPOCH)
    lines = shell.run("build", *words, changed).stderr.decode().splitlines()
    assert list(outcome(lines).values()) == ["CACHED", "CACHED", "CACHED", "DONE"]
    assert [line for line in lines if "not cached" in line] == ["#4 not cached: the content of app.py has changed"]


@pytest.mark.parametrize("isolation", ["native", "oci"])
def test_a_step_of_a_user_talks_to_an_agent(shell: Shell, place: Path, isolation: str) -> None:
    case = CASES["mount-ssh"]
    context = fresh(place / f"agent-{isolation}")
    (context / "ask.py").write_text(ASK)
    (context / "Dockerfile").write_text(
        "FROM fastlayer.invalid/debian\nUSER 1234\n"
        "RUN --mount=source=ask.py,target=/ask.py --mount=type=ssh,uid=1234,required python3 /ask.py\n"
    )
    with agent(case, place) as path:
        words = ("--isolation", isolation, "--no-cache", "--progress", "plain", "--ssh", f"default={path}")
        done = shell.run("build", *words, context)
    (place / "agent").unlink()
    assert any(line.endswith(b" 1234 000000050c00000000") for line in done.stderr.splitlines()), done.stderr.decode()
