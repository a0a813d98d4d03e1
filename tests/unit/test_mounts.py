"""Mount values, options, the table of mounts, and mounting itself by every means a kernel may have."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer._backend import Engine
from fastlayer.errors import (
    DriverError,
    InUseError,
    NotFoundError,
    OperandError,
    StorageError,
    UsageError,
)
from fastlayer.mounts import mounting, overlay, table
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.options import sort_out
from fastlayer.store.store import in_user_namespace
from tests.conftest import needs_root

REAL_ROOT = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
needs_real_root = pytest.mark.skipif(not REAL_ROOT, reason="needs root of the initial user namespace")
ODD = ("plain", "com,ma", "co:lon", "back\\slash", "blank and\ttab", "new\nline", "ü\udcff", "long" * 60)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are gone afterwards."""
    (tmp_path / "target").mkdir()
    yield tmp_path
    for entry in reversed(list(table.entries())):
        if entry.target.startswith(os.fsencode(tmp_path) + b"/"):
            subprocess.run([b"umount", b"-l", entry.target], check=True)


@pytest.fixture(params=["descriptors", "names", "page"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way to mount an overlay in turn, where the kernel has it."""
    order = ("descriptors", "names", "page")
    monkeypatch.setattr(overlay, "_found", None)
    if order.index(overlay.means()) > order.index(request.param):
        pytest.skip(f"this kernel has only {overlay.means()}")
    monkeypatch.setattr(overlay, "_found", request.param)
    return str(request.param)


@pytest.fixture(params=["new", "old"])
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(mounting, "_lacking", {"fsopen"} if request.param == "old" else set())
    return str(request.param)


def layers(place: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Directories, each with a file of its name's number and one that all have."""
    found = []
    for number, name in enumerate(names):
        layer = place / name
        layer.mkdir()
        (layer / f"file-{number}").write_text(str(number))
        (layer / "same").write_text(str(number))
        found.append(str(layer))
    return tuple(found)


def writable(place: Path, upper: str = "upper", work: str = "work") -> tuple[str, ...]:
    (place / upper).mkdir()
    (place / work).mkdir()
    return f"upperdir={place / upper}", f"workdir={place / work}"


# ---- values --------------------------------------------------------------------------------------


def test_a_mount_as_json() -> None:
    value = Mount("overlay", "overlay", ("ro", "xino=off"), ("/a", "/b"), ((0, 100000, 65536),))
    assert value.readonly
    assert json.loads(json.dumps(value.to_dict())) == {
        "type": "overlay",
        "source": "overlay",
        "options": ["ro", "xino=off"],
        "lowers": ["/a", "/b"],
        "id_map": [[0, 100000, 65536]],
    }
    assert Mount("bind", "/a").to_dict() == {"type": "bind", "source": "/a", "options": []}


def test_options_are_sorted_out() -> None:
    plan = sort_out(["ro", "nosuid", "nodev", "noatime", "rw", "metacopy=on", "volatile", "rbind"])
    assert plan.attributes == 0x1 | 0x2 | 0x4 | 0x10
    assert plan.clear == 0x70
    assert plan.flags == 0x1 | 0x2 | 0x4 | 0x400
    assert plan.recursive
    assert plan.parameters == ((b"metacopy", b"on"), (b"volatile", None))
    for wrong in ("", "a\0b"):
        with pytest.raises(UsageError):
            sort_out([wrong])


# ---- the table -----------------------------------------------------------------------------------


def test_a_table_with_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(
        rb"36 35 98:0 /mnt1 /mnt\0402\012\134x rw,noatime shared:1 master:2 - ext3 /dev/ro\011ot rw,errors=continue"
        b"\n"
        b"37 36 0:5 / /x ro - overlay none ro,lowerdir=/a\\054b\n38 36 0:6 / /y rw - tmpfs  rw\n"
    )
    first, second, third = table.entries(str(path))
    assert (first.number, first.parent, first.device, first.root) == (36, 35, (98, 0), b"/mnt1")
    assert (first.target, first.source) == (b"/mnt 2\n\\x", b"/dev/ro\tot")
    assert (first.options, first.tags, first.type) == (("rw", "noatime"), ("shared:1", "master:2"), "ext3")
    assert not first.readonly and second.readonly
    assert second.super_options == (b"ro", b"lowerdir=/a,b")
    assert (third.type, third.source) == ("tmpfs", b"")


def test_what_a_path_lies_on(engine: Engine, tmp_path: Path) -> None:
    proc = table.identity("/proc")
    assert proc is not None and proc.is_root
    found = table.find("/proc")
    assert found is not None and (found.type, found.target) == ("proc", b"/proc")
    assert table.find(tmp_path) is None
    here = table.identity(tmp_path)
    assert here is not None and not here.is_root
    with pytest.raises(OperandError, match="nothing"):
        table.find(tmp_path / "nothing")


# ---- overlays ------------------------------------------------------------------------------------


@needs_root
def test_an_overlay_of_layers_with_odd_names(engine: Engine, means: str, place: Path) -> None:
    lowers = layers(place, ODD)
    options = ("xino=off", *writable(place, "up,p:e\\r", "wo,r:k\\"))
    mounting.mount([Mount("overlay", "overlay", options, lowers)], place / "target")
    assert (place / "target/same").read_text() == "0"
    assert sorted(os.listdir(place / "target")) == sorted([f"file-{n}" for n in range(len(ODD))] + ["same"])
    (place / "target/new").write_text("new")
    assert os.listdir(place / "up,p:e\\r") == ["new"]
    mounting.umount(place / "target")
    assert os.listdir(place / "target") == []


@needs_root
def test_lowers_only_is_read_only(engine: Engine, means: str, place: Path) -> None:
    mounting.mount([Mount("overlay", "overlay", ("ro",), layers(place, ("a", "b")))], place / "target")
    for action in (lambda: (place / "target/x").touch(), lambda: os.unlink(place / "target/same")):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS
    found = table.find(place / "target")
    assert found is not None and found.type == "overlay" and found.readonly


@needs_root
def test_read_only_with_an_upper_directory(engine: Engine, means: str, place: Path) -> None:
    options = ("ro", "nosuid", "nodev", *writable(place))
    mounting.mount([Mount("overlay", "overlay", options, layers(place, ("a",)))], place / "target")
    with pytest.raises(OSError, match="Read-only"):
        (place / "target/x").touch()
    found = table.find(place / "target")
    assert found is not None and {"ro", "nosuid", "nodev"} <= set(found.options)


@needs_root
@pytest.mark.parametrize("count", [128, 300, 500])
def test_hundreds_of_layers(engine: Engine, means: str, place: Path, count: int) -> None:
    lowers = layers(place, tuple(f"{number:03}" for number in range(count)))
    mounting.mount([Mount("overlay", "overlay", ("ro",), lowers)], place / "target")
    assert len(os.listdir(place / "target")) == count + 1
    assert (place / "target/same").read_text() == "0"


@needs_root
def test_too_many_layers(engine: Engine, means: str, place: Path) -> None:
    lowers = layers(place, ("a", "b" * 100))
    with pytest.raises(DriverError, match="501 layers: the kernel stacks at most 500"):
        mounting.mount([Mount("overlay", "overlay", ("ro",), lowers[:1] * 501)], place / "target")
    if means == "page":
        with pytest.raises(DriverError, match=r"50 layers do not fit .*Linux 6\.8"):
            mounting.mount([Mount("overlay", "overlay", ("ro",), lowers[1:] * 50)], place / "target")


@needs_root
def test_one_descriptor_at_a_time(engine: Engine, place: Path) -> None:
    lowers = layers(place, tuple(f"{number:03}" for number in range(300)))
    before = os.listdir("/proc/self/fd")
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 30, limits[1]))
    try:
        mounting.mount([Mount("overlay", "overlay", ("ro",), lowers)], place / "target")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir("/proc/self/fd") == before


