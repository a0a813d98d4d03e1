"""What a build puts out, judged by those who have to read it; and where it cannot be put out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.builder.outputs.options import parse_output
from fastlayer.builder.outputs.write import write_output
from fastlayer.container.commit import commit
from fastlayer.container.mounting import mount_writable, open_writable, unmount
from fastlayer.errors import NoSpaceError, StorageError
from fastlayer.image.images import Image, Images
from fastlayer.image.importing import import_image
from fastlayer.store.store import Store, open_store
from fastlayer.testing.dump import dump
from tests.conftest import needs_root, require
from tests.filesystems import loop_fs
from tests.integration.judges import fresh, run
from tests.integration.test_image_formats import DockerEngine, Podman, engine

__all__ = ["engine"]
pytestmark = needs_root
NAME = "docker.io/library/app:1"


@pytest.fixture
def work() -> Iterator[Path]:
    """A place on tmpfs, short enough for sockets."""
    path = Path("/dev/shm") / f"outputs-{os.getpid()}"
    fresh(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store(work: Path) -> Iterator[Store]:
    with open_store(work / "store", driver="overlay2") as opened:
        yield opened


@pytest.fixture
def image(store: Store, work: Path) -> Image:
    """Two layers that are no blobs; the second takes something away from the first."""
    tree = work / "tree"
    for name in ("bin", "etc", "gone/deep", "kept"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/conf").write_text("one")
    (tree / "gone/deep/file").write_text("x")
    (tree / "bin/tool").write_bytes(os.urandom(3 << 20))
    os.link(tree / "bin/tool", tree / "bin/same")
    os.chown(tree / "etc/conf", 12, 34)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    os.setxattr(tree / "kept", "user.note", b"x")
    import_image(store, tree, "base:1")
    (work / "mounted").mkdir()
    layer = open_writable(store, "base:1", "w")
    mount_writable(store, layer, work / "mounted")
    try:
        shutil.rmtree(work / "mounted/gone")
        (work / "mounted/gone").symlink_to("kept")
        (work / "mounted/etc/conf").write_text("two")
        (work / "mounted/new").write_bytes(b"new" * 500_000)
    finally:
        unmount(store, str(work / "mounted"))
    return commit(store, layer, "app:1")


def put_out(store: Store, image: Image, text: str) -> None:
    write_output(store, image, parse_output(text), names=[NAME])


# ---- judges ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["uncompressed", "gzip"])
def test_engines_load_what_is_put_out(
    work: Path, store: Store, image: Image, engine: Podman | DockerEngine, kind: str, compression: str
) -> None:
    put_out(store, image, f"type={kind},dest={work}/out.tar,compression={compression}")
    engine.load(work / "out.tar")
    assert engine.config_of(NAME) == (image.id, [str(layer.diff_id) for layer in image.layers])


@pytest.mark.parametrize("options", ["", ",compression=zstd", ",compression=uncompressed", ",annotation.a=b"])
def test_skopeo_and_umoci_read_a_layout(work: Path, store: Store, image: Image, options: str) -> None:
    require("skopeo", "umoci")
    put_out(store, image, f"type=oci,tar=false,dest={work}/out{options}")
    run("skopeo", "copy", "--insecure-policy", f"oci:{work}/out:{NAME}", f"oci:{work}/back:x")
    run("umoci", "gc", "--layout", work / "out")  # everything in it is named by something
    if "zstd" not in options:  # which umoci 0.4 does not know
        run("umoci", "unpack", "--image", f"{work}/out:{NAME}", work / "bundle")
        assert (work / "bundle/rootfs/etc/conf").read_text() == "two"
        assert os.readlink(work / "bundle/rootfs/gone") == "kept"


def test_skopeo_reads_archives(work: Path, store: Store, image: Image) -> None:
    require("skopeo")
    put_out(store, image, f"type=oci,dest={work}/oci.tar")
    put_out(store, image, f"type=docker,dest={work}/docker.tar")
    run("skopeo", "copy", "--insecure-policy", f"oci-archive:{work}/oci.tar:{NAME}", f"dir:{work}/a")
    run("skopeo", "copy", "--insecure-policy", f"docker-archive:{work}/docker.tar:{NAME}", f"dir:{work}/b")


def test_directories_and_tars_are_the_tree(work: Path, store: Store, image: Image) -> None:
    put_out(store, image, f"type=local,dest={work}/out")
    put_out(store, image, f"type=tar,dest={work}/out.tar")
    (work / "unpacked").mkdir()
    run("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", work / "unpacked", "-xpf", work / "out.tar")
    mounted = work / "mounted"
    from fastlayer.container.mounting import mount_image

    mount_image(store, image, mounted)
    try:
        wanted = dump(mounted)
    finally:
        unmount(store, str(mounted))
    assert dump(work / "out") == wanted
    assert dump(work / "unpacked") == wanted
    assert (work / "out/etc/conf").stat().st_uid == 12 and not (work / "out/gone/deep").exists()


def test_a_second_directory_on_top_of_the_first(work: Path, store: Store, image: Image) -> None:
    put_out(store, Images(store).find("base:1"), f"type=local,dest={work}/out")
    (work / "out/mine").write_text("mine")
    put_out(store, image, f"type=local,dest={work}/out")
    assert (work / "out/etc/conf").read_text() == "two" and (work / "out/mine").read_text() == "mine"
    assert os.readlink(work / "out/gone") == "kept"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_where_data_can_be_shared(tmp_path: Path, kind: str) -> None:
    driver = "btrfs" if kind == "btrfs" else "vfs"
    with loop_fs(kind) as place, open_store(place / "store", driver=driver) as store:
        (place / "tree").mkdir()
        (place / "tree/big").write_bytes(os.urandom(8 << 20))
        image = import_image(store, place / "tree", "app:1")
        os.sync()
        before = shutil.disk_usage(place).free
        put_out(store, image, f"type=local,dest={place}/out")
        assert (place / "out/big").read_bytes() == (place / "tree/big").read_bytes()
        os.sync()
        assert before - shutil.disk_usage(place).free < 4 << 20


# ---- where it cannot be ------------------------------------------------------------------------------

TEXTS = [
    "type=oci,dest={}",
    "type=oci,tar=false,dest={}",
    "type=docker,dest={}",
    "type=local,dest={}",
    "type=tar,dest={}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_full_file_system(work: Path, store: Store, image: Image, text: str) -> None:
    small = work / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        with pytest.raises(StorageError) as caught:
            put_out(store, image, text.format(small / "out"))
        assert isinstance(caught.value, NoSpaceError) or "No space left" in str(caught.value)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.parametrize("text", TEXTS)
def test_a_read_only_place(work: Path, store: Store, image: Image, text: str) -> None:
    closed = work / "closed"
    closed.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", closed], check=True)
    try:
        with pytest.raises(StorageError, match="Read-only file system"):
            put_out(store, image, text.format(closed / "out"))
    finally:
        subprocess.run(["umount", "-l", closed], check=True)


PUT_OUT = """
import sys
from pathlib import Path
from fastlayer.builder.outputs.options import parse_output
from fastlayer.builder.outputs.write import write_output
from fastlayer.image.images import Images
from fastlayer.store.store import open_store
with open_store(Path(sys.argv[1])) as store:
    write_output(store, Images(store).find("app:1"), parse_output(sys.argv[2]), stdout=1)
