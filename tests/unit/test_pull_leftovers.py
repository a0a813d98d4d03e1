"""What pulls leave when they are cut short, and who takes it away; `run --pull`; the verb."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha512
from pathlib import Path
from typing import Any

import pytest

import fastlayer
from fastlayer.errors import NotFoundError, OperandError, UsageError
from fastlayer.store.downloads import downloads_of
from tests.conftest import needs_root
from tests.registry_server import RegistryServer, digest
from tests.shell import COMMAND, Shell
from tests.unit.test_pull import named, publish

pytestmark = needs_root


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "store")


@pytest.fixture
def cut_short(shell: Shell, server: RegistryServer) -> Shell:
    """A store in which a part of a layer is left over."""
    blobs = publish(server)
    server.fail(f"GET .*{digest(blobs[0])}", cut=100_000, reset=True)
    assert "reset by peer" in shell.refused("pull", "-q", "--retry-times", "0", named(server))
    server.faults.clear()
    assert os.listdir(downloads_of(shell.root))
    return shell


def test_a_store_with_leftovers_is_sound(cut_short: Shell) -> None:
    assert "sound" in cut_short.good("store", "check")


def test_df_shows_them(cut_short: Shell) -> None:
    (row,) = [row for row in cut_short.rows("system", "df") if row["Type"] == "Pulls Begun"]
    assert row["TotalCount"] in (1, 2, "1", "2")


def test_gc_takes_them_after_a_week(cut_short: Shell) -> None:
    place = downloads_of(cut_short.root)
    cut_short.good("store", "gc")
    names = os.listdir(place)
    assert names
    for name in names:
        os.utime(place / name, (0, 0))
    cut_short.good("store", "gc")
    assert os.listdir(place) == []


def test_prune_takes_them_at_once(cut_short: Shell) -> None:
    assert "come in part" in cut_short.good("system", "prune", "-f")
    assert os.listdir(downloads_of(cut_short.root)) == []


def test_the_next_pull_needs_them_no_more(cut_short: Shell, server: RegistryServer) -> None:
    cut_short.good("pull", "-q", named(server))
    assert os.listdir(downloads_of(cut_short.root)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(shell: Shell, server: RegistryServer, number: int) -> None:
    """Heard at once, though the registry says nothing; what has come stays."""
    blobs = publish(server)
    server.fail(f"GET .*{digest(blobs[0])}", cut=len(blobs[0]) // 2, wait=0.0, drip=0.0005)
    process = subprocess.Popen(
        [*COMMAND, "pull", "--progress", "rawjson", named(server)], env=shell.env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "receiving" in line:
            break
    process.send_signal(number)
    _, text = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "Traceback" not in text, text
    server.faults.clear()
    shell.good("pull", "-q", named(server))
    assert "sound" in shell.good("store", "check")


def test_a_digest_of_another_kind(shell: Shell, server: RegistryServer) -> None:
    """sha512 of a layer: it is verified as such, and unpacked."""
    blobs = publish(server)
    data = json.loads(server.manifests["app", "1"][0])
    other = "sha512:" + sha512(blobs[0]).hexdigest()
    server.blobs["app", other] = server.blobs.pop(("app", digest(blobs[0])))  # type: ignore[index]
    data["layers"][0]["digest"] = other
    server.add_manifest("app", "1", data)
    done = shell.run("pull", "-q", named(server))
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 0 or (len(lines) == 1 and "sha512" in lines[0]), lines


# ---- the verb --------------------------------------------------------------------------------------------------------


def test_what_is_printed(shell: Shell, server: RegistryServer) -> None:
    publish(server)
    name = named(server)
    first = shell.run("pull", name)
    lines = first.stdout.decode().splitlines()
    assert lines[0].startswith("Digest: sha256:") and lines[1] == f"Status: Downloaded newer image for {name}"
    assert lines[2] == name and first.stderr.decode().count(": Done") == 2
    assert shell.good("pull", name).splitlines()[1] == f"Status: Image is up to date for {name}"
    assert shell.good("pull", "-q", name) == f"{name}\n"
    (found,) = map(json.loads, shell.good("pull", "--format", "json", name).splitlines())
    assert (found["name"], found["changed"], found["received"]) == (name, False, 0)


def test_run_pulls_what_is_missing(shell: Shell, server: RegistryServer) -> None:
    publish(server)
    name = named(server)
    shell.env.pop("FASTLAYER_PULL")
    assert "no store there" in shell.refused("create", "--pull", "never", name, "true")
    shell.good("create", "--name", "one", name, "true")
    assert len(server.calls("GET .*blobs")) == 3
    server.seen.clear()
    shell.good("create", "--name", "two", name, "true")
    assert server.calls() == []
    shell.good("create", "--pull", "always", "--name", "three", name, "true")
    assert [call for call in server.calls() if "manifests" in call] == ["HEAD /v2/app/manifests/1"]
    line = shell.refused("create", f"{server.host}/nothing:1", "true")
    assert "cannot be pulled" in line and server.host in line


def test_python_pulls_what_is_missing(server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server)
    name = named(server)
    given: dict[str, Any] = {"root": tmp_path / "store", "driver": "vfs"}
    with pytest.raises(OperandError, match="no store there"):
        fastlayer.create(name, "true", pull="never", **given)
    with pytest.raises(UsageError, match="pull='often': use always, missing, newer or never"):
        fastlayer.create(name, "true", pull="often", **given)
    monkeypatch.delenv("FASTLAYER_PULL")
    fastlayer.create(name, "true", **given)
    assert len(server.calls("GET .*blobs")) == 3
    server.seen.clear()
    fastlayer.create(name, "true", **given)
    assert server.calls() == []
    fastlayer.create(name, "true", pull="newer", **given)
    assert [call for call in server.calls() if "manifests" in call] == ["HEAD /v2/app/manifests/1"]
    with pytest.raises(NotFoundError, match="cannot be pulled"):
        fastlayer.create(f"{server.host}/nothing:1", "true", **given)


def test_an_image_that_is_there_loads_nothing_of_registries(shell: Shell, server: RegistryServer) -> None:
    publish(server)
    shell.good("pull", "-q", named(server))
    line = [sys.executable, "-X", "importtime", "-m", "fastlayer", "create", named(server), "true"]
    done = subprocess.run(line, env=shell.env, capture_output=True, text=True, check=True)
    assert "fastlayer.container.create" in done.stderr
    assert not [
        row for row in done.stderr.splitlines() if "fastlayer.registry" in row or "fastlayer.transfer.pull" in row
    ]
