"""The peers' own ways, wrapped so that they can be timed: containerd, umoci, and the archivers' file lists."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.workloads import Pair


def count(tree: Path) -> int:
    """Entries below a directory."""
    return sum(len(directories) + len(files) for _, directories, files in os.walk(tree))


def copy_onto(tree: Path, target: str | Path) -> None:
    """Makes target equal to tree, in place. Without the window rsync takes times of the same second for equal."""
    subprocess.run(["rsync", "-aHAX", "--modify-window=-1", "--delete", f"{tree}/", f"{target}/"], check=True)


def check_archive(path: Path, *, least: int) -> None:
    """An archive that bsdtar reads to the end with at least so many entries."""
    out = subprocess.run(["bsdtar", "-tf", path], capture_output=True, check=True).stdout
    entries = out.count(b"\n")
    assert entries >= least, f"{path} holds {entries} entries"


def write_changed_names(pair: Pair, names: Path) -> None:
    """The changed names of B, NUL-ended: what an archiver is told to store."""
    if names.exists():
        return
    import fastlayer

    changes = fastlayer.diff(pair.a, pair.b, compare="metadata")
    names.write_bytes(b"".join(c.path + b"\0" for c in changes if c.kind != "D" and c.path))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _decompressed(path: Path) -> bytes:
    magic = path.read_bytes()[:2]
    program = {b"\x1f\x8b": ["gzip", "-dc"], b"\x28\xb5": ["zstd", "-qdc"]}.get(magic, ["cat"])
    return subprocess.run(program, stdin=open(path, "rb"), capture_output=True, check=True).stdout


class Layout:
    """A minimal OCI image layout around given layers, for tools that only take images."""

    MEDIA = "application/vnd.oci.image.layer.v1.tar"

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def blob(self, data: bytes) -> tuple[str, int]:
        digest = _digest(data)
        (self.root / "blobs/sha256" / digest.split(":")[1]).write_bytes(data)
        return digest, len(data)

    def layer(self, path: Path) -> tuple[dict[str, object], str]:
        """Stores a layer file; returns its descriptor and its diff_id."""
        data = path.read_bytes()
        suffix = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(data[:2], "")
        digest, size = self.blob(data)
        return {"mediaType": self.MEDIA + suffix, "digest": digest, "size": size}, _digest(_decompressed(path))

    def image(self, layers: list[Path], tag: str) -> None:
        stored = [self.layer(path) for path in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in stored]},
        }
        digest, size = self.blob(json.dumps(config).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
            "layers": [descriptor for descriptor, _ in stored],
        }
        digest, size = self.blob(json.dumps(manifest).encode())
        entry = {
            "mediaType": manifest["mediaType"],
            "digest": digest,
            "size": size,
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))

    def docker_archive(self, layers: list[Path], name: str, out: Path) -> None:
        """The same stack as `docker load` takes it: plain layer tars, a config and manifest.json."""
        work = self.root / "docker"
        work.mkdir()
        names, diff_ids = [], []
        for number, path in enumerate(layers):
            plain = _decompressed(path)
            diff_ids.append(_digest(plain))
            (work / f"{number}.tar").write_bytes(plain)
            names.append(f"{number}.tar")
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
        }
        (work / "config.json").write_text(json.dumps(config))
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": names}]
        (work / "manifest.json").write_text(json.dumps(manifest))
        subprocess.run(["tar", "-C", work, "-cf", out, "manifest.json", "config.json", *names], check=True)


class Containerd:
    """A private containerd with the native (plain directory) snapshotter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "c.sock"

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ctr", "-a", self.socket, "-n", "bench", *words]

    def ctr(self, *words: str | Path) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def output(self, *words: str | Path) -> bytes:
        """What ctr writes to stdout, as bytes."""
        return subprocess.run(self.command(*words), capture_output=True, check=True).stdout

    def snapshot(self, name: str, tree: Path, *, parent: str) -> None:
        """Commits a snapshot that holds exactly tree."""
        native = ("snapshots", "--snapshotter", "native")
        key = f"{name}-key"
        self.ctr(*native, "prepare", key, *([parent] if parent else []))
        mounts = self.ctr(*native, "mounts", self.root / "mnt", key)
        source = next(word for word in mounts.split() if word.startswith("/") and "snapshots" in word)
        copy_onto(tree, source)
        self.ctr(*native, "commit", name, key)

    def import_layers(self, layers: list[Path]) -> str:
        """Imports a stack of layers as an image, not unpacked; returns its name."""
        layout = self.root / "layout"
        shutil.rmtree(layout, ignore_errors=True)
        Layout(layout).image(layers, "bench")
        archive = self.root / "image.tar"
        subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
        self.ctr("images", "import", "--no-unpack", "--index-name", "bench.invalid/layer:1", archive)
        archive.unlink()
        return "bench.invalid/layer:1"

    def forget_content(self) -> None:
        for digest in self.ctr("content", "ls", "-q").split():
            self.ctr("content", "rm", digest)

    def forget_snapshots(self, mounted: Path) -> None:
        """Unmounts an image and removes every snapshot, children first."""
        subprocess.run(["umount", mounted], capture_output=True)
        mounted.mkdir(exist_ok=True)
        for snapshotter in ("native", "overlayfs"):
            self._forget_all("snapshots", "--snapshotter", snapshotter)

    def _forget_all(self, *words: str) -> None:
        while rows := [line.split() for line in self.ctr(*words, "ls").splitlines()[1:] if line.strip()]:
            parents = {row[1] for row in rows if len(row) == 3}
            for name in [row[0] for row in rows if row[0] not in parents]:
                self.ctr(*words, "rm", name)


