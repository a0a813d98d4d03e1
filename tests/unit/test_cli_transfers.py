"""``push`` and ``copy`` as commands: what they print, where it goes, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry_server import RegistryServer, error
from tests.shell import COMMAND, Shell
from tests.stores import Layout, tree
from tests.transfers import complete

INSECURE = ("--tls-verify", "false", "--retry-times", "0")


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path)
    made.env["HOME"] = str(tmp_path)
    made.good("import", tree(tmp_path / "tree", {"etc/hosts": "x"}), "app:1")
    return made


def test_push(shell: Shell, server: RegistryServer, tmp_path: Path) -> None:
    file = tmp_path / "digest"
    done = shell.run("push", *INSECURE, "--digestfile", file, "app:1", f"{server.host}/a/b:1")
    assert done.returncode == 0, done.stderr
    value = server.manifests["a/b", "1"]
    digest = file.read_text().strip()
    assert done.stdout.decode() == f"1: digest: {digest} size: {len(value[0])}\n"
    assert [line.partition(b": ")[2].split(b" ")[0] for line in done.stderr.splitlines()] == [b"Done", b"Done"]
    complete(server, "a/b", "1")
    done = shell.run("push", *INSECURE, "app:1", f"{server.host}/a/b:1")
    assert [line.partition(b": ")[2].split(b" ")[:2] for line in done.stderr.splitlines()] == [
        [b"Already", b"there"]
    ] * 2
    quiet = shell.run("push", "-q", *INSECURE, "app:1", f"{server.host}/a/b:1", "--format", "json")
    found = json.loads(quiet.stdout)
    assert not quiet.stderr and found["descriptor"]["digest"] == digest and found["present"] == 2


def test_all_tags(shell: Shell, server: RegistryServer) -> None:
    shell.good("tag", "app:1", "app:2")
    out = shell.good("push", "-q", "-a", *INSECURE, "app", f"{server.host}/a/b")
    assert [line.split(": digest: ")[0] for line in out.splitlines()] == ["1", "2"]
    assert "--digestfile" in shell.refused("push", "-a", "--digestfile", "x", "app", f"{server.host}/a/b", code=2)


def test_progress_for_machines(shell: Shell, server: RegistryServer) -> None:
    done = shell.run("push", *INSECURE, "--progress", "rawjson", "app:1", f"{server.host}/a/b:1")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["doing"] for line in lines if line["doing"] != "compressing"] == ["done", "sending", "done"]
    assert all(line["schema"] == 1 for line in lines)


def test_copy(shell: Shell, server: RegistryServer, tmp_path: Path) -> None:
    shell.good("push", "-q", *INSECURE, "app:1", f"{server.host}/a/b:1")
    sides = ("--src-tls-verify", "false", "--dest-tls-verify", "false", "-q")
    source = f"docker://{server.host}/a/b:1"
    out = shell.good("copy", *sides, source, f"docker://{server.host}/c/d:1")
    assert out.startswith(f"docker://{server.host}/c/d:1: digest: sha256:")
    digest = out.split()[2]
    for place in (f"oci:{tmp_path}/l:v", f"oci-archive:{tmp_path}/a:v", f"dir:{tmp_path}/d", "other:1"):
        assert digest in shell.good("copy", *sides, source, place)
    assert digest in shell.good("copy", "-q", "other:1", f"oci:{tmp_path}/m")
    found = json.loads(shell.good("copy", *sides, source, f"dir:{tmp_path}/d", "--format", "json"))
    assert found["present"] == 2 and found["source"] == source


def test_what_is_refused(shell: Shell, server: RegistryServer, tmp_path: Path) -> None:
    there = f"{server.host}/a/b:1"
    server.fail("POST", status=403, body=error("DENIED", "not yours"))
    said = shell.refused("push", "-q", *INSECURE, "app:1", there)
    assert "DENIED: not yours" in said and "\n" not in said.strip()
    assert "no such image" in shell.refused("push", "nothing:1", there)
    assert "levels 0 to 9" in shell.refused("push", "--compression-level", "12", "app:1", there, code=2)
    assert "tag" in shell.refused("push", "-a", "app:1", there, code=2)
    assert "manifest" in shell.refused("copy", *INSECURE, f"docker://{there}", f"dir:{tmp_path}/d")
    assert "choose" in shell.refused(
        "copy", "--all", "--platform", "linux/amd64", f"docker://{there}", f"dir:{tmp_path}/d", code=2
    )
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("kind", ["oci", "dir"])
def test_a_killed_copy_goes_on(shell: Shell, server: RegistryServer, tmp_path: Path, kind: str) -> None:
    layout = Layout(tmp_path / "source")
    old = layout.image("old", [{"a": b"1"}])
    new = layout.image("new", [{"b": b"2"}, {"c": b"3" * 300_000}])
    place = tmp_path / "out"
    there = f"{kind}:{place}" + (":v" if kind == "oci" else "")
    shell.good("copy", "-q", f"oci:{layout.path}:old", there)
    shell.good("copy", "-q", *INSECURE, f"oci:{layout.path}:new", f"docker://{server.host}/a/b:1")
    server.fail(f"GET .*blobs/{new.layers[1].digest}", times=1, wait=30.0)
    words = ["copy", *INSECURE, f"docker://{server.host}/a/b:1", there]
    first = new.layers[0].digest.encoded
    blob = place / "blobs/sha256" / first if kind == "oci" else place / first
    with subprocess.Popen([*COMMAND, *words], env=shell.env, stderr=subprocess.DEVNULL) as process:
        while not blob.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    checked = json.loads(shell.good("copy", "-q", "--format", "json", there, f"dir:{tmp_path}/checked"))
    assert checked["descriptor"]["digest"] == old.digest  # it is what it was
    found = json.loads(shell.good(*words, "-q", "--format", "json"))
    assert found["present"] == 1 and found["descriptor"]["digest"] == new.digest
    if kind == "oci":
        for path in (place / "ingest").glob("*"):
            os.utime(path, (0, 0))
        shell.good("copy", "-q", *INSECURE, *words[-2:])
        assert not (place / "ingest").exists()


@pytest.mark.parametrize("kind", ["oci", "dir"])
def test_a_blob_that_is_there_and_damaged_is_put_right(shell: Shell, tmp_path: Path, kind: str) -> None:
    source = Layout(tmp_path / "source")
    image = source.image("v", [{"a": b"1" * 50_000}])
    place = tmp_path / "out"
    blobs = place / "blobs/sha256" if kind == "oci" else place
    words = [
        "copy",
        "-q",
        "--format",
        "json",
        f"oci:{source.path}:v",
        f"{kind}:{place}" + (":v" if kind == "oci" else ""),
    ]
    assert json.loads(shell.good(*words))["uploaded"] == 2
    assert json.loads(shell.good(*words))["present"] == 2
    whole = [
        (source.path / "blobs/sha256" / blob.digest.encoded).read_bytes() for blob in (image.config, image.layers[0])
    ]
    damaged = [blobs / image.config.digest.encoded, blobs / image.layers[0].digest.encoded]
    for path, data in zip(damaged, whole, strict=True):
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # a crash of the system can do this
    assert json.loads(shell.good(*words))["uploaded"] == 2
    assert [path.read_bytes() for path in damaged] == whole


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_nothing_stays_of_an_archive_that_a_killed_copy_was_writing(
    shell: Shell, server: RegistryServer, tmp_path: Path, kind: str
) -> None:
    source = Layout(tmp_path / "source")
    image = source.image("v", [{"a": b"1"}, {"c": os.urandom(300_000)}])
    shell.good("copy", "-q", *INSECURE, f"oci:{source.path}:v", f"docker://{server.host}/a/b:1")
    server.fail(f"GET .*blobs/{image.layers[1].digest}", times=1, wait=60.0)
    place = tmp_path / "out"
    place.mkdir()
    (place / "a.tar").write_bytes(b"what was there")
    words = ["copy", *INSECURE, f"docker://{server.host}/a/b:1", f"{kind}:{place}/a.tar:v"]
    with subprocess.Popen([*COMMAND, *words], env=shell.env, stderr=subprocess.DEVNULL) as process:
        while not server.calls(f"GET .*blobs/{image.layers[1].digest}"):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert [(path.name, path.read_bytes()) for path in place.iterdir()] == [("a.tar", b"what was there")]
    shell.good(*words, "-q")
    assert [path.name for path in place.iterdir()] == ["a.tar"] and (place / "a.tar").stat().st_size > 300_000


@pytest.mark.parametrize("call", ["PATCH", "HEAD", "PUT .*manifests"])
def test_an_interrupt_is_heard_while_a_registry_is_silent(shell: Shell, server: RegistryServer, call: str) -> None:
    server.fail(call, wait=60.0)
    words = ["push", *INSECURE, "app:1", f"{server.host}/a/b:1"]
    with subprocess.Popen([*COMMAND, *words], env=shell.env, stderr=subprocess.PIPE) as process:
        while not server.calls(call):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in said
    assert not server.manifests
    assert not list((shell.root / "leases").iterdir())
