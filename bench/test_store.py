"""Images: load, mount, diff and commit, whole processes, against containerd, umoci, buildah and docker.

The image has two gzip layers: "debian" minbase, and what installing compilers, git and python changes in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import peers, workloads
from bench.conftest import Measure

ROUNDS = 10


@pytest.fixture(scope="session")
def archive(tmpfs: Path) -> Path:
    """The image as an OCI archive that docker load takes, too; layers are single gzip members, as peers write them."""
    import fastlayer

    out = tmpfs / "image.tar"
    if out.exists():
        return out
    pair = workloads.debian(tmpfs)
    layers = []
    for number, (before, after) in enumerate(((None, pair.a), (pair.a, pair.b))):
        plain = tmpfs / f"layer{number}.tar"
        fastlayer.diff(before, after, plain)
        subprocess.run(["pigz", "-6", "-f", plain], check=True)
        layers.append(plain.with_suffix(".tar.gz"))
    layout = tmpfs / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    peers.Layout(layout).image(layers, "bench.invalid/image:1")
    (layout / "manifest.json").write_text(peers.docker_manifest(layout, "bench.invalid/image:1"))
    subprocess.run(["tar", "-C", layout, "-cf", out, "."], check=True)
    return out


@pytest.fixture
def store(place: Path) -> Iterator[dict[str, str]]:
    """The environment of a store on the file system under test."""
    root = place / "store"
    yield {"FASTLAYER_ROOT": os.fspath(root), "FASTLAYER_DRIVER": "overlay2"}
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def loaded(fastlayer: list[str], store: dict[str, str], archive: Path) -> dict[str, str]:
    command(fastlayer, store, "load", "-q", "-i", archive)
    return store


def command(fastlayer: list[str], env: dict[str, str], *words: str | Path) -> str:
    done = subprocess.run([*fastlayer, *words], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- load ----------------------------------------------------------------------------------------


def test_load(measure: Measure, fastlayer: list[str], place: Path, store: dict[str, str], archive: Path) -> None:
    root = Path(store["FASTLAYER_ROOT"])
    measure(
        "load, unpacked",
        "fastlayer (verified)",
        place.name,
        [*fastlayer, "load", "-q", "-i", archive],
        before=lambda: shutil.rmtree(root, ignore_errors=True),
        check=lambda: command(fastlayer, store, "history", "bench.invalid/image:1"),
        env=store,
    )


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_load_containerd(measure: Measure, tmpfs: Path, archive: Path, snapshotter: str) -> None:
    with peers.containerd(tmpfs / "containerd") as daemon:

        def forget() -> None:
            for name in daemon.ctr("images", "ls", "-q").split():
                daemon.ctr("images", "rm", "--sync", name)
            daemon.forget_content()
            daemon.forget_snapshots(tmpfs / "mounted")

        measure(
            "load, unpacked",
            f"containerd (ctr images import, {snapshotter})",
            "tmpfs",
            daemon.command("images", "import", "--snapshotter", snapshotter, archive),
            before=forget,
            rounds=3,
        )


def test_load_umoci(measure: Measure, tmpfs: Path, archive: Path) -> None:
    bundle = tmpfs / "bundle"
    measure(
        "load, unpacked",
        "umoci unpack (from a layout, nothing stored)",
        "tmpfs",
        ["umoci", "unpack", "--image", f"{tmpfs}/layout:bench.invalid/image:1", bundle],
        before=lambda: shutil.rmtree(bundle, ignore_errors=True),
    )
    shutil.rmtree(bundle)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_load_buildah(measure: Measure, tmpfs: Path, archive: Path, driver: str) -> None:
    root = tmpfs / "buildah"
    words = ["buildah", "--root", root / "root", "--runroot", root / "run", "--storage-driver", driver]
    policy = tmpfs / "policy.json"
    policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    measure(
        "load, unpacked",
        f"buildah pull ({driver})",
        "tmpfs",
        [*words, "pull", "-q", "--signature-policy", policy, f"oci-archive:{archive}"],
        before=lambda: _remove_mounted(root),
        rounds=3,
    )
    _remove_mounted(root)


def _remove_mounted(root: Path) -> None:
    """A storage root with overlay's private mount in it."""
    subprocess.run(["umount", "-q", root / "root/overlay"], capture_output=True)
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_load_docker(measure: Measure, tmpfs: Path, archive: Path, driver: str) -> None:
    with peers.docker(tmpfs / "docker", driver) as words:

        def forget() -> None:
            found = subprocess.run([*words, "images", "-q"], capture_output=True, text=True, check=True).stdout.split()
            for name in found:
                subprocess.run([*words, "rmi", "-f", name], capture_output=True, check=True)

        measure(
            "load, unpacked",
            f"docker load ({driver})",
            "tmpfs",
            [*words, "load", "-q", "-i", archive],
            before=forget,
            rounds=3,
        )


