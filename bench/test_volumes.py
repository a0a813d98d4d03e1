"""Volumes: an image's tree as one, inside the API; clones beside cp; plain ones beside docker."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import peers, workloads
from bench.conftest import Measure
from fastlayer.drivers.btrfs import subvolumes
from fastlayer.image.importing import import_image
from fastlayer.store.store import Store, open_store
from fastlayer.volume import trees
from fastlayer.volume.volumes import Volumes

DRIVERS = {"xfs": "overlay2", "btrfs": "btrfs"}


def store_with_image(place: Path, driver: str) -> Store:
    """A store with the "debian" tree as an image, unpacked."""
    store = open_store(place / "volume-store", driver=driver)
    import_image(store, workloads.debian(place).b, "base:1")
    return store


@pytest.mark.parametrize("fs", DRIVERS)
def test_an_image_as_a_volume_in_the_api(request: pytest.FixtureRequest, benchmark: object, fs: str) -> None:
    place: Path = request.getfixturevalue(fs)
    with store_with_image(place, DRIVERS[fs]) as store:
        volumes = Volumes(store)
        entries = peers.count(workloads.debian(place).b)

        def make() -> None:
            volumes.create("tree", options={"image": "base:1"})
            volumes.acquire("tree", "bench")

        def clear() -> None:
            volumes.release("bench")
            volumes.remove("tree", force=True)

        job = "an image's tree as a volume, created and mounted, inside the API"
        benchmark.group = f"{job} [{fs}]"  # type: ignore[attr-defined]
        benchmark.pedantic(make, setup=clear, rounds=15, warmup_rounds=2, iterations=1)  # type: ignore[attr-defined]
        path = volumes.path(volumes.find("tree"))
        assert path is not None and peers.count(path) == entries
        benchmark.extra_info.update(job=job, tool="fastlayer", fs=fs, peak_kib=0)  # type: ignore[attr-defined]
        clear()
    remove_store(place)


def remove_store(place: Path) -> None:
    """Snapshots of btrfs are no plain directories."""
    for path in place.glob("volume-store/btrfs/subvolumes/*"):
        subvolumes.delete(path)
    shutil.rmtree(place / "volume-store")


@pytest.mark.parametrize("tool", ["fastlayer", "cp -a"])
@pytest.mark.parametrize("fs", DRIVERS)
def test_clone_a_volume(
    request: pytest.FixtureRequest, measure: Measure, fastlayer: list[str], fs: str, tool: str
) -> None:
    place: Path = request.getfixturevalue(fs)
    source = workloads.debian(place).b
    entries = peers.count(source)
    root = place / "volume-store"
    with open_store(root, driver="vfs") as store:
        volumes = Volumes(store)
        volumes.create("data", fill=lambda data: trees.fill(source, data))
        place_of = {name: root / "volumes" / name / "_data" for name in ("data", "copy")}

        def clear() -> None:
            volumes.remove("copy", force=True)
            shutil.rmtree(place / "copied", ignore_errors=True)

        command: list[str | Path] = [*fastlayer, "volume", "clone", "data", "copy", "--root", root]
        if tool != "fastlayer":
            command = ["cp", "-a", "--reflink=always", place_of["data"], place / "copied"]

        def check() -> None:
            assert peers.count(place_of["copy"] if tool == "fastlayer" else place / "copied") == entries

        measure("clone a volume of the debian tree", tool, fs, command, before=clear, check=check)
        clear()
        volumes.remove("data")
    shutil.rmtree(root)


@pytest.mark.parametrize("tool", ["fastlayer", "docker"])
def test_create_a_volume(tmpfs: Path, measure: Measure, fastlayer: list[str], tool: str) -> None:
    """Docker's client with its daemon running, a whole process of ours."""
    root = tmpfs / "volume-store"
    if tool == "fastlayer":
        with open_store(root, driver="vfs") as store:

            def clear() -> None:
                Volumes(store).remove("data", force=True)

            words: list[str | Path] = [*fastlayer, "volume", "create", "data", "--root", root]
            measure("create a volume", tool, "tmpfs", words, before=clear)
            clear()
        shutil.rmtree(root)
        return
    with peers.docker(tmpfs / "docker", "vfs") as client:
        remove = [*client, "volume", "rm", "-f", "data"]
        measure(
            "create a volume",
            tool,
            "tmpfs",
            [*client, "volume", "create", "data"],
            before=lambda: subprocess.run(remove, capture_output=True),
        )
