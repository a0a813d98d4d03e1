"""Who runs images: docker, podman, containerd, and the bare runtimes runc and crun, each with a store of its own.

A runner takes an image as it came out of fastlayer (``load``), shows the tree that its containers begin with
(``tree``) and runs one (``run``). Nobody has a network. ``knows`` says which ways out it reads; a runner that is not
installed skips its tests, and fails them on CI.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.peers import containerd as containerd_daemon
from bench.peers import docker as docker_daemon
from fastlayer.testing.dump import dump
from tests.conftest import require
from tests.integration.buildjudges import overlay_mounted
from tests.integration.judges import Containerd, fresh, run

Tree = dict[str, dict[str, Any]]
TIMEOUT = 120  # seconds, for one container
# crun refuses a host that has cgroups of both versions side by side, so it does not see those of version 2 there
_HIDDEN = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
AROUND = {"crun": ["unshare", "--mount", "sh", "-c", _HIDDEN, "sh"], "runc": []}


class Ended(NamedTuple):
    """What a container printed, and its exit status."""

    status: int
    out: str
    err: str


class Runner(Protocol):
    """``knows``: whether it reads this kind of archive or layout with layers of this compression."""

    def knows(self, kind: str, compression: str) -> bool: ...

    def load(self, path: Path) -> str:
        """What the image is called there."""

    def tree(self, image: str) -> Tree: ...

    def run(self, image: str, *words: str, entry: str = "") -> Ended:
        """Runs a container; ``words`` are there instead of CMD, after ``entry``, the entry point of one word."""


def _ended(words: Sequence[str | Path], env: dict[str, str] | None = None) -> Ended:
    done = subprocess.run(
        [os.fspath(word) for word in words],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def eventually(found: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not found():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Docker:
    """A docker daemon with overlay2. 20.10 has no zstd, and reads archives only."""

    def __init__(self, root: Path, words: list[str | Path]) -> None:
        self.root, self.words = root, words

    def __call__(self, *words: str | Path) -> str:
        return run(*self.words, *words)

    def knows(self, kind: str, compression: str) -> bool:
        return kind != "layout" and compression != "zstd"

    def load(self, path: Path) -> str:
        return self("load", "-q", "-i", path).rpartition("Loaded image: ")[2].strip()

    def tree(self, image: str) -> Tree:
        data = json.loads(self("inspect", "--type", "image", "-f", "{{json .GraphDriver.Data}}", image))
        with overlay_mounted(data, self.root / "seen") as place:
            return dump(place)

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", "-f", "{{json .Config}}", image))
        return found

    def run(self, image: str, *words: str, entry: str = "") -> Ended:
        return _ended([*self.words, "run", "--rm", "--network", "none", image, *words])

    def start(self, image: str, *words: str) -> str:
        return self("run", "-d", "--network", "none", image, *words).strip()

    def healthy(self, container: str) -> bool:
        """The daemon's latest verdict."""
        return self("inspect", "-f", "{{.State.Health.Status}}", container).strip() == "healthy"


class Podman:
    """podman with a storage of its own, by runc or crun."""

    def __init__(self, root: Path, runtime: str) -> None:
        self.root, self.runtime = root, runtime
        root.mkdir(exist_ok=True)
        (root / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        # locks in /dev/shm would stay there; limits above those of this process are refused where it is confined
        limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        (root / "containers.conf").write_text(f'[engine]\nlock_type = "file"\n{limits}')
        self.state = Path(tempfile.mkdtemp(prefix="podman-", dir="/tmp"))  # it takes no path of more than 50 characters
        places = ["--root", root / "storage", "--runroot", self.state, "--storage-driver", "overlay"]
        plain = ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", runtime]
        self.words: list[str | Path] = ["podman", *places, *plain]
        self.env = {"CONTAINERS_CONF": os.fspath(root / "containers.conf")}
        self.plain = ["--network", "none", *(["--cgroups", "disabled"] if runtime == "crun" else [])]

    def __call__(self, *words: str | Path) -> str:
        return run(*self.words, *words, env=self.env)

    def knows(self, kind: str, compression: str) -> bool:
        return True

    def load(self, path: Path) -> str:
        out = self("load", "-q", "--signature-policy", self.root / "policy.json", "-i", path)
        return out.removeprefix("Loaded image: ").strip()

    def tree(self, image: str) -> Tree:
        place = Path(self("image", "mount", image).strip())
        try:
            return dump(place)
        finally:
            self("image", "umount", image)

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))[0]
        return {**found["Config"], "Healthcheck": found.get("Healthcheck")}

    def run(self, image: str, *words: str, entry: str = "") -> Ended:
        return _ended([*AROUND[self.runtime], *self.words, "run", "--rm", *self.plain, image, *words], self.env)

    def start(self, image: str, *words: str) -> str:
        words = ("run", "-d", *self.plain, image, *words)
        return run(*AROUND[self.runtime], *self.words, *words, env=self.env).strip()

    def healthy(self, container: str) -> bool:
        """podman has it from systemd, and is asked where there is none."""
        return _ended([*self.words, "healthcheck", "run", container], self.env).status == 0