@needs_root
def test_the_kernel_explains(engine: Engine, place: Path) -> None:
    lowers = layers(place, ("a",))
    if overlay.means() == "page":
        pytest.skip("mount(2) explains nothing")
    with pytest.raises(StorageError, match=r"target: nonsense: Invalid argument \(overlay: Unknown parameter 'nonsen"):
        mounting.mount([Mount("overlay", "overlay", ("nonsense",), lowers)], place / "target")
    with pytest.raises(StorageError, match="gone: cannot open the layer: No such file"):
        mounting.mount([Mount("overlay", "overlay", ("ro",), (*lowers, str(place / "gone")))], place / "target")
    with pytest.raises(DriverError, match="this kernel has no nofs: load its module"):
        mounting.mount([Mount("nofs", "none")], place / "target")
    assert table.find(place / "target") is None


@needs_real_root
@pytest.mark.parametrize("detached", [True, False])
def test_idmapped_layers(engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch, detached: bool) -> None:
    lowers = layers(place, ("a", "b"))
    os.chown(place / "a/file-0", 7, 8)
    if not detached:
        monkeypatch.setattr(overlay, "_takes_detached", lambda mount: False)
    value = Mount("overlay", "overlay", ("ro",), lowers, ((0, 100_000, 65536),))
    try:
        mounting.mount([value], place / "target")
    except DriverError as exc:
        pytest.skip(str(exc))
    found = (place / "target/file-0").stat()
    assert (found.st_uid, found.st_gid) == (100_007, 100_008)
    assert (place / "a/file-0").stat().st_uid == 7
    assert not [e for e in table.entries() if b"fastlayer-layer-" in e.target]
    with pytest.raises(UsageError, match="not a range"):
        mounting.mount([value._replace(id_map=((0, 1, 0),))], place / "target")