def _die_with_parent() -> None:
    """In the child: SIGTERM when the process that started it is gone, however it went (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _unmount_below(root: Path) -> None:
    points = [line.split()[4] for line in open("/proc/self/mountinfo")]
    for point in reversed([p for p in points if p.startswith(f"{root}/")]):
        subprocess.run(["umount", "-l", point], capture_output=True)


@contextlib.contextmanager
def daemon(command: list[str | Path], root: Path, answers: list[str | Path]) -> Iterator[None]:
    """Runs a daemon that keeps everything below root until the block ends; root, its mounts included, goes with it.

    It is ready when the command ``answers`` succeeds. RuntimeError with its last words when it never is.
    """
    log = root / "log"
    try:
        with open(log, "wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, preexec_fn=_die_with_parent)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(answers, capture_output=True, timeout=60).returncode:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer: {log.read_text(errors='replace')[-800:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        _unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def containerd(root: Path) -> Iterator[Containerd]:
    """A daemon of our own below root; stopped and removed at the end."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    peer = Containerd(root)
    config = root / "config.toml"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    command = ["containerd", "-c", config, "--root", root / "r", "--state", root / "s", "-a", peer.socket]
    with daemon(command, root, peer.command("version")):
        yield peer


@contextlib.contextmanager
def docker(root: Path, driver: str) -> Iterator[list[str | Path]]:
    """A docker daemon of our own (no network) below root; yields the words of a client command."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    words: list[str | Path] = ["docker", "-H", f"unix://{root}/sock"]
    options = [
        "--iptables=false",
        "--ip6tables=false",
        "--bridge=none",
        f"--storage-driver={driver}",
        "--shutdown-timeout=1",
    ]
    places: list[str | Path] = ["--data-root", root / "data", "--exec-root", root / "exec"]
    places += ["-p", root / "pid", "-H", f"unix://{root}/sock"]
    with daemon(["dockerd", *options, *places], root, [*words, "version"]):
        yield words


def with_buildkit(words: list[str | Path]) -> list[str | Path]:
    """The same command by Debian's own client, which has BuildKit's side built in; newer ones need a plugin."""
    program = Path("/usr/bin/docker")
    return [program if program.exists() else words[0], *words[1:]]


def docker_manifest(layout: Path, name: str) -> str:
    """``manifest.json`` of an image layout with one image: what docker load reads."""
    index = json.loads((layout / "index.json").read_text())

    def path(descriptor: dict[str, str]) -> str:
        return "blobs/sha256/" + descriptor["digest"].split(":")[1]

    manifest = json.loads((layout / path(index["manifests"][0])).read_text())
    layers = [path(layer) for layer in manifest["layers"]]
    return json.dumps([{"Config": path(manifest["config"]), "RepoTags": [name], "Layers": layers}])


class UmociBundle:
    """An umoci bundle of tree A changed into tree B, ready for `umoci repack`."""

    def __init__(self, root: Path, pair: Pair) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        self.root, self.image = root, root / "image"
        base = root / "base.tar"
        subprocess.run(["tar", "--xattrs", "--numeric-owner", "-C", pair.a, "-cf", base, "."], check=True)
        Layout(self.image).image([base], "base")
        subprocess.run(
            ["umoci", "unpack", "--image", f"{self.image}:base", root / "bundle"], check=True, capture_output=True
        )
        subprocess.run(
            ["rsync", "-aHAX", "--modify-window=-1", "--delete", f"{pair.b}/", f"{root}/bundle/rootfs/"], check=True
        )
        self.saved = (self.image / "index.json").read_bytes()

    def reset(self) -> None:
        (self.image / "index.json").write_bytes(self.saved)

    def repack(self) -> list[str | Path]:
        return ["umoci", "repack", "--image", f"{self.image}:full", self.root / "bundle"]