class Ctr:
    """containerd with the overlayfs snapshotter; a layout reaches it as an archive."""

    def __init__(self, peer: Containerd) -> None:
        self.peer, self._numbers = peer, itertools.count()

    def knows(self, kind: str, compression: str) -> bool:
        return True

    def load(self, path: Path) -> str:
        archive = path
        if path.is_dir():
            archive = self.peer.root / "layout.tar"
            run("tar", "-C", path, "-cf", archive, ".")
        return self.peer.ctr("images", "import", "--snapshotter", "overlayfs", archive).split()[1]

    def tree(self, image: str) -> Tree:
        place = fresh(self.peer.root / "seen")
        self.peer.ctr("images", "mount", "--snapshotter", "overlayfs", image, place)
        try:
            return dump(place)
        finally:
            self.peer.ctr("images", "unmount", "--rm", "--snapshotter", "overlayfs", place)

    def run(self, image: str, *words: str, entry: str = "") -> Ended:
        name = f"c{next(self._numbers)}"
        command = (entry, *words) if words else ()  # ctr takes it for the whole command
        return _ended(self.peer.command("run", "--rm", "--snapshotter", "overlayfs", image, name, *command))


class Bare:
    """runc or crun, with a bundle that umoci makes: of layouts only, and umoci 0.4 has no zstd."""

    def __init__(self, root: Path, runtime: str) -> None:
        self.root, self.runtime, self._numbers = root, runtime, itertools.count()
        root.mkdir(exist_ok=True)

    def knows(self, kind: str, compression: str) -> bool:
        return kind != "docker" and compression != "zstd"

    def load(self, path: Path) -> str:
        place = fresh(self.root / f"b{next(self._numbers)}")
        layout = path
        if path.is_file():
            layout = fresh(place / "layout")
            run("tar", "-C", layout, "-xf", path)
        name = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"]
        run("umoci", "unpack", "--image", f"{layout}:{name['org.opencontainers.image.ref.name']}", place / "bundle")
        return os.fspath(place / "bundle")

    def tree(self, image: str) -> Tree:
        return dump(Path(image, "rootfs"))

    def run(self, image: str, *words: str, entry: str = "", root: Path | None = None) -> Ended:
        """``root``: a root file system other than umoci's."""
        bundle = Path(image)
        value = json.loads((bundle / "config.json").read_text())
        value["process"]["terminal"] = False
        if words:
            value["process"]["args"] = [entry, *words]
        # umoci hides volumes below an empty tmpfs, and names a mount of cgroups that is for hosts of version 1
        system = re.compile("/(dev|proc|sys)(/(pts|shm|mqueue))?$")
        value["mounts"] = [mount for mount in value["mounts"] if system.match(mount["destination"])]
        value["root"]["path"] = os.fspath(root or bundle / "rootfs")
        place = fresh(self.root / "run")
        (place / "config.json").write_text(json.dumps(value))
        first = [*AROUND[self.runtime], self.runtime, "--root", self.root / "state"]
        without = ["--cgroup-manager", "disabled"] if self.runtime == "crun" else []
        return _ended([*first, *without, "run", "--bundle", place, "it"])


@contextlib.contextmanager
def docker(root: Path) -> Iterator[Docker]:
    require("dockerd", "docker")
    with docker_daemon(root, "overlay2") as words:
        yield Docker(root, words)


@contextlib.contextmanager
def podman(root: Path, runtime: str) -> Iterator[Podman]:
    require("podman", runtime)
    peer = Podman(root, runtime)
    try:
        yield peer
    finally:
        peer("rm", "--all", "--force", "--time", "0")
        peer("image", "umount", "--all")
        for place in (root, peer.state):
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def ctr(root: Path) -> Iterator[Ctr]:
    require("containerd", "ctr")
    with containerd_daemon(root) as peer:
        yield Ctr(peer)


@contextlib.contextmanager
def bare(root: Path, runtime: str) -> Iterator[Bare]:
    require("umoci", runtime)
    try:
        yield Bare(root, runtime)
    finally:
        shutil.rmtree(root, ignore_errors=True)


OPEN: dict[str, Callable[[Path], contextlib.AbstractContextManager[Runner]]] = {
    "docker": docker,
    "podman-runc": lambda root: podman(root, "runc"),
    "podman-crun": lambda root: podman(root, "crun"),
    "containerd": ctr,
    "runc": lambda root: bare(root, "runc"),
    "crun": lambda root: bare(root, "crun"),
}