# ---- bind mounts and devices ---------------------------------------------------------------------


@needs_root
def test_a_bind_mount(engine: Engine, api: str, place: Path) -> None:
    layers(place, ("a",))
    mounting.mount([Mount("bind", str(place / "a"), ("rw",))], place / "target")
    (place / "target/new").write_text("new")
    assert (place / "a/new").read_text() == "new"


@needs_root
@pytest.mark.parametrize("recursive", [False, True])
def test_a_read_only_bind_mount(engine: Engine, api: str, place: Path, recursive: bool) -> None:
    layers(place, ("a",))
    (place / "a/inner").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", place / "a/inner"], check=True)
    times = ("noatime",) if REAL_ROOT else ()  # locked in a user namespace
    options = ("rbind" if recursive else "bind", "ro", "nosuid", "nodev", *times)
    mounting.mount([Mount("bind", str(place / "a"), options)], place / "target")
    with pytest.raises(OSError, match="Read-only"):
        (place / "target/x").touch()
    found = table.find(place / "target")
    assert found is not None and {"ro", "nosuid", "nodev", *times} <= set(found.options)
    assert (place / "a/x").touch() is None  # type: ignore[func-returns-value]
    below = table.find(place / "target/inner")
    if not recursive:
        assert below is None
        return
    assert below is not None and {"ro", "nosuid", "noexec"} <= set(below.options)
    with pytest.raises(OSError, match="Read-only"):
        (place / "target/inner/x").touch()
    (place / "a/inner/x").touch()


@needs_root
def test_bind_mounts_that_cannot_be(engine: Engine, api: str, place: Path) -> None:
    with pytest.raises(StorageError, match=r"gone: .*No such file"):
        mounting.mount([Mount("bind", str(place / "gone"))], place / "target")
    with pytest.raises(UsageError, match="no option size"):
        mounting.mount([Mount("bind", str(place), ("size=5",))], place / "target")
    with pytest.raises(StorageError, match="gone"):  # the first goes again
        mounting.mount([Mount("bind", str(place)), Mount("bind", str(place / "gone"))], place / "target")
    assert table.find(place / "target") is None


# ---- targets -------------------------------------------------------------------------------------