# ---- mount ---------------------------------------------------------------------------------------


def test_mount(measure: Measure, fastlayer: list[str], place: Path, loaded: dict[str, str]) -> None:
    target = place / "mnt"
    target.mkdir(exist_ok=True)
    measure(
        "mount an image of 2 layers",
        "fastlayer",
        place.name,
        [*fastlayer, "mount", "bench.invalid/image:1", target],
        before=lambda: subprocess.run(
            [*fastlayer, "umount", target], env={**os.environ, **loaded}, capture_output=True
        ),
        check=lambda: (target / "etc/passwd").stat(),
        env=loaded,
        rounds=ROUNDS,
    )
    command(fastlayer, loaded, "umount", target)


@pytest.fixture
def tall(tmpfs: Path, fastlayer: list[str]) -> Iterator[dict[str, str]]:
    """A store with an image of 300 layers."""
    from fastlayer.image.images import Images
    from fastlayer.image.importing import import_image
    from fastlayer.image.record import record
    from fastlayer.oci.config import History
    from fastlayer.store.store import open_store

    root = tmpfs / "tall"
    shutil.rmtree(root, ignore_errors=True)
    tree = tmpfs / "tall-tree"
    (tree / "etc").mkdir(parents=True, exist_ok=True)
    (tree / "etc/passwd").write_text("root")
    with open_store(root, driver="overlay2") as store:
        image = import_image(store, tree, "base")
        snapshotter, config, layers = store.snapshotter, Images(store).config(image), list(image.layers)
        parent = str(image.chain_id)
        with store.lease("tall") as lease:
            for number in range(299):
                snapshotter.prepare("next", parent, lease=lease)
                own = snapshotter.driver.own_tree(snapshotter.number("next")[0])
                assert own is not None
                (own / f"file{number}").write_text(str(number))
                with snapshotter.changes("next") as changes:
                    written = changes.write(tmpfs / "layer.tar")
                config = config.edit(layers=[written.diff_id], history=[History()])
                parent = str(config.chain_id)
                snapshotter.commit(parent, "next", lease=lease)
                layers.append(layers[0]._replace(digest=written.digest, diff_id=written.diff_id, size=written.size))
            record(store, lease, "docker.io/library/tall:latest", config, layers)
            with store.database.write() as db:
                db.execute("UPDATE snapshots SET lease = NULL WHERE kind = 'committed'")
    yield {"FASTLAYER_ROOT": os.fspath(root), "FASTLAYER_DRIVER": "overlay2"}
    shutil.rmtree(root, ignore_errors=True)


def test_mount_300_layers(measure: Measure, fastlayer: list[str], tmpfs: Path, tall: dict[str, str]) -> None:
    target = tmpfs / "mnt"
    target.mkdir(exist_ok=True)
    measure(
        "mount an image of 300 layers",
        "fastlayer",
        "tmpfs",
        [*fastlayer, "mount", "tall", target],
        before=lambda: subprocess.run([*fastlayer, "umount", target], env={**os.environ, **tall}, capture_output=True),
        check=lambda: (target / "file298").stat(),
        env=tall,
        rounds=ROUNDS,
    )
    command(fastlayer, tall, "umount", target)


