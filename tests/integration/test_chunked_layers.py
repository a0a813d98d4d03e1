"""zstd:chunked and eStargz judged by those who read them: podman file by file, everybody else as what they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.builder.outputs.options import parse_output
from fastlayer.builder.outputs.write import write_output
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.store.store import open_store
from fastlayer.testing.dump import dump
from tests.conftest import needs_root, require
from tests.integration.dockerregistry import DockerRegistry
from tests.integration.judges import fresh, run

pytestmark = needs_root
FORMATS = ("zstd:chunked", "estargz")


@pytest.fixture
def work() -> Iterator[Path]:
    """A place on tmpfs, where podman's overlay works."""
    path = Path("/dev/shm") / f"chunked-{os.getpid()}"
    fresh(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tree(work: Path) -> Path:
    """Without devices and FIFOs, which podman 4.3 leaves out when it pulls file by file, also of its own images."""
    place = work / "tree"
    for name in ("bin", "etc/deep", "empty"):
        (place / name).mkdir(parents=True)
    (place / "bin/tool").write_bytes(os.urandom(3 << 20))
    (place / "bin/zeros").write_bytes(os.urandom(100_000) + bytes(4 << 20) + b"end")
    for number in range(300):
        (place / f"etc/{number}.conf").write_text(f"number {number}\n" * number)
    (place / "etc/deep/none").touch()
    os.link(place / "bin/tool", place / "bin/same")
    (place / "link").symlink_to("etc/1.conf")
    os.chown(place / "etc/2.conf", 12, 34)
    os.chmod(place / "bin/tool", 0o4755)
    os.setxattr(place / "etc/3.conf", "user.note", b"x\0y")
    os.utime(place / "etc/4.conf", ns=(1, 1_234_567_890_123_456_789))
    return place


def layout(work: Path, tree: Path, compression: str, name: str) -> tuple[Path, dict[str, str]]:
    """A layout of an image of that tree, and the annotations of its layer."""
    target = work / name
    with open_store(work / f"store-{name}", driver="overlay2") as store:
        import_image(store, tree, "app:1")
        export = parse_output(f"type=oci,tar=false,dest={target},compression={compression},force-compression=true")
        write_output(store, Images(store).find("app:1"), export, names=["docker.io/library/app:1"])
    index = json.loads((target / "index.json").read_text())
    manifest = json.loads(blob(target, index["manifests"][0]["digest"]).read_text())
    return target, manifest["layers"][0]["annotations"]


def blob(place: Path, digest: str) -> Path:
    return place / "blobs" / digest.replace(":", "/")


class Podman:
    """With storage of its own; ``partial``: files it has are not fetched."""

    def __init__(self, work: Path, *, partial: bool) -> None:
        place = fresh(work / f"podman-{partial}")
        self._environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(place / "storage.conf")}
        options = f'pull_options = {{enable_partial_images = "{str(partial).lower()}", use_hard_links = "false"}}'
        (place / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/root"\nrunroot = "{place}/run"\n'
            f"[storage.options]\n{options}\n"
        )

    def __call__(self, *words: str) -> tuple[str, str]:
        done = subprocess.run(["podman", *words], capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip(), done.stderr

    def pull(self, name: str) -> tuple[int, int] | None:
        """How many bytes it wanted of how many, as it tells them; None: all of the blob."""
        _, log = self("--log-level", "debug", "pull", "--tls-verify=false", name)
        found = re.search(r"Missing (\d+) bytes out of (\d+) ", log)
        assert (found is None) == ("Retrieved partial blob" not in log)
        return (int(found[1]), int(found[2])) if found else None

    def tree(self, name: str) -> dict[str, dict[str, Any]]:
        place, _ = self("image", "mount", name)
        try:
            return dump(place)
        finally:
            self("image", "umount", "-a")


def without_owners_and_times(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Podman 4.3 sets no owners and no times when it pulls file by file, nor those of its own images."""
    return {name: {**entry, "mtime_ns": 0, "uid": 0, "gid": 0} for name, entry in tree.items()}


@pytest.mark.parametrize("compression", FORMATS)
def test_podman_fetches_what_it_has_not(work: Path, tree: Path, compression: str) -> None:
    require("podman", "skopeo", "docker-registry")
    first, _ = layout(work, tree, compression, "first")
    with DockerRegistry(fresh(work / "registry")) as registry:
        push(first, registry, "1")
        podman, plain = Podman(work, partial=True), Podman(work, partial=False)
        name = f"{registry.host}/app"
        files = [entry for entry in tree.rglob("*") if entry.is_file() and not entry.is_symlink()]
        size = sum(entry.stat().st_size for entry in files if entry.name != "same")
        zeros = 3 << 20 if compression == "zstd:chunked" else 0  # chunks of nothing else
        assert podman.pull(f"{name}:1") == (size - zeros, size)
        assert without_owners_and_times(podman.tree(f"{name}:1")) == without_owners_and_times(dump(tree))
        assert plain.pull(f"{name}:1") is None
        assert without_format_files(plain.tree(f"{name}:1")) == without_format_files(dump(tree))
        (tree / "etc/200.conf").write_text("other\n")
        (tree / "bin/zeros").write_bytes(b"!" + (tree / "bin/zeros").read_bytes())
        second, _ = layout(work, tree, compression, "second")
        push(second, registry, "2")
        wanted = podman.pull(f"{name}:2")
        assert wanted is not None and wanted[0] < 3 << 20
        assert without_owners_and_times(podman.tree(f"{name}:2")) == without_owners_and_times(dump(tree))


def without_format_files(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Readers that know nothing of eStargz take its last two entries for files of the root."""
    own = (".", ".no.prefetch.landmark", "stargz.index.json")
    return {name: entry for name, entry in tree.items() if name not in own}


def push(place: Path, registry: DockerRegistry, tag: str) -> None:
    source = f"oci:{place}:docker.io/library/app:1"
    run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", source, f"docker://{registry.host}/app:{tag}")


@pytest.mark.parametrize("compression", FORMATS)
def test_tools_that_know_nothing_of_tables(work: Path, tree: Path, compression: str) -> None:
    require("skopeo", "bsdtar", "zstd", "gzip")
    place, annotations = layout(work, tree, compression, "image")
    assert annotations
    run("skopeo", "--insecure-policy", "copy", f"oci:{place}:docker.io/library/app:1", f"dir:{work}/dir")
    manifest = json.loads((work / "dir/manifest.json").read_text())
    (layer,) = manifest["layers"]
    assert layer["annotations"] == annotations  # copies keep them
    data = blob(place, layer["digest"])
    with data.open("rb") as file:
        subprocess.run(["zstd" if compression == "zstd:chunked" else "gzip", "-tq"], stdin=file, check=True)
    run("bsdtar", "--numeric-owner", "-xpf", data, "-C", fresh(work / "bsdtar"))
    assert without_format_files(dump(work / "bsdtar")) == without_format_files(dump(tree))
