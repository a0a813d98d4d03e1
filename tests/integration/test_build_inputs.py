"""What a build is given besides the Dockerfile: named contexts, repositories, hosts, memory, agents."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require
from tests.integration.test_build import Builder, outcome
from tests.shell import COMMAND, Shell

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def names(tree: Path) -> set[str]:
    return {os.path.relpath(path, tree) for path in tree.rglob("*") if not path.is_dir()}


def out(made: Builder, *words: str) -> Path:
    """The files of what is built."""
    target = made.root.parent / f"out{os.urandom(4).hex()}"
    made.good("build", "-q", *words, "-o", target, made.context)
    return target


# ---- named contexts


def test_a_context_takes_the_place_of_a_stage(made: Builder, tmp_path: Path) -> None:
    """By name, by number, for stages that go on from it, and as the target; what the stage says is not done."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/t").write_text("context")
    words = ("--build-context", f"tools={tmp_path / 'tools'}")
    made.write(
        "FROM busybox AS tools\nRUN exit 1\nFROM tools AS more\nCOPY own /own\nFROM scratch\n"
        "COPY --from=tools /t /by-name\nCOPY --from=0 /t /by-number\nCOPY --from=more / /more/\n",
        own="x",
    )
    assert names(out(made, *words)) == {"by-name", "by-number", "more/t", "more/own"}
    assert names(out(made, *words, "--target", "tools")) == {"t"}