@pytest.mark.parametrize("layers,image", [(2, "bench.invalid/image:1"), (300, "tall")])
def test_mount_in_the_api(
    benchmark: object, request: pytest.FixtureRequest, tmpfs: Path, layers: int, image: str
) -> None:
    from fastlayer.container import mounting
    from fastlayer.image.images import Images
    from fastlayer.store.store import open_store

    env = request.getfixturevalue("tall") if layers == 300 else loaded_on_tmpfs(request, tmpfs)
    target = tmpfs / "mnt"
    target.mkdir(exist_ok=True)
    with open_store(env["FASTLAYER_ROOT"]) as store:
        found = Images(store).find(image)
        mounting.mount_image(store, found, target)

        def unmount() -> None:
            mounting.unmount(store, os.fspath(target))

        benchmark.pedantic(  # type: ignore[attr-defined]
            lambda: mounting.mount_image(store, found, target), setup=unmount, rounds=50
        )
        unmount()
    job = f"mount an image of {layers} layers, inside the API"
    benchmark.extra_info.update(job=job, tool="fastlayer", fs="tmpfs", peak_kib=0)  # type: ignore[attr-defined]


def loaded_on_tmpfs(request: pytest.FixtureRequest, tmpfs: Path) -> dict[str, str]:
    env = {"FASTLAYER_ROOT": os.fspath(tmpfs / "store"), "FASTLAYER_DRIVER": "overlay2"}
    fastlayer: list[str] = request.getfixturevalue("fastlayer")
    command(fastlayer, env, "load", "-q", "-i", request.getfixturevalue("archive"))
    request.addfinalizer(lambda: shutil.rmtree(tmpfs / "store", ignore_errors=True))
    return env


# ---- commit and diff -----------------------------------------------------------------------------


@pytest.fixture
def work(fastlayer: list[str], place: Path, loaded: dict[str, str]) -> Iterator[Path]:
    """The writable layer `work` on the image, mounted."""
    target = place / "mnt"
    target.mkdir(exist_ok=True)
    command(fastlayer, loaded, "mount", "--rw", "--name", "work", "bench.invalid/image:1", target)
    yield target
    subprocess.run([*fastlayer, "umount", "work"], env={**os.environ, **loaded}, capture_output=True)


def test_diff_and_commit_of_one_byte(
    measure: Measure, fastlayer: list[str], place: Path, loaded: dict[str, str], work: Path
) -> None:
    with open(work / "usr/bin/python3.11", "r+b") as file:
        file.seek(1000)
        file.write(b"x")
    command(fastlayer, loaded, "umount", "work")
    measure(
        "diff NAME after one byte", "fastlayer", place.name, [*fastlayer, "diff", "work"], env=loaded, rounds=ROUNDS
    )


def test_commit_of_one_byte(
    measure: Measure, fastlayer: list[str], place: Path, loaded: dict[str, str], work: Path
) -> None:
    with open(work / "etc/passwd", "r+b") as file:
        file.write(b"x")
    command(fastlayer, loaded, "umount", "work")
    measure(
        "commit after one byte",
        "fastlayer",
        place.name,
        [*fastlayer, "commit", "-q", "work", "one:byte"],
        check=lambda: command(fastlayer, loaded, "history", "one:byte"),
        env=loaded,
        rounds=ROUNDS,
    )


