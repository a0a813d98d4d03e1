"""Outside judges: tools whose verdict on a layer counts, each wrapped as "unpack this" and "write this change"."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from bench.peers import Containerd, Layout, containerd, copy_onto, daemon
from tests.conftest import require

__all__ = ["Containerd", "containerd"]


def run(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Runs a judge; a refusal is the test's failure, with the judge's words."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env={**os.environ, **(env or {})})
    assert done.returncode == 0, f"{words[0]}: {done.stderr.strip()[-800:]}"
    return done.stdout


def fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


class GnuTar:
    """GNU tar: a plain archive of one tree; knows no whiteouts."""

    needs = ("tar",)

    def unpack(self, layers: list[Path], work: Path) -> Path:
        target = fresh(work / "gnutar")
        for layer in layers:
            run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", layer, "-C", target)
        return target

    def write(self, tree: Path, out: Path, *options: str) -> Path:
        xattrs = [] if "--format=gnu" in options else ["--xattrs", "--xattrs-include=*"]
        run("tar", *xattrs, "--numeric-owner", "-C", tree, *options, "-cf", out, ".")
        return out


class BsdTar:
    """libarchive's tar."""

    needs = ("bsdtar",)

    def unpack(self, layers: list[Path], work: Path) -> Path:
        target = fresh(work / "bsdtar")
        for layer in layers:
            run("bsdtar", "--numeric-owner", "-xpf", layer, "-C", target)
        return target

    def write(self, tree: Path, out: Path, *options: str) -> Path:
        run("bsdtar", "--numeric-owner", "-C", tree, *options, "-cf", out, ".")
        return out


class Umoci:
    """umoci unpack and repack."""

    needs = ("umoci", "rsync")

    def unpack(self, layers: list[Path], work: Path) -> Path:
        root = fresh(work / "umoci")
        Layout(root / "image").image(layers, "it")
        run("umoci", "unpack", "--image", f"{root}/image:it", root / "bundle")
        return root / "bundle/rootfs"

    def write(self, a: Path, b: Path, work: Path) -> list[Path]:
        root = fresh(work / "umoci-write")
        base = GnuTar().write(a, root / "base.tar", "--format=posix")
        Layout(root / "image").image([base], "a")
        run("umoci", "unpack", "--image", f"{root}/image:a", root / "bundle")
        copy_onto(b, root / "bundle/rootfs")
        run("umoci", "repack", "--image", f"{root}/image:b", root / "bundle")
        return layers_of(root / "image", "b")


def layers_of(layout: Path, tag: str) -> list[Path]:
    """The layer files of an image in a layout, lowest first."""
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag or len(index["manifests"]) == 1:
            manifest = json.loads(_blob(layout, entry["digest"]).read_text())
            return [_blob(layout, layer["digest"]) for layer in manifest["layers"]]
    raise AssertionError(f"no image {tag} in {layout}")


def chain_id(diff_ids: list[str]) -> str:
    """The hex of the stack's identity, computed here independently of fastlayer."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain.split(":")[1]


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


class Ctr:
    """containerd's applier and differ, through ctr and the native snapshotter."""

    needs = ("containerd", "ctr", "rsync")

    def unpack(self, layers: list[Path], work: Path) -> Path:
        target = work / "ctr-result"
        with containerd(work / "ctr") as peer:
            image = peer.import_layers(layers)
            mounted = fresh(work / "ctr-mounted")
            peer.ctr("images", "mount", "--snapshotter", "native", image, mounted)
            try:
                shutil.rmtree(target, ignore_errors=True)
                run("cp", "-a", mounted, target)
            finally:
                peer.forget_snapshots(mounted)
        return target

    def write(self, a: Path, b: Path, work: Path) -> list[Path]:
        made = []
        with containerd(work / "ctr-write") as peer:
            peer.snapshot("a", a, parent="")
            peer.snapshot("b", b, parent="a")
            for number, words in enumerate((["a"], ["a", "b"])):
                media = "application/vnd.oci.image.layer.v1.tar+gzip"
                data = peer.output("snapshots", "--snapshotter", "native", "diff", "--media-type", media, *words)
                out = work / f"ctr-layer-{number}.tar.gz"
                out.write_bytes(data)
                made.append(out)
        return made


class Buildah:
    """containers/storage (podman, buildah, skopeo) with the vfs driver."""

    needs = ("buildah", "skopeo", "rsync")

    def _words(self, work: Path) -> list[str | Path]:
        return ["buildah", "--root", work / "storage", "--runroot", work / "run", "--storage-driver", "vfs"]

    def unpack(self, layers: list[Path], work: Path) -> Path:
        root = fresh(work / "buildah")
        Layout(root / "image").image(layers, "it")
        policy = root / "policy.json"
        policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        words = self._words(root)
        name = run(*words, "from", "--signature-policy", policy, f"oci:{root}/image:it").strip()
        target = root / "result"
        run("cp", "-a", run(*words, "mount", name).strip(), target)
        run(*words, "umount", name)
        return target


class Docker:
    """The Docker engine's own packer and unpacker, with a daemon of our own."""

    needs = ("dockerd", "docker", "rsync")

    @contextlib.contextmanager
    def daemon(self, work: Path) -> Iterator[list[str | Path]]:
        root = fresh(work / "docker")
        words: list[str | Path] = ["docker", "-H", f"unix://{root}/sock"]
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]
        places: list[str | Path] = ["--data-root", root / "data", "--exec-root", root / "exec"]
        places += ["-p", root / "pid", "-H", f"unix://{root}/sock"]
        with daemon(["dockerd", *options, *places], root, [*words, "version"]):
            yield words

    def unpack(self, layers: list[Path], work: Path) -> Path:
        image = fresh(work / "docker-image")
        target = work / "docker-result"
        Layout(image / "layout").docker_archive(layers, "it:latest", image / "image.tar")
        with self.daemon(work) as words:
            run(*words, "load", "-i", image / "image.tar")
            diff_ids = json.loads(run(*words, "inspect", "-f", "{{json .RootFS.Layers}}", "it:latest"))
            store = work / "docker/data/image/vfs/layerdb/sha256" / chain_id(diff_ids)
            shutil.rmtree(target, ignore_errors=True)
            run("cp", "-a", work / "docker/data/vfs/dir" / (store / "cache-id").read_text(), target)
        return target

    def write(self, a: Path, b: Path, work: Path) -> list[Path]:
        out = fresh(work / "docker-out")
        archive = GnuTar().write(a, out / "base.tar", "--format=posix")
        with self.daemon(work) as words:
            run(*words, "import", archive, "a:latest")
            name = run(*words, "create", "a:latest", "none").strip()
            mount_id = (work / "docker/data/image/vfs/layerdb/mounts" / name / "mount-id").read_text()
            copy_onto(b, work / "docker/data/vfs/dir" / mount_id)
            run(*words, "commit", name, "b:latest")
            run(*words, "save", "-o", out / "image.tar", "b:latest")
        with tarfile.open(out / "image.tar") as saved:
            saved.extractall(out / "image", filter="fully_trusted")
        manifest = json.loads((out / "image/manifest.json").read_text())[0]
        return [out / "image" / name for name in manifest["Layers"]]


def need(judge: object) -> None:
    """Skips (on CI: fails) when the judge is not installed."""
    require(*judge.needs)  # type: ignore[attr-defined]