"""


def test_a_store_that_is_read_only(work: Path, store: Store, image: Image) -> None:
    store.close()
    place = work / "ro"
    place.mkdir()
    subprocess.run(["mount", "--bind", "-o", "ro", work / "store", place], check=True)
    try:
        with open_store(place) as closed:
            found = Images(closed).find("app:1")
            for number, text in enumerate(TEXTS):
                put_out(closed, found, text.format(work / f"out-{number}"))
                assert (work / f"out-{number}").exists()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_pipe_that_is_closed(work: Path, store: Store, image: Image) -> None:
    words = [sys.executable, "-c", PUT_OUT, work / "store", "type=oci"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr is not None and b"BrokenPipeError" in process.stderr.read()


def test_an_interrupt_leaves_nothing(work: Path, store: Store, image: Image) -> None:
    for number, text in enumerate(TEXTS):
        place = work / f"place-{number}"
        place.mkdir()
        words = [sys.executable, "-c", PUT_OUT, work / "store", text.format(place / "out")]
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while not any(place.iterdir()) and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert [entry.name for entry in place.iterdir()] in ([], ["out"])


def test_memory_stays_small(work: Path, store: Store) -> None:
    tree = work / "big"
    tree.mkdir()
    block = os.urandom(1 << 20)
    for number in range(300):
        (tree / str(number)).write_bytes(block)
    import_image(store, tree, "app:1")
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (500 << 20, 500 << 20))\n" + PUT_OUT
    report = limited + "\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    for text in ("type=oci,tar=false,dest={}", "type=oci,compression=zstd,dest={}"):
        words = [sys.executable, "-c", report, str(work / "store"), text.format(work / f"out-{len(text)}")]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 200 << 10


def test_a_tar_to_a_pipe(work: Path, store: Store, image: Image) -> None:
    words = [sys.executable, "-c", PUT_OUT, work / "store", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
            names = {member.name for member in tar}
        assert process.wait(60) == 0
    assert {"etc/conf", "gone", "new", "bin/tool"} <= names