def test_commit_of_much(measure: Measure, fastlayer: list[str], place: Path, archive: Path, tmpfs: Path) -> None:
    """The whole of the second layer as what was written."""
    env = {"FASTLAYER_ROOT": os.fspath(place / "store"), "FASTLAYER_DRIVER": "overlay2"}
    pair = workloads.debian(tmpfs)
    command(fastlayer, env, "import", "-q", pair.a, "base")
    target = place / "mnt"
    target.mkdir(exist_ok=True)
    command(fastlayer, env, "mount", "--rw", "--name", "much", "base", target)
    command(fastlayer, env, "apply", "-q", tmpfs / "layer1.tar.gz", target)
    command(fastlayer, env, "umount", "much")

    def forget() -> None:
        subprocess.run([*fastlayer, "rmi", "-f", "much:1"], env={**os.environ, **env}, capture_output=True)

    measure(
        "commit of 560 MB",
        "fastlayer",
        place.name,
        [*fastlayer, "commit", "-q", "much", "much:1"],
        before=forget,
        check=lambda: command(fastlayer, env, "history", "much:1"),
        env=env,
    )
    shutil.rmtree(place / "store", ignore_errors=True)


@pytest.fixture(scope="module")
def docker_work(tmpfs: Path, archive: Path) -> Iterator[list[str | Path]]:
    """A docker with a container `much`, which has the second layer as what was written, and `small`, with one file."""
    pair = workloads.debian(tmpfs)
    with peers.docker(tmpfs / "docker", "overlay2") as words:

        def docker(*more: str, stdin: Any = None) -> None:
            subprocess.run([*words, *more], stdin=stdin, stdout=subprocess.DEVNULL, check=True)

        def piped(command: list[str | Path], *more: str) -> None:
            with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
                docker(*more, stdin=source.stdout)

        piped(["tar", "-C", pair.a, "-c", "."], "import", "-", "base")
        for name in ("much", "small"):
            docker("create", "--name", name, "base", "sh")
        piped(["zcat", tmpfs / "layer1.tar.gz"], "cp", "-", "much:/")
        docker("cp", "/etc/hostname", "small:/etc/motd")
        yield words


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("commit of 560 MB", ["commit", "--pause=false", "much", "copy:1"]),
        ("commit after one byte", ["commit", "--pause=false", "small", "copy:1"]),
        ("diff NAME after one byte", ["diff", "small"]),
    ],
)
def test_docker_commit_and_diff(measure: Measure, docker_work: list[str | Path], job: str, words: list[str]) -> None:
    measure(
        job,
        f"docker {words[0]} (overlay2)",
        "tmpfs",
        [*docker_work, *words],
        before=lambda: subprocess.run([*docker_work, "rmi", "-f", "copy:1"], capture_output=True),
        rounds=3,
    )


# ---- lists ---------------------------------------------------------------------------------------


@pytest.fixture
def thousand(tmpfs: Path) -> Iterator[dict[str, str]]:
    """A store with a thousand images of three layers each."""
    from fastlayer.image.images import LayerInfo
    from fastlayer.image.record import record
    from fastlayer.oci.config import History, new_config
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.mediatypes import LAYER
    from fastlayer.oci.platform import host_platform
    from fastlayer.store.store import open_store

    root = tmpfs / "thousand"
    shutil.rmtree(root, ignore_errors=True)
    with open_store(root, driver="vfs") as store, store.lease("fill") as lease:
        for number in range(1000):
            digests = [Digest("sha256:" + f"{number * 3 + layer:064x}") for layer in range(3)]
            layers = [LayerInfo(digest, digest, LAYER, 100, 100, 50, False) for digest in digests]
            config = new_config(
                host_platform(),
                digests,
                history=[History(created_by=f"RUN {n}") for n in range(3)],
                created="2026-01-01",
            )
            record(store, lease, f"docker.io/library/image{number}:latest", config, layers)
    yield {"FASTLAYER_ROOT": os.fspath(root)}
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("words", [["images"], ["history", "image500"]], ids=["images", "history"])
def test_lists_of_a_thousand(
    measure: Measure, fastlayer: list[str], thousand: dict[str, str], words: list[str]
) -> None:
    measure(f"{words[0]}, 1,000 images", "fastlayer", "tmpfs", [*fastlayer, *words], env=thousand, rounds=ROUNDS)