def test_from_a_directory(made: Builder, tmp_path: Path) -> None:
    """A base image of a context's files, without what its ignore file leaves out; they are root's."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "kept").write_text("1")
    (base / "left.md").write_text("no")
    (base / ".dockerignore").write_text("*.md\n")
    os.chown(base / "kept", 1000, 1000)
    made.write("FROM base\nCOPY own /own\n", own="x")
    words = ("--build-context", f"base={base}")
    tree = out(made, *words)
    assert names(tree) == {"kept", "own", ".dockerignore"} and (tree / "kept").stat().st_uid == 0
    assert list(outcome(made.build(*words)).values()) == ["DONE", "CACHED", "CACHED"]
    (base / "kept").write_text("2")
    assert "not cached: the content of kept has changed" in "\n".join(made.build(*words, "--explain"))
    assert "No such file" in made.build("--build-context", f"base={tmp_path / 'none'}", code=1)[-1]


def test_names_of_contexts_are_names_of_images(made: Builder) -> None:
    made.write("FROM docker.io/library/alpine:latest\nCOPY --from=alpine /etc/passwd /x\n")
    for name in ("alpine", "alpine:latest", "docker.io/library/alpine"):
        made.build("--build-context", f"{name}=docker-image://busybox")
    lines = made.build("--build-context", "alpine:3=docker-image://busybox", code=1)
    assert "docker.io/library/alpine:latest: no such image" in lines[-1]


def test_a_layout_as_a_base(made: Builder, tmp_path: Path) -> None:
    made.good("save", "--format", "oci-dir", "-o", tmp_path / "layout", "busybox")
    made.write("FROM base\nRUN true\n")
    made.build("--build-context", f"base=oci-layout://{tmp_path / 'layout'}")
    assert "has no image 13" in made.build("--build-context", f"base=oci-layout://{tmp_path / 'layout'}:13", code=1)[-1]


# ---- contexts


def git(*words: str | Path) -> None:
    who = {f"GIT_{role}_{key}": "a@fastlayer.invalid" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    env = {**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *words], check=True, capture_output=True, env=env)


def test_a_repository_of_this_machine(made: Builder, tmp_path: Path) -> None:
    require("git")
    made.write("FROM busybox\nCOPY . /src\n", web__Dockerfile="FROM scratch\nCOPY . /web\n", web__page="1")
    files = names(made.context)
    git("init", "-q", "-b", "main", made.context)
    git("-C", made.context, "add", ".")
    git("-C", made.context, "commit", "-q", "-m", "one")
    git("-C", made.context, "tag", "v1")
    git("clone", "-q", "--bare", made.context, tmp_path / "it.git")
    made.write("FROM scratch\nCOPY . /later\n")
    both = {"#v1:web": {"web/Dockerfile", "web/page"}, "#main": {f"src/{name}" for name in files}}
    for number, (word, wanted) in enumerate(both.items()):
        made.good("build", "-q", "-o", tmp_path / f"o{number}", f"{tmp_path / 'it.git'}{word}")
        found = {name for name in names(tmp_path / f"o{number}") if name.startswith(("src/", "web/"))}
        assert found == wanted
    assert "git fetch" in made.refused("build", "-q", f"{tmp_path / 'it.git'}#v2")


def test_a_tar_with_an_ignore_file(made: Builder, tmp_path: Path) -> None:
    made.write("FROM scratch\nCOPY . /\n", kept="1", secret="2", **{".dockerignore": "secret\nDockerfile\n"})
    data = subprocess.run(["tar", "-C", made.context, "-c", "."], check=True, capture_output=True).stdout
    made.good("build", "-q", "-o", tmp_path / "out", "-", input=data)
    assert names(tmp_path / "out") == {"kept", ".dockerignore"}


# ---- what RUN sees


def test_hosts(made: Builder) -> None:
    made.write("FROM busybox\nRUN cat /etc/hosts\n")
    lines = made.build("--add-host", "db:10.0.0.5", "--add-host", "six=[fe80::1]", "--add-host", "me:host-gateway")
    said = [line.split()[2:] for line in lines if line.startswith("#2 ")]
    assert said[-4:-1] == [["10.0.0.5", "db"], ["fe80::1", "six"], ["127.0.0.1", "me"]]
    assert "--add-host was" in "\n".join(made.build("--add-host", "db:10.0.0.6", "--explain"))


@pytest.mark.parametrize(
    "word", ["db", "db:", ":1.1.1.1", "db:999.1.1.1", "a b:1.1.1.1", "db:nowhere", "db:1.1.1.1\nx"]
)
def test_hosts_that_are_none(made: Builder, word: str) -> None:
    """Before anything is built."""
    made.write("FROM nothing\n")
    made.refused("build", "-q", "--add-host", word, made.context, code=2)


@pytest.mark.parametrize("isolation", ["native", "oci"])
def test_memory_for_dev_shm(made: Builder, isolation: str) -> None:
    made.write("FROM busybox\nRUN df -k /dev/shm | tail -n 1\n")
    lines = made.build("--shm-size", "96m", "--isolation", isolation)
    assert any(line.split()[3:4] == [str(96 << 10)] for line in lines), lines


def test_an_agent_that_is_not_there(made: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    made.env.pop("SSH_AUTH_SOCK", None)
    made.write("FROM busybox\nRUN --mount=type=ssh true\n")
    assert "SSH_AUTH_SOCK is not set" in made.refused("build", "-q", "--ssh", "default", made.context, code=2)
    missing = made.root.parent / "gone"
    assert "gone: is not there: give the socket of an agent" in made.build("--ssh", f"default={missing}", code=1)[-1]
    made.build()


def test_a_base_image_for_another_platform(made: Builder) -> None:
    made.write("FROM busybox\n")
    assert "it is there for linux/" in made.build("--platform", "linux/s390x", code=1)[-1]


def test_names_of_an_output_that_is_the_image(made: Builder) -> None:
    made.write("FROM busybox\nRUN true\n")
    assert {"Named made:latest", "Named more:2", "Named other:latest"} <= set(
        made.build("-o", 'type=image,"name=more:2,other"')
    )
    ids = made.good("inspect", "-f", "{{.Id}}", "made", "more:2", "other").split()
    assert len(ids) == 3 and len(set(ids)) == 1


ALONE = ("unshare", "--user", "--map-root-user", "--mount")  # a namespace in which there is nobody but root


@pytest.mark.parametrize("mount", ["secret,id=s", "ssh", "cache,target=/c"])
def test_an_owner_that_is_not_there(tmp_path: Path, root: Path, mount: str) -> None:
    """It is root's for the step, and nothing is left."""
    plain = tmp_path / "plain"
    subprocess.run(["cp", "-r", "--no-preserve=ownership", root, plain], check=True)
    shell = Shell(tmp_path / "store", "vfs")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM base\nRUN --mount=type={mount},uid=1000 true\n")
    (context / "secret").write_text("fox")
    before = set(Path("/dev/shm").glob("fastlayer-secret-*"))
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        given = ("--secret", f"id=s,src={context / 'secret'}", "--ssh", f"default={tmp_path / 'agent'}")
        for words in (("import", "-q", plain, "base"), ("build", "-q", *given, context)):
            done = subprocess.run(
                [*ALONE, *COMMAND, *words], env=shell.env, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done
    assert done.stderr == ""
    assert not set(Path("/dev/shm").glob("fastlayer-secret-*")) - before
    assert not any((shell.root / "cache/work").glob("*"))
