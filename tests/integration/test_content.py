"""The content store where things happen to it: real file systems, full ones, killed processes, many at once."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.content.store import ContentStore
from fastlayer.errors import NoSpaceError
from fastlayer.image.formats.oci import OciLayout, save_oci_layout
from fastlayer.image.formats.scan import StoreSink, scan
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.images import Image, docker_members, layer_tar, make_image, make_tar, oci_members

pytestmark = needs_root
LEASE = "0123456789abcdef"
LOAD = """
import sys
from fastlayer.content.store import ContentStore
from fastlayer.image.formats.scan import StoreSink, scan
store = ContentStore(sys.argv[2], durability=sys.argv[4])
print("ready", flush=True)
scan(sys.argv[1], StoreSink(store, sys.argv[3]))
"""


@pytest.fixture
def work() -> Iterator[Path]:
    path = Path("/dev/shm") / f"content-test-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_adopt_shares_on_a_reflink_file_system() -> None:
    with loop_fs("xfs") as root:
        data = os.urandom(8 << 20)
        (root / "f").write_bytes(data)
        os.sync()
        store = ContentStore(root / "content")
        before = os.statvfs(root).f_bfree
        stored = store.adopt(root / "f", LEASE)
        os.sync()
        assert stored.digest == digest(data)
        assert before - os.statvfs(root).f_bfree < 256  # blocks of 4 KiB; a copy would take 2048
        (root / "f").write_bytes(b"x")
        store.check(stored.digest)


def test_a_layout_shares_on_a_reflink_file_system() -> None:
    with loop_fs("xfs") as root:
        image = make_image(layer_tar({"f": os.urandom(8 << 20)}), names=["docker.io/library/x:1"])
        (root / "a.tar").write_bytes(make_tar(oci_members(image)))
        store = ContentStore(root / "content")
        images = scan(root / "a.tar", StoreSink(store, LEASE)).images
        os.sync()
        before = os.statvfs(root).f_bfree
        save_oci_layout(root / "out", images, store)
        os.sync()
        assert before - os.statvfs(root).f_bfree < 256
        assert OciLayout(root / "out").images == images


def test_a_full_file_system_is_named() -> None:
    with loop_fs("ext4", 16 << 20) as root:
        store = ContentStore(root / "c")
        with pytest.raises(NoSpaceError) as caught, store.ingest(LEASE) as blob:
            for _ in range(32):
                blob.write(os.urandom(1 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert store.leftovers() == []


# ---- killed, and many at once


def two_images() -> tuple[Image, Image]:
    chance = random.Random(7)
    shared = layer_tar({"base": chance.randbytes(4 << 20)})
    make = lambda name: make_image(  # noqa: E731
        shared, layer_tar({name: chance.randbytes(2 << 20)}), names=[f"docker.io/library/{name}:1"]
    )
    return make("one"), make("two")


def start(archive: Path, store: Path, lease: str, durability: str = "none") -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", LOAD, archive, store, lease, durability]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def check_all(store: ContentStore) -> None:
    for name in store.digests():
        store.check(name)


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_killed_at_any_instant(work: Path, form: str) -> None:
    """What has a name is whole; what has none belongs to the dead lease; loading again completes it."""
    images = two_images()
    archive = work / "a.tar"
    archive.write_bytes(make_tar((oci_members if form == "oci" else docker_members)(*images)))
    begin = time.monotonic()
    process = start(archive, work / "first", "timed0")
    assert process.wait(60) == 0
    span = time.monotonic() - begin
    chance = random.Random(3)
    store = ContentStore(work / "store")
    killed = 0
    for number in range(40):
        process = start(archive, store.path, f"dead{number}")
        time.sleep(chance.uniform(0, span / 3))
        process.send_signal(signal.SIGKILL)
        killed += process.wait(60) == -signal.SIGKILL
        check_all(store)
        assert {lease for lease, _ in store.leftovers()} <= {f"dead{number}"}
        store.sweep(lambda lease: False)
        if number % 4 == 3:
            for name in list(store.digests()):
                store.remove(name)
    assert killed > 5 and store.leftovers() == []
    found = scan(archive, StoreSink(store, LEASE))
    assert len(found.images) == 2 and found.images == scan(archive, StoreSink(ContentStore(work / "first"), "x")).images
    assert set(store.digests()) == set(ContentStore(work / "first").digests())


def test_many_processes_load_at_once(work: Path) -> None:
    images = two_images()
    for form, members in (("oci", oci_members), ("docker", docker_members)):
        (work / f"{form}.tar").write_bytes(make_tar(members(*images)))
    running = [start(work / f"{('oci', 'docker')[n % 2]}.tar", work / "store", f"lease{n}", "fsync") for n in range(8)]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    store = ContentStore(work / "store")
    check_all(store)
    assert store.leftovers() == []
    assert {*images[0].blobs, *images[1].blobs} <= set(store.digests())
