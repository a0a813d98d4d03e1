"""--cache-to and --cache-from: a second machine, with nothing but the cache directory, builds nothing."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer.builder.sharing import records
from tests.conftest import require
from tests.integration.test_build import Builder, outcome
from tests.shell import COMMAND

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
DOCKERFILE = """
FROM busybox AS build
WORKDIR /src
COPY . .
RUN head -c 8 /dev/urandom > /out && cp -r /src /copied
FROM busybox
RUN head -c 8 /dev/urandom > /chance
COPY --from=build /out /copied /app/
COPY d /data/
RUN true
CMD ["x"]
"""
STEPS = 7


class Machines:
    """Stores that have nothing in common but a context and what is in ``place``."""

    def __init__(self, place: Path, root: Path) -> None:
        self.place = place
        self._root = root
        self.one = self.new("one")
        self.one.write(DOCKERFILE, **{"a.txt": "1\n", "d__x": "1\n"})

    def new(self, name: str, driver: str = "overlay2") -> Builder:
        (self.place / name).mkdir()
        made = Builder(self.place / name, self._root, driver)
        if name != "one":
            made.context = self.one.context
        return made

    def to(self, name: str = "cache", **more: str) -> str:
        return ",".join([f"type=local,dest={self.place / name}", *(f"{key}={value}" for key, value in more.items())])

    def source(self, name: str = "cache", **more: str) -> str:
        return ",".join([f"type=local,src={self.place / name}", *(f"{key}={value}" for key, value in more.items())])


@pytest.fixture
def machines(tmp_path: Path, root: Path) -> Machines:
    return Machines(tmp_path, root)


def identity(made: Builder) -> str:
    """Of the image: it decides its manifest, and so its digest."""
    (value,) = json.loads(made.good("inspect", "made"))
    return str(value["Id"])


@contextmanager
def files(made: Builder) -> Iterator[Path]:
    """What is in the image, whatever the cache says now."""
    target = made.root.parent / "files"
    target.mkdir()
    made.good("mount", "made", target)
    try:
        yield target
    finally:
        made.good("umount", target)
        target.rmdir()


def cached(lines: list[str]) -> int:
    """How many steps came from the cache."""
    found = [line for line in lines if line.startswith("Cache: ")]
    return int(found[0].split()[1]) if found else 0


def blobs(cache: Path) -> dict[str, int]:
    """Name and inode of each."""
    return {path.name: path.stat().st_ino for path in (cache / "blobs/sha256").iterdir()}


def sound(made: Builder) -> None:
    assert "sound" in made.good("store", "check")
    made.good("store", "gc")
    assert "sound" in made.good("store", "check")


@pytest.mark.parametrize("mode,compression", [("min", "gzip"), ("max", "zstd"), ("max", "uncompressed")])
def test_a_second_store_builds_nothing(machines: Machines, mode: str, compression: str) -> None:
    told = machines.one.build("--cache-to", machines.to(mode=mode, compression=compression))
    assert any("exporting cache to" in line for line in told)
    two = machines.new("two")
    told = two.build("--cache-from", machines.source())
    assert cached(told) == STEPS and not any("warning" in line for line in told)
    assert outcome(told)[f"importing cache manifest from {machines.place / 'cache'}:latest"] == "DONE"
    assert identity(two) == identity(machines.one)
    assert len(list((two.root / "overlay2").glob("[0-9]*"))) == 1  # the base image: nothing was unpacked
    sound(two)
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "1\n" and (tree / "app/a.txt").read_text() == "1\n"
        assert len((tree / "chance").read_bytes()) == 8
    sound(two)


def test_the_image_needs_neither_the_cache_nor_its_base(machines: Machines) -> None:
    """Garbage collection keeps the layers of the base that have no other form than a snapshot."""
    machines.one.build("--cache-to", machines.to(mode="max"))
    two = machines.new("two")
    two.build("--cache-from", machines.source())
    subprocess.run(["rm", "-rf", machines.place / "cache"], check=True)
    two.good("rmi", "busybox")
    two.good("store", "gc")
    sound(two)
    two.good("save", "-o", machines.place / "made.tar", "made")
    with files(two) as tree:
        assert (tree / "bin/busybox").exists() and (tree / "app/d/x").read_text() == "1\n"


@pytest.mark.parametrize("mode", ["min", "max"])
def test_only_what_changed_is_done(machines: Machines, mode: str) -> None:
    """With ``min`` the layers of other stages are not there: these are done again when something needs their files."""
    machines.one.build("--cache-to", machines.to(mode=mode))
    (machines.one.context / "d/x").write_text("2\n")
    two = machines.new("two")
    told = outcome(two.build("--cache-from", machines.source(), "--explain"))
    assert told["[stage-1 2/5] RUN head -c 8 /dev/urandom > /chance"] == "CACHED"
    assert told["[build 2/4] WORKDIR /src"] == ("DONE" if mode == "min" else "CACHED")
    assert told["[build 3/4] COPY . ."] == "DONE"
    assert told["[stage-1 4/5] COPY d /data/"] == "DONE"
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "2\n" and (tree / "app/d/x").read_text() == "2\n"
    sound(two)


def test_differences_are_named_by_records_of_others(machines: Machines) -> None:
    machines.one.build("--cache-to", machines.to(mode="max"))
    (machines.one.context / "d/x").write_text("2\n")
    two = machines.new("two")
    told = two.build("--cache-from", machines.source(), "--explain")
    assert any("not cached: the content of d/x has changed" in line for line in told)
    assert any("not cached: what is below it has changed" in line for line in told)


def test_a_layer_is_taken_over_onto_another_base(machines: Machines) -> None:
    """COPY by content, as in one store: the RUN below it is another one."""
    machines.one.write("FROM busybox\nRUN echo 1 > /v\nCOPY d /data/\n", d__x="1\n")
    machines.one.build("--cache-to", machines.to(mode="max"))
    machines.one.write("FROM busybox\nRUN echo 2 > /v\nCOPY d /data/\n")
    two = machines.new("two")
    told = outcome(two.build("--cache-from", machines.source()))
    assert told == {
        f"importing cache manifest from {machines.place / 'cache'}:latest": "DONE",
        "[1/3] FROM busybox": "CACHED",
        "[2/3] RUN echo 2 > /v": "DONE",
        "[3/3] COPY d /data/": "CACHED",
    }
    with files(two) as tree:
        assert (tree / "v").read_text() == "2\n" and (tree / "data/x").read_text() == "1\n"
    sound(two)
    machines.one.write("FROM busybox\nRUN echo 3 > /v\nCOPY d /data/\n")
    assert outcome(two.build())["[3/3] COPY d /data/"] == "CACHED"  # it is known here, too, by content


def test_on_another_driver(machines: Machines) -> None:
    machines.one.build("--cache-to", machines.to(mode="max"))
    two = machines.new("two", "vfs")
    assert cached(two.build("--cache-from", machines.source())) == STEPS
    assert identity(two) == identity(machines.one)
    (machines.one.context / "d/x").write_text("2\n")
    two.build("--cache-from", machines.source())
    sound(two)


def test_squashed(machines: Machines) -> None:
    machines.one.build("--squash", "--cache-to", machines.to())
    two = machines.new("two")
    assert cached(two.build("--squash", "--cache-from", machines.source())) == STEPS
    assert identity(two) == identity(machines.one)


def test_what_is_there_is_not_written_again(machines: Machines) -> None:
    cache = machines.place / "cache"
    machines.one.build("--cache-to", machines.to(mode="max"))
    before = blobs(cache), (cache / "index.json").stat().st_ino
    machines.one.build("--cache-to", machines.to(mode="max"))
    assert (blobs(cache), (cache / "index.json").stat().st_ino) == before
    (machines.one.context / "d/x").write_text("2\n")
    machines.one.build("--cache-to", machines.to(mode="max"))
    after = blobs(cache)
    same = {name for name, inode in after.items() if before[0].get(name) == inode}
    assert len(same) == 2  # the layers of the WORKDIR, and of the RUN that depends on nothing
    assert sorted(path.name for path in cache.iterdir()) == ["blobs", "index.json", "oci-layout"]


def test_what_nothing_leads_to_goes_and_other_tags_stay(machines: Machines) -> None:
    cache = machines.place / "cache"
    machines.one.build("--cache-to", machines.to(mode="max", tag="old"))
    old = set(blobs(cache))
    (machines.one.context / "a.txt").write_text("2\n")
    machines.one.build("--cache-to", machines.to(mode="max"))
    assert old < set(blobs(cache))
    machines.one.build("--cache-to", machines.to(mode="max", tag="old"))
    assert old - set(blobs(cache))
    two = machines.new("two")
    assert cached(two.build("--cache-from", machines.source(tag="old"))) == STEPS


def test_from_one_directory_to_another(machines: Machines) -> None:
    """Layers that nobody needed are copied as they are, compressed; and from several directories."""
    machines.one.build("--cache-to", machines.to(mode="max", compression="zstd"))
    two = machines.new("two")
    two.build("--cache-from", machines.source(), "--cache-to", machines.to("second", mode="max"))
    assert set(blobs(machines.place / "cache")) == set(blobs(machines.place / "second"))
    three = machines.new("three")
    assert cached(three.build("--cache-from", machines.source("none"), "--cache-from", machines.source("second"))) == 7
    assert identity(three) == identity(machines.one)


def test_by_digest(machines: Machines) -> None:
    machines.one.build("--cache-to", machines.to(mode="max"))
    (entry,) = json.loads((machines.place / "cache/index.json").read_text())["manifests"]
    two = machines.new("two")
    assert cached(two.build("--cache-from", machines.source(digest=entry["digest"]))) == STEPS


def test_a_copy_by_skopeo(machines: Machines) -> None:
    require("skopeo")
    machines.one.build("--cache-to", machines.to(mode="max"))
    copy = machines.place / "copy"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{machines.place / 'cache'}:latest", f"oci:{copy}:other"], check=True)
    two = machines.new("two")
    assert cached(two.build("--cache-from", machines.source("copy", tag="other"))) == STEPS
    assert identity(two) == identity(machines.one)


def test_no_cache_asks_nobody(machines: Machines) -> None:
    machines.one.build("--cache-to", machines.to(mode="max"))
    two = machines.new("two")
    told = two.build("--no-cache", "--cache-from", machines.source())
    assert cached(told) == 0 and not any("importing" in line for line in told)


def test_from_python(machines: Machines) -> None:
    import fastlayer

    place = machines.place
    done = fastlayer.build(machines.one.context, root=machines.one.root, cache_to=[machines.to(mode="max")])
    two = machines.new("two")
    again = fastlayer.build(machines.one.context, root=two.root, cache_from=[str(place / "cache")])
    assert again.image.target.digest == done.image.target.digest and again.cached == again.steps == STEPS


# ---- what is remembered of builds with nothing to do -----------------------------------------------


def test_memos_know_of_other_caches(machines: Machines) -> None:
    """A build that is answered without the builder still writes its cache, and is still the same build."""
    one = machines.one
    one.build("--cache-to", machines.to(mode="max"))
    time.sleep(1.1)  # files that changed within a second are not trusted
    one.build()
    one.build("--cache-to", machines.to("other", mode="max"))
    assert set(blobs(machines.place / "other")) == set(blobs(machines.place / "cache"))
    two = machines.new("two")
    for _ in range(3):
        assert cached(two.build("--cache-from", machines.source())) == STEPS
    (one.context / "d/x").write_text("changed\n")
    assert outcome(two.build("--cache-from", machines.source()))["[stage-1 4/5] COPY d /data/"] == "DONE"


# ---- what goes wrong -------------------------------------------------------------------------------


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("fastlayer: warning: --cache-from")]


def test_a_directory_that_is_not_there(machines: Machines) -> None:
    told = machines.one.build("--cache-from", machines.source("nothing"))
    (warning,) = warnings(told)
    assert "nothing: is not there" in warning


def empty(cache: Path) -> None:
    for path in cache.iterdir():
        subprocess.run(["rm", "-rf", path], check=True)


def config_of(cache: Path) -> Path:
    (entry,) = json.loads((cache / "index.json").read_text())["manifests"]
    manifest = json.loads((cache / "blobs/sha256" / entry["digest"][7:]).read_text())
    return cache / "blobs/sha256" / manifest["config"]["digest"][7:]


def no_fifo(cache: Path) -> None:
    path = config_of(cache)
    path.unlink()
    os.mkfifo(path)


def link(cache: Path) -> None:
    path = config_of(cache)
    path.rename(cache / "moved")
    path.symlink_to(cache / "moved")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": empty,
    "another file": lambda cache: (cache / "oci-layout").write_text("{}"),
    "an index of nothing": lambda cache: (cache / "index.json").write_text("{}"),
    "no index": lambda cache: (cache / "index.json").unlink(),
    "a config that is cut": lambda cache: os.truncate(config_of(cache), 100),
    "a config that is changed": lambda cache: config_of(cache).write_bytes(config_of(cache).read_bytes() + b" "),
    "no config": lambda cache: config_of(cache).unlink(),
    "a fifo": no_fifo,
    "a link": link,
}


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE)
def test_a_cache_that_cannot_be_read_is_a_warning(machines: Machines, harm: Callable[[Path], object]) -> None:
    machines.one.build("--cache-to", machines.to(mode="max"))
    harm(machines.place / "cache")
    two = machines.new("two")
    told = two.build("--cache-from", machines.source())
    assert len(warnings(told)) == 1 and cached(told) == 0
    sound(two)


def layers_of(cache: Path) -> list[Path]:
    (entry,) = json.loads((cache / "index.json").read_text())["manifests"]
    manifest = json.loads((cache / "blobs/sha256" / entry["digest"][7:]).read_text())
    return [
        cache / "blobs/sha256" / layer["digest"][7:]
        for layer in manifest["layers"]
        if layer["mediaType"] != records.NODES
    ]


def bad_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bits": bad_bits,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 9),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
    "gone": lambda path: path.unlink(),
    "another layer": lambda path: path.write_bytes(gzip.compress(bytes(10240))),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_damaged_layers_are_done_again(machines: Machines, harm: Callable[[Path], object]) -> None:
    """Nothing of them is ever seen in the store; the cache is right again when it was written once more."""
    machines.one.build("--cache-to", machines.to(mode="max"))
    for path in layers_of(machines.place / "cache"):
        harm(path)
    two = machines.new("two")
    told = two.build("--cache-from", machines.source(), "--cache-to", machines.to(mode="max"))
    assert warnings(told) and not any("Traceback" in line for line in told)
    with files(two) as tree:
        assert (tree / "data/x").read_text() == "1\n"
    sound(two)
    three = machines.new("three")
    told = three.build("--cache-from", machines.source())
    assert cached(told) == STEPS and not warnings(told) and identity(three) == identity(two)


def test_a_layer_that_expands_without_end(machines: Machines) -> None:
    """It is given up as soon as it is longer than the cache says."""
    cache = machines.place / "cache"
    machines.one.build("--cache-to", machines.to(mode="max"))
    bomb = gzip.compress(bytes(200 << 20), 9)
    for path in layers_of(cache):
        path.write_bytes(bomb)
    two = machines.new("two")
    assert warnings(two.build("--cache-from", machines.source()))
    sound(two)


def test_a_place_that_holds_other_things(machines: Machines) -> None:
    (machines.place / "cache").mkdir()
    (machines.place / "cache/mine").write_text("1")
    done = machines.one.run("build", "-q", "--cache-to", machines.to(), machines.one.context)
    assert done.returncode == 1 and done.stderr.decode().count("\n") == 1 and b"holds other things" in done.stderr
    told = machines.one.build("--cache-to", machines.to(**{"ignore-error": "true"}))
    assert any("warning: --cache-to" in line for line in told)
    assert [path.name for path in (machines.place / "cache").iterdir()] == ["mine"]


def test_images_in_the_same_directory_stay(machines: Machines) -> None:
    machines.one.build("-o", f"type=oci,tar=false,dest={machines.place / 'cache'}")
    machines.one.build("--cache-to", machines.to(mode="max"))
    two = machines.new("two")
    two.good("load", "-i", machines.place / "cache")
    assert cached(two.build("--cache-from", machines.source())) == STEPS


def test_writers_that_are_killed(machines: Machines) -> None:
    """At any moment: what is there can be read, and the next writer makes it complete."""
    cache = machines.place / "cache"
    files = {f"d__f{number}": os.urandom(200_000).hex() for number in range(8)}
    machines.one.write(DOCKERFILE, **files)
    machines.one.build()
    command = [*COMMAND, "build", "-q", "--no-cache-filter", "none", "--cache-to", machines.to(mode="max")]
    for number in range(8):
        process = subprocess.Popen([*command, machines.one.context], env=machines.one.env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not cache.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        two = machines.new(f"reader{number}")
        told = two.build("--cache-from", machines.source())
        assert cached(told) == STEPS or len(warnings(told)) == 1
        if number < 4:
            subprocess.run(["rm", "-rf", cache], check=True)
    machines.one.build("--cache-to", machines.to(mode="max"))
    assert not (cache / "ingest").exists()
    last = machines.new("last")
    assert cached(last.build("--cache-from", machines.source())) == STEPS


def test_writers_at_the_same_time(machines: Machines) -> None:
    machines.one.build()
    processes = [
        subprocess.Popen(
            [*COMMAND, "build", "-q", "--cache-to", machines.to(mode="max", tag=f"t{number}"), machines.one.context],
            env=machines.one.env,
            stdout=subprocess.DEVNULL,
        )
        for number in range(4)
    ]
    assert [process.wait(120) for process in processes] == [0] * 4
    for number in range(4):
        two = machines.new(f"two{number}")
        assert cached(two.build("--cache-from", machines.source(tag=f"t{number}"))) == STEPS
