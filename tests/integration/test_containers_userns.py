"""``--userns auto``: root of the container is nobody on the host, and owners inside are what they always are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer.errors import UsageError
from fastlayer.running import idmaps
from tests.conftest import needs_root
from tests.containers import FOREVER, Command, until

pytestmark = [needs_root, pytest.mark.usefixtures("engine")]
FIRST = 700_000


@pytest.fixture
def granted(command: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """``containers`` has two times 65,536 ids."""
    monkeypatch.setattr(idmaps, "granted", lambda name: [(FIRST, 2 * 65536)] if name == "containers" else [])
    monkeypatch.setenv("FASTLAYER_DRIVER", "overlay2")
    yield command


def test_who_is_who(granted: Command) -> None:
    script = f"id -u; chown 1000:1001 /tmp; echo x > /root/x; echo v > /vol/v; cat /proc/self/uid_map; {FOREVER}"
    made = fastlayer.run(
        "box", "sh", "-c", script, detach=True, userns="auto", name="c", volumes=["data:/vol"], root=granted.root
    )
    assert isinstance(made, fastlayer.container.api.Container)
    until(lambda: b"65536" in made.logs())
    assert made.logs().split() == [b"0", b"0", str(FIRST).encode(), b"65536"]
    pid = granted.state("c")["Pid"]
    assert os.stat(f"/proc/{pid}").st_uid == FIRST
    assert granted.out("exec", "c", "sh", "-c", "id -u; stat -c %u:%g /root/x /tmp /etc/passwd /vol/v").split() == [
        "0",
        "0:0",
        "1000:1001",
        "0:0",
        "0:0",
    ]
    assert granted.out("exec", "-u", "app", "c", "id", "-u") == "1000"
    changes = {line.split()[-1] for line in granted.out("diff", "c").splitlines()}
    assert changes == {"/tmp", "/root", "/root/x", "/vol"}  # nothing is another's: no owner has changed
    granted.out("commit", "c", "made")
    assert granted.out("run", "--rm", "made", "stat", "-c", "%u:%g", "/root/x", "/tmp").split() == ["0:0", "1000:1001"]
    assert granted.out("run", "--rm", "-v", "data:/vol", "box", "stat", "-c", "%u", "/vol/v") == "0"
    assert granted.inspect("c")["HostConfig"]["UsernsMode"] == "auto"
    made.stop(timeout=5)
    granted.out("rm", "c")


def test_it_can_do_nothing_to_the_host(granted: Command, tmp_path: Path) -> None:
    """Even with all capabilities: a file of root on the host is not its own."""
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    result = fastlayer.run(
        "box",
        "sh",
        "-c",
        "cat /host/secret; mknod /dev/sda b 8 0; echo 1 > /proc/sys/kernel/panic; echo end",
        userns="auto",
        privileged=True,
        volumes=[f"{tmp_path}:/host"],
        root=granted.root,
        remove=True,
    )
    assert isinstance(result, fastlayer.container.api.Result)
    assert result.stdout == b"end\n" and result.stderr.count(b"\n") == 3, result


def test_each_has_its_own(granted: Command) -> None:
    made = [fastlayer.create("box", "true", userns="auto", root=granted.root) for _ in range(2)]
    maps = {each.inspect()["HostConfig"]["StorageOpt"]["id_map"] for each in made}
    assert maps == {f"0:{FIRST}:65536", f"0:{FIRST + 65536}:65536"}
    with pytest.raises(UsageError, match="all ids are taken"):
        fastlayer.create("box", "true", userns="auto", root=granted.root)
    made[0].remove()
    fastlayer.create("box", "true", userns="auto", root=granted.root)


def test_where_it_cannot_be(command: Command) -> None:
    if not idmaps.granted("containers") and not idmaps.granted("root"):
        assert "/etc/subuid" in command.refused("run", "--rm", "--userns", "auto", "box", "true", code=125)
    command.refused("run", "--rm", "--userns", "keep-id", "box", "true", code=125)
    assert "overlay2" in command.refused("run", "--rm", "--userns", "auto", "--driver", "vfs", "box", "true", code=125)