@needs_root
def test_targets(engine: Engine, place: Path) -> None:
    value = Mount("bind", str(place))
    (place / "file").touch()
    (place / "link").symlink_to("target")
    for name, reason in (("file", "Not a directory"), ("gone", "No such file"), ("link", "is a symbolic link")):
        with pytest.raises(OperandError, match=reason):
            mounting.mount([value], place / name)
    with pytest.raises(UsageError):
        mounting.mount([], place / "target")


@needs_root
def test_numbers_are_never_used_again(engine: Engine, place: Path) -> None:
    seen = set()
    for _ in range(3):
        seen.add(mounting.mount([Mount("bind", str(place))], place / "target"))
        mounting.umount(place / "target")
    here = table.identity(place)
    assert here is not None and len(seen) == (3 if here.unique else 1)


@needs_root
def test_unmounting(engine: Engine, place: Path) -> None:
    target, value = place / "target", Mount("bind", str(place))
    with pytest.raises(NotFoundError, match="nothing is mounted"):
        mounting.umount(target)
    with pytest.raises(NotFoundError):
        mounting.umount(place / "gone")
    foreign = mounting.mount([value], target)
    ours = [mounting.mount([value], target) for _ in range(2)]
    with open(target / "x", "w"):
        with pytest.raises(InUseError, match="in use"):
            mounting.umount(target)
        mounting.umount(target, numbers=ours, detach=True)
    found = table.identity(target)
    assert found is not None and found.number == foreign
    with pytest.raises(NotFoundError, match="not there any more"):
        mounting.umount(target, numbers=ours)
    mounting.umount(target)
    assert table.find(target) is None


@needs_root
def test_a_temporary_mount(engine: Engine, place: Path) -> None:
    value = Mount("overlay", "overlay", ("ro",), layers(place, ("a", "b")))
    with mounting.temporary([value], directory=place) as where:
        assert (where / "same").read_text() == "0"
    assert not where.exists()
    with pytest.raises(ZeroDivisionError), mounting.temporary([value, value], directory=place) as where:
        held = open(where / "same")
        1 / 0  # noqa: B018
    assert not where.exists()
    held.close()
    with pytest.raises(StorageError), mounting.temporary([Mount("bind", "/gone")], directory=place):
        pass
    assert not [name for name in os.listdir(place) if name.startswith("fastlayer-mount")]


@pytest.mark.skipif(os.geteuid() == 0 and not REAL_ROOT, reason="nobody to become in a user namespace")
def test_not_permitted(engine: Engine, place: Path) -> None:
    """In a child that is nobody."""
    place.chmod(0o755)
    identity = table.identity(place)  # everything is loaded before the way to it may be closed
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(54321, 54321, 54321)
            os.setresuid(54321, 54321, 54321)
        try:
            mounting.mount([Mount("bind", "/")], place / "target")
        except BaseException as exc:
            os.write(writing, f"{type(exc).__name__} {exc}".encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    said = os.read(reading, 4096).decode()
    os.close(reading)
    assert said.startswith("DriverError") and identity is not None
    assert "not permitted to mount bind: run as root, or inside `fastlayer unshare`" in said


@needs_root
def test_a_part_of_a_file_system_is_mounted_alone(engine: Engine, api: str, place: Path) -> None:
    """``subdirectory``: only that directory can be seen, with one mount to take off."""
    if in_user_namespace():
        pytest.skip("a user namespace has no loop devices")
    image = place / "image"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    device = subprocess.run(
        ["losetup", "-f", "--show", image], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        whole = Mount("ext4", device, ("rw",))
        with mounting.temporary([whole]) as path:
            (path / "rootfs").mkdir()
            (path / "rootfs/inside").write_text("x")
        for options in (("rw", "noatime"), ("ro",)):
            with mounting.temporary([Mount("ext4", device, options, subdirectory="rootfs")]) as path:
                assert os.listdir(path) == ["inside"]
                assert bool(os.statvfs(path).f_flag & os.ST_RDONLY) == ("ro" in options)
        with pytest.raises(StorageError):
            mounting.mount([Mount("ext4", device, ("rw",), subdirectory="nothing")], place / "target")
        assert not [entry.target for entry in table.entries() if entry.source == os.fsencode(device)]
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
