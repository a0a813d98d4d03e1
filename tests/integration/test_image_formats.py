"""Outside judges of images: what they write we read, what we write they read, and they read the store as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer.content.store import ContentStore, IndexEntry
from fastlayer.image.formats.archive import open_images, save_oci_archive
from fastlayer.image.formats.docker import save_docker_archive
from fastlayer.image.formats.oci import save_oci_layout
from fastlayer.image.formats.scan import Archive, StoreSink, scan
from fastlayer.image.formats.source import ArchivedImage, Blobs
from fastlayer.oci.config import ImageConfig, check_consistent, parse_config
from fastlayer.oci.manifest import Manifest, parse_manifest
from fastlayer.oci.reference import parse_reference
from tests.conftest import needs_root, require
from tests.integration import judges
from tests.integration.judges import run

pytestmark = needs_root
ONE, TWO = "docker.io/library/one:1", "localhost:5000/me/two:v2"


@pytest.fixture
def work() -> Iterator[Path]:
    """A place on tmpfs, short enough for sockets."""
    path = Path("/dev/shm") / f"formats-{os.getpid()}"
    judges.fresh(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def umoci_images(work: Path) -> Path:
    """Two images that share a layer, made by umoci; its layout."""
    require("umoci", "skopeo")
    layout = work / "umoci"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:base")
    for name in ("base", "one", "two"):
        tree = work / "tree" / name
        tree.mkdir(parents=True)
        (tree / "file").write_text(name * 1000)
        (tree / "link").symlink_to("file")
    run("umoci", "insert", "--image", f"{layout}:base", work / "tree/base", "/base")
    for name in ("one", "two"):
        run("umoci", "tag", "--image", f"{layout}:base", name)
        run("umoci", "insert", "--image", f"{layout}:{name}", work / "tree" / name, f"/{name}")
        run("umoci", "config", "--image", f"{layout}:{name}", "--config.cmd", "/bin/" + name, "--config.env", "A=1")
    run("umoci", "config", "--image", f"{layout}:base", "--config.user", "nobody")
    return layout


def load(work: Path, value: Path | int) -> tuple[ContentStore, Archive]:
    store = ContentStore(work / "store")
    return store, scan(value, StoreSink(store, "test"))


def documents(image: ArchivedImage, blobs: Blobs) -> tuple[Manifest, ImageConfig]:
    manifest = parse_manifest(blobs.read(image.descriptor.digest), image.descriptor.media_type)
    config = parse_config(blobs.read(manifest.config.digest))
    check_consistent(manifest, config)
    return manifest, config


def our_images(work: Path) -> tuple[ContentStore, list[ArchivedImage]]:
    """The two images in a store of ours, under their names, as its index says."""
    source = open_images(umoci_images(work))
    save_oci_layout(work / "store", [], source)
    store = ContentStore(work / "store")
    for blob in (work / "umoci/blobs/sha256").iterdir():
        store.adopt(blob, "test", digest=f"sha256:{blob.name}")
    tags = {image.labels[0]: image for image in source.images}
    images = [
        tags["one"]._replace(names=(parse_reference(ONE),), labels=()),
        tags["two"]._replace(names=(parse_reference(TWO),), labels=()),
    ]
    store.write_index([IndexEntry(str(i.names[0]), i.descriptor) for i in images], "test")
    return store, images


# ---- what they write, we read


def test_we_read_an_umoci_layout(work: Path) -> None:
    layout = umoci_images(work)
    with open_images(layout) as source:
        assert sorted(image.labels for image in source.images) == [("base",), ("one",), ("two",)]
        for image in source.images:
            manifest, config = documents(image, source)
            raw = run("skopeo", "inspect", "--raw", f"oci:{layout}:{image.labels[0]}").encode()
            assert manifest.raw == raw
            ours = json.loads(run("umoci", "stat", "--json", "--image", f"{layout}:{image.labels[0]}"))
            assert [h.empty_layer for h in config.history] == [h.get("empty_layer", False) for h in ours["history"]]


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_we_read_what_skopeo_writes(work: Path, kind: str, packed: bool) -> None:
    layout = umoci_images(work)
    out = work / "out.tar"
    run("skopeo", "copy", "--insecure-policy", f"oci:{layout}:one", f"{kind}:{out}:{ONE}")
    if packed:
        run("gzip", out)
        out = work / "out.tar.gz"
    store, archive = load(work, out)
    assert archive.format == kind
    assert [str(name) for name in archive.images[0].names] == [ONE]
    _, config = documents(archive.images[0], store)
    with open_images(layout) as source:
        wanted = next(image for image in source.images if image.labels == ("one",))
        manifest, original = documents(wanted, source)
        assert (config.diff_ids, config.run) == (original.diff_ids, original.run)
        if kind == "oci-archive":
            assert archive.images[0].descriptor.digest == manifest.digest


def test_we_read_what_skopeo_pipes(work: Path) -> None:
    layout = umoci_images(work)
    run("skopeo", "copy", "--insecure-policy", f"oci:{layout}:two", f"oci-archive:{work}/a.tar:{TWO}")
    with subprocess.Popen(["cat", f"{work}/a.tar"], stdout=subprocess.PIPE) as pipe:
        assert pipe.stdout is not None
        store, archive = load(work, pipe.stdout.fileno())
    assert archive == load(work, work / "a.tar")[1]
    documents(archive.images[0], store)


class Podman:
    """podman with a storage of its own."""

    def __init__(self, root: Path) -> None:
        require("podman")
        root.mkdir()
        (root / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
        # locks in /dev/shm would stay there
        (root / "containers.conf").write_text('[engine]\nlock_type = "file"\n')
        self.root = root

    def __call__(self, *words: str | Path) -> str:
        places = ["--root", self.root / "storage", "--runroot", self.root / "run", "--storage-driver", "vfs"]
        words = ("podman", *places, "--cgroup-manager", "cgroupfs", "--events-backend", "none", *words)
        return run(*words, env={"CONTAINERS_CONF": str(self.root / "containers.conf")})

    def load(self, path: Path) -> None:
        self("load", "--signature-policy", self.root / "policy.json", "-i", path)

    def config_of(self, name: str) -> tuple[str, list[str]]:
        found = json.loads(self("inspect", "--type", "image", name))[0]
        return "sha256:" + found["Id"], found["RootFS"]["Layers"]


class DockerEngine:
    """A running dockerd of our own."""

    def __init__(self, words: list[str | Path]) -> None:
        self._words = words

    def __call__(self, *words: str | Path) -> str:
        return run(*self._words, *words)

    def load(self, path: Path) -> None:
        self("load", "-i", path)

    def config_of(self, name: str) -> tuple[str, list[str]]:
        found = json.loads(self("inspect", "--type", "image", name))[0]
        return found["Id"], found["RootFS"]["Layers"]


@pytest.fixture(params=["podman", "docker"])
def engine(request: pytest.FixtureRequest, work: Path) -> Iterator[Podman | DockerEngine]:
    if request.param == "podman":
        yield Podman(work / "podman")
        return
    judge = judges.Docker()
    judges.need(judge)
    with judge.daemon(work) as words:
        yield DockerEngine(words)


Save = Callable[..., None]


@pytest.mark.parametrize("save", [save_docker_archive, save_oci_archive], ids=["docker", "oci"])
def test_engines_load_what_we_write(work: Path, engine: Podman | DockerEngine, save: Save) -> None:
    store, images = our_images(work)
    save(work / "out.tar", images, store)
    engine.load(work / "out.tar")
    for image in images:
        _, config = documents(image, store)
        assert engine.config_of(str(image.names[0])) == (config.digest, [str(d) for d in config.diff_ids])


def test_engines_load_uncompressed_layers(work: Path, engine: Podman | DockerEngine) -> None:
    store, images = our_images(work)
    save_docker_archive(work / "out.tar", images, store, expand="all")
    engine.load(work / "out.tar")
    _, config = documents(images[0], store)
    assert engine.config_of(ONE)[0] == config.digest


PODMAN_FORMS = [(ONE,), ("--format", "oci-archive", ONE), ("--format", "docker-archive", "-m", ONE, TWO)]


def test_we_read_what_engines_save(work: Path, engine: Podman | DockerEngine) -> None:
    store, images = our_images(work)
    save_docker_archive(work / "in.tar", images, store)
    engine.load(work / "in.tar")
    wanted = {str(image.names[0]): documents(image, store)[1] for image in images}
    for number, words in enumerate([(ONE, TWO)] if isinstance(engine, DockerEngine) else PODMAN_FORMS):
        out, fresh = work / f"out-{number}.tar", ContentStore(work / f"fresh-{number}")
        engine("save", "-o", out, *words)
        archive = scan(out, StoreSink(fresh, "test"))
        assert archive.unused == ()
        found = {str(name): documents(image, fresh)[1] for image in archive.images for name in image.names}
        assert found.keys() == wanted.keys() & set(words)
        for name, config in found.items():
            assert (config.diff_ids, config.run) == (wanted[name].diff_ids, wanted[name].run)


def test_we_read_two_images_that_docker_saves(work: Path) -> None:
    judge = judges.Docker()
    judges.need(judge)
    store, images = our_images(work)
    save_docker_archive(work / "in.tar", images, store)
    with judge.daemon(work) as words:
        run(*words, "load", "-i", work / "in.tar")
        run(*words, "save", "-o", work / "out.tar", ONE, TWO)
    with open_images(work / "out.tar") as source:
        ids = {str(image.names[0]): documents(image, source)[0].config.digest for image in source.images}
        assert ids == {str(image.names[0]): documents(image, store)[0].config.digest for image in images}
        assert len({layer.digest for image in source.images for layer in documents(image, source)[0].layers}) == 3


# ---- containerd


def test_containerd_imports_and_exports(work: Path) -> None:
    require("containerd", "ctr")
    store, images = our_images(work)
    save_oci_archive(work / "out.tar", images, store)
    with judges.containerd(work / "ctr") as peer:
        peer.ctr("images", "import", "--no-unpack", work / "out.tar")
        listed = {line.split()[0]: line.split()[2] for line in peer.ctr("images", "ls").splitlines()[1:]}
        assert {str(i.names[0]): i.descriptor.digest for i in images}.items() <= listed.items()
        peer.ctr("images", "export", "--platform", "linux/amd64", work / "back.tar", ONE, TWO)
        (work / "back.tar").chmod(0o644)
        archive = scan(work / "back.tar", StoreSink(ContentStore(work / "fresh"), "test"))
    assert {str(i.names[0]): i.descriptor.digest for i in archive.images} == {
        str(i.names[0]): i.descriptor.digest for i in images
    }


# ---- the store as it is


def test_the_store_is_read_as_it_is(work: Path) -> None:
    store, images = our_images(work)
    for image in images:
        name = f"oci:{store.path}:{image.names[0]}"
        assert run("skopeo", "inspect", "--raw", name).encode() == store.read(image.descriptor.digest)
        run("skopeo", "copy", "--insecure-policy", name, f"dir:{work}/dir-{image.descriptor.digest[7:19]}")
    assert run("umoci", "ls", "--layout", store.path).split() == sorted(str(image.names[0]) for image in images)
    run("umoci", "unpack", "--image", f"{store.path}:{TWO}", work / "bundle")
    assert (work / "bundle/rootfs/two/file").read_text() == "two" * 1000
    assert (work / "bundle/rootfs/base/link").is_symlink()


def test_podman_pulls_from_the_store(work: Path) -> None:
    store, images = our_images(work)
    podman = Podman(work / "podman")
    podman("pull", "--signature-policy", podman.root / "policy.json", f"oci:{store.path}:{TWO}")
    _, config = documents(images[1], store)
    assert config.digest.encoded in podman("images", "--no-trunc")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_skopeo_reads_our_archives(work: Path, kind: str) -> None:
    store, images = our_images(work)
    save = save_oci_archive if kind == "oci-archive" else save_docker_archive
    save(work / "out.tar", images, store)
    for number, image in enumerate(images):
        source = f"{kind}:{work}/out.tar:{image.names[0]}"
        manifest, config = documents(image, store)
        run("skopeo", "copy", "--insecure-policy", source, f"oci:{work}/back-{number}:x")
        with open_images(work / f"back-{number}") as back:
            theirs, their_config = documents(back.images[0], back)
            assert their_config.diff_ids == config.diff_ids
            assert kind == "docker-archive" or theirs == manifest


def test_umoci_and_skopeo_read_our_layout(work: Path) -> None:
    store, images = our_images(work)
    save_oci_layout(work / "out", images, store)
    assert run("umoci", "ls", "--layout", work / "out").split() == sorted(str(image.names[0]) for image in images)
    run("umoci", "gc", "--layout", work / "out")  # everything in it is named by something
    for image in images:
        assert run("skopeo", "inspect", "--raw", f"oci:{work}/out:{image.names[0]}").encode() == store.read(
            image.descriptor.digest
        )
    run("umoci", "unpack", "--image", f"{work}/out:{ONE}", work / "bundle")
    assert (work / "bundle/rootfs/one/file").read_text() == "one" * 1000


def test_buildah_builds_and_we_read(work: Path) -> None:
    """Docker's media types, a history of many steps, and a scratch base."""
    require("buildah")
    policy = work / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    (work / "context").mkdir()
    (work / "context/f").write_text("f")
    (work / "context/Dockerfile").write_text('FROM scratch\nCOPY f /f\nENV A=1\nLABEL l=v\nCOPY f /g\nCMD ["/f"]\n')
    words = ["buildah", "--root", work / "storage", "--runroot", work / "run", "--storage-driver", "vfs"]
    build = ["bud", "--layers", "--signature-policy", policy, "--format", "docker", "-t", ONE, work / "context"]
    run(*words, *build, env={"BUILDAH_ISOLATION": "chroot"})
    for kind in ("docker-archive", "oci-archive"):
        run(*words, "push", "--signature-policy", policy, ONE, f"{kind}:{work}/{kind}.tar:{ONE}")
        fresh = ContentStore(work / kind)
        archive = scan(work / f"{kind}.tar", StoreSink(fresh, "test"))
        _, config = documents(archive.images[0], fresh)
        assert str(archive.images[0].names[0]) == ONE
        assert config.run.cmd == ("/f",) and config.run.env[-1] == "A=1" and config.run.labels["l"] == "v"
        assert len(config.diff_ids) == 2 < len(config.history)
