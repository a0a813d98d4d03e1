"""A real Docker engine uses the volumes of a store through our plugin; crashes of either lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer.image.importing import import_image
from fastlayer.mounts import table
from fastlayer.store.store import open_store
from fastlayer.volume import books
from fastlayer.volume.volumes import Volumes
from tests.conftest import needs_root, require
from tests.filesystems import loop_fs
from tests.integration.command import wait_for
from tests.integration.judges import run
from tests.stores import tree

pytestmark = [needs_root, pytest.mark.timeout(600)]
Words = list[str | Path]
SOCKETS = Path("/run/docker/plugins")
SHELL = Path("/bin/busybox")


class Plugin:
    """Our server, started as people start it."""

    def __init__(self, root: Path, driver: str = "overlay2") -> None:
        self.root = root
        self.driver = driver
        self.name = f"fastlayer-{os.urandom(4).hex()}"
        self.socket = SOCKETS / f"{self.name}.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "fastlayer", "serve", "volume-plugin", "--root", self.root]
        self.process = subprocess.Popen(
            [*words, "--driver", self.driver, "--socket", self.socket], stderr=subprocess.PIPE
        )
        assert self.process.stderr is not None
        assert b"serving volumes" in self.process.stderr.readline()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


class Engine:
    """A Docker engine of our own, which can be killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.words: Words = ["docker", "-H", f"unix://{root}/sock"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]
        options.append("--shutdown-timeout=1")  # seconds: what its containers run does not listen
        places = ["--data-root", self.root / "data", "--exec-root", self.root / "exec"]
        places += ["-p", self.root / "pid", "-H", f"unix://{self.root}/sock"]
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(["dockerd", *options, *map(str, places)], stdout=log, stderr=log)
        wait_for(lambda: subprocess.run([*self.words, "version"], capture_output=True).returncode == 0, 120)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)
        # its containerd, which dies with it, may be a zombie that nobody has waited for: the next takes it for alive
        (self.root / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def do(self, *words: str | Path) -> str:
        return run(*self.words, *words).strip()

    def refused(self, *words: str) -> str:
        done = subprocess.run([*self.words, *words], capture_output=True, text=True)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def shell(self, script: str, *volumes: str) -> str:
        mounts = [word for volume in volumes for word in ("-v", volume)]
        return self.do("run", "--rm", "--network=none", *mounts, "box:1", "/bin/sh", "-c", script)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    require("dockerd", "docker", "runc", "containerd")
    if not SHELL.exists():
        pytest.skip("not installed: busybox")
    with loop_fs("xfs", 512 << 20) as where:
        yield where


@pytest.fixture(scope="module")
def image(place: Path) -> Path:
    source = tree(place / "image", {"bin/": "", "etc/conf": "of the image\n", "data/seed": "seed\n"})
    shutil.copy(SHELL, source / "bin/sh")
    return source


@pytest.fixture(scope="module")
def engine_(place: Path, image: Path) -> Iterator[Engine]:
    root = place / "docker"
    root.mkdir()
    engine = Engine(root)
    engine.start()
    archive = root / "box.tar"
    run("tar", "-C", image, "-cf", archive, ".")
    engine.do("import", archive, "box:1")
    try:
        yield engine
    finally:
        engine.stop()
        for entry in reversed(list(table.entries())):
            if os.fsdecode(entry.target).startswith(f"{root}/"):
                subprocess.run(["umount", "-l", entry.target], check=False)


@pytest.fixture(scope="module")
def plugin(place: Path, image: Path) -> Iterator[Plugin]:
    with open_store(place / "store", driver="overlay2") as store:
        import_image(store, image, "base:1")
    found = Plugin(place / "store")
    found.start()
    try:
        yield found
    finally:
        assert found.stop() == 0
        assert not found.socket.exists()


@pytest.fixture
def engine(engine_: Engine, plugin: Plugin) -> Iterator[Engine]:
    yield engine_
    for name in engine_.do("volume", "ls", "-q").split():
        engine_.do("volume", "rm", name)
    with open_store(plugin.root) as store:
        assert Volumes(store).all() == [] and books.users_of(store) == []
    below = os.fsencode(plugin.root / "volumes")
    assert [entry.target for entry in table.entries() if entry.target.startswith(below)] == []


@contextmanager
def store_of(plugin: Plugin) -> Iterator[Volumes]:
    with open_store(plugin.root) as store:
        yield Volumes(store)


def test_a_volume_is_used_by_containers(engine: Engine, plugin: Plugin) -> None:
    assert engine.do("volume", "create", "-d", plugin.name, "data") == "data"
    engine.shell("echo kept > /v/file", "data:/v")
    assert engine.shell("cat /v/file", "data:/v:ro") == "kept"
    found = json.loads(engine.do("volume", "inspect", "data"))[0]
    assert (found["Driver"], found["Scope"]) == (plugin.name, "local")
    assert found["Mountpoint"] == str(plugin.root / "volumes/data/_data")
    assert f"{plugin.name} data" in engine.do("volume", "ls", "--format", "{{.Driver}} {{.Name}}")
    with store_of(plugin) as volumes:
        assert [volume.name for volume in volumes.all()] == ["data"]


def test_docker_fills_a_new_volume(engine: Engine, plugin: Plugin) -> None:
    engine.do("volume", "create", "-d", plugin.name, "data")
    assert engine.shell("cat /data/seed", "data:/data") == "seed"


def test_an_image_as_a_volume(engine: Engine, plugin: Plugin) -> None:
    engine.do("volume", "create", "-d", plugin.name, "-o", "image=base:1", "root")
    engine.do("volume", "create", "-d", plugin.name, "-o", "image=base:1", "other")
    assert engine.shell("cat /r/etc/conf; echo mine > /r/etc/conf", "root:/r") == "of the image"
    assert engine.shell("cat /r/etc/conf /o/etc/conf", "root:/r", "other:/o") == "mine\nof the image"


def test_clones_and_snapshots(engine: Engine, plugin: Plugin) -> None:
    engine.do("volume", "create", "-d", plugin.name, "data")
    engine.shell("echo first > /v/file", "data:/v")
    with store_of(plugin) as volumes:
        assert volumes.snapshot("data", "s1").copied_bytes == 0
    engine.shell("echo second > /v/file", "data:/v")
    engine.do("volume", "create", "-d", plugin.name, "-o", "clone=data", "now")
    engine.do("volume", "create", "-d", plugin.name, "-o", "snapshot=data@s1", "then")
    assert engine.shell("cat /n/file /t/file", "now:/n", "then:/t") == "second\nfirst"


def test_a_limit_holds(engine: Engine) -> None:
    """On btrfs, whose quotas every kernel has; and in a clone."""
    write = "dd if=/dev/urandom of=/v/big bs=1M count=40 2>&1; sync"
    with loop_fs("btrfs") as where:
        limited = Plugin(where / "store", "btrfs")
        limited.start()
        try:
            engine.do("volume", "create", "-d", limited.name, "-o", "size=20m", "small")
            engine.do("volume", "create", "-d", limited.name, "-o", "clone=small", "-o", "size=30m", "larger")
            engine.do("volume", "create", "-d", limited.name, "free")
            for name in ("small", "larger"):
                assert "quota exceeded" in engine.shell(write, f"{name}:/v"), name
            assert "40+0 records out" in engine.shell(write, "free:/v")
            engine.do("volume", "rm", "small", "larger", "free")
        finally:
            limited.stop()


def test_what_docker_is_told(engine: Engine, plugin: Plugin) -> None:
    for option, why in (
        ("color=red", "there is no such option"),
        ("image=nothing:1", "nothing:1"),
        ("clone=nothing", "no such volume"),
        ("size=10m", "cannot be limited here"),
    ):
        line = engine.refused("volume", "create", "-d", plugin.name, "-o", option, "data")
        assert why in line and "\n" not in line.strip(), line


def test_what_is_in_use_stays(engine: Engine, plugin: Plugin) -> None:
    engine.do("volume", "create", "-d", plugin.name, "data")
    name = engine.do("run", "-d", "--network=none", "-v", "data:/v", "box:1", "/bin/sh", "-c", "read x < /dev/zero")
    try:
        with store_of(plugin) as volumes:
            assert [user.user.startswith("plugin-") for user in books.users_of(volumes.store, "data")] == [True]
            with pytest.raises(Exception, match="in use"):
                volumes.remove("data")
        assert "in use" in engine.refused("volume", "rm", "data")
    finally:
        engine.do("rm", "-f", name)


def running(engine: Engine, volume: str) -> str:
    """A container that writes to the volume, and then waits."""
    script = "echo running > /v/file; while :; do sleep 1; done"
    words = ("run", "-d", "--network=none", "-v", f"{volume}:/v", "box:1", "/bin/sh", "-c", script)
    name = engine.do(*words)
    wait_for(lambda: "running" in engine.do("exec", name, "/bin/sh", "-c", "while read x; do echo $x; done < /v/file"))
    return name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_the_plugin_starts_anew(engine: Engine, plugin: Plugin, number: int) -> None:
    """While a container runs: it goes on, and what was mounted for it is found, used and given back."""
    engine.do("volume", "create", "-d", plugin.name, "-o", "image=base:1", "root")
    name = running(engine, "root")
    plugin.stop(number)
    plugin.start()
    mounted = json.loads(engine.do("volume", "inspect", "root"))[0]["Mountpoint"]
    assert mounted == str(plugin.root / "volumes/root/_data") and table.find(mounted) is not None
    assert engine.shell("cat /v/file /v/etc/conf", "root:/v") == "running\nof the image"
    assert table.find(mounted) is not None
    engine.do("rm", "-f", name)
    assert table.find(mounted) is None
    assert engine.shell("cat /v/file", "root:/v") == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_docker_starts_anew(engine: Engine, plugin: Plugin, number: int) -> None:
    """The volume is known and has its files; what a killed engine had mounted keeps nobody from removing it."""
    engine.do("volume", "create", "-d", plugin.name, "-o", "image=base:1", "root")
    name = running(engine, "root")
    engine.stop(number)
    engine.start()
    assert engine.do("volume", "ls", "-q") == "root"
    assert engine.shell("cat /v/file", "root:/v") == "running"
    engine.do("rm", "-f", name)
    engine.do("volume", "rm", "root")
    with store_of(plugin) as volumes:
        assert volumes.all() == []
