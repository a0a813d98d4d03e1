"""Volumes of a store: making, using, removing them; options; what is found wrong and set right."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer.errors import (
    AlreadyExistsError,
    DriverError,
    InUseError,
    NotFoundError,
    OperandError,
    UsageError,
)
from fastlayer.maintenance.check import check
from fastlayer.maintenance.disk import disk_usage
from fastlayer.mounts import table
from fastlayer.store.store import Store
from fastlayer.volume import books, lock, names, options, use
from fastlayer.volume.volumes import Volumes, clear_dead
from tests.conftest import needs_root
from tests.stores import imported, tree, vfs_store
from tests.volumes import content, filled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def volumes(store: Store) -> Volumes:
    return Volumes(store)


# ---- making and finding ----------------------------------------------------------------------------


def test_a_volume_is_a_directory_of_the_store(volumes: Volumes) -> None:
    made = volumes.create("data", labels={"team": "db", "empty": ""})
    assert (made.name, made.driver, made.options, made.anonymous) == ("data", "local", {}, False)
    place = volumes.store.root / "volumes/data/_data"
    assert volumes.path(made) == place and stat.S_IMODE(place.stat().st_mode) == 0o755
    assert volumes.find("data") == made
    assert volumes.details("data").scope == "local"


def test_without_a_name_it_is_anonymous(volumes: Volumes) -> None:
    one, two = volumes.create(), volumes.create()
    assert one.name != two.name and one.anonymous
    assert len(one.name) == 64 and set(one.name) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", ["a", "", ".x", "-x", "a/b", "a b", "ä1", "..", "x" * 256, "a\n1"])
def test_names_are_dockers(volumes: Volumes, name: str) -> None:
    with pytest.raises(UsageError, match="not the name of a volume"):
        volumes.create(name)
    assert volumes.all() == []


def test_creating_it_again_gives_the_same(volumes: Volumes) -> None:
    made = volumes.create("data", options={"type": "tmpfs", "device": "tmpfs"})
    assert volumes.create("data") == made
    assert volumes.create("data", options=made.options, labels={"new": "1"}) == made
    with pytest.raises(AlreadyExistsError, match="other options"):
        volumes.create("data", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})


def test_what_nobody_knows_is_not_touched(volumes: Volumes) -> None:
    place = volumes.store.root / "volumes/lost/_data"
    place.mkdir(parents=True)
    (place / "file").write_text("precious")
    with pytest.raises(AlreadyExistsError, match="store check --repair"):
        volumes.create("lost")
    assert (place / "file").read_text() == "precious"
    assert volumes.all() == []


def test_the_public_api(tmp_path: Path) -> None:
    with fastlayer.volumes(tmp_path / "root") as found:
        found.create("data")
        (found.acquire("data", "job") / "file").write_text("x")
    with fastlayer.volumes(tmp_path / "root") as found:
        assert [volume.name for volume in found.all()] == ["data"]
        assert found.in_use() == {"data"}


# ---- use -------------------------------------------------------------------------------------------


def test_what_is_in_use_stays(volumes: Volumes) -> None:
    volumes.create("data")
    volumes.acquire("data", "one")
    volumes.hold("data", "two")
    for force in (False, True):
        with pytest.raises(InUseError, match=r"in use \(one, two\)"):
            volumes.remove("data", force=force)
    volumes.release("one")
    with pytest.raises(InUseError, match=r"\(two\)"):
        volumes.remove("data")
    volumes.release("two", "data")
    volumes.remove("data")
    assert not (volumes.store.root / "volumes/data").exists()


def test_a_stopped_container_keeps_its_volume(volumes: Volumes) -> None:
    volumes.create("data")
    volumes.acquire("data", "one")
    volumes.release("one", keep=True)
    assert [(user.user, user.mounted) for user in books.users_of(volumes.store, "data")] == [("one", False)]
    with pytest.raises(InUseError):
        volumes.remove("data")


def test_releasing_nothing_is_no_error(volumes: Volumes) -> None:
    volumes.create("data")
    volumes.release("nobody")
    volumes.release("nobody", "data")


def test_unknown_volumes_and_users(volumes: Volumes) -> None:
    for call in (
        lambda: volumes.acquire("nothing", "one"),
        lambda: volumes.hold("nothing", "one"),
        lambda: volumes.remove("nothing"),
        lambda: volumes.find("nothing"),
        lambda: volumes.snapshot("nothing", "s1"),
    ):
        with pytest.raises(NotFoundError, match="nothing"):
            call()
    volumes.create("data")
    with pytest.raises(UsageError, match="not a user"):
        volumes.acquire("data", "")
    volumes.remove("nothing", force=True)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "", "a/b", ".."])
def test_no_name_leads_out_of_the_store(volumes: Volumes, tmp_path: Path, name: str) -> None:
    before = set(tmp_path.rglob("*"))
    for call in (
        lambda: volumes.acquire(name, "one"),
        lambda: volumes.hold(name, "one"),
        lambda: volumes.remove(name),
        lambda: volumes.snapshot(name, "s1"),
        lambda: volumes.restore(name, "s1"),
        lambda: volumes.remove_snapshot(name, "s1"),
        lambda: volumes.clone(name, "copy"),
        lambda: volumes.export(name, tmp_path / "x.tar"),
        lambda: volumes.populate(name, tmp_path, "/"),
    ):
        with pytest.raises((UsageError, NotFoundError)):
            call()
    made = {path for path in set(tmp_path.rglob("*")) - before if "metadata.db" not in path.name}
    assert made <= {volumes.store.root / "volumes", volumes.store.root / "volumes/.locks"} | set(
        (volumes.store.root / "volumes/.locks").glob("copy")
    )


def test_names_that_nobody_has_leave_no_locks(volumes: Volumes) -> None:
    volumes.create("data")
    with pytest.raises(NotFoundError):
        volumes.acquire("nothing", "one")
    clear_dead(volumes.store)
    assert [path.name for path in (volumes.store.root / "volumes/.locks").iterdir()] == ["data"]


def test_users_of_dead_processes_go(volumes: Volumes) -> None:
    """A clone or export that was killed does not keep its volume for ever."""
    volumes.create("data")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = books.process_name(child.pid)
    use.acquire(volumes.store, "data", "exporter", owner=owner)
    with pytest.raises(InUseError, match="exporter"):
        volumes.remove("data")
    child.communicate(b"\n")
    assert not books.is_alive(owner)
    volumes.remove("data")


def test_many_at_once(volumes: Volumes) -> None:
    """Makers, users and removers of the same names leave what the books say."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(12):
                name = f"shared{turn % 3}"
                try:
                    volumes.create(name)
                    place = volumes.acquire(name, f"user{number}")
                    (place / str(number)).write_text("x")
                    assert (place / str(number)).read_text() == "x"
                    volumes.release(f"user{number}")
                    volumes.remove(name)
                except (NotFoundError, InUseError, AlreadyExistsError):
                    volumes.release(f"user{number}")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    known = {volume.name for volume in volumes.all()}
    assert {path.name for path in (volumes.store.root / "volumes").iterdir() if path.name[0] != "."} == known
    assert volumes.in_use() == set()


# ---- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given,why",
    [
        ({"color": "red"}, "no such option"),
        ({"type": "tmpfs"}, "option device: is missing"),
        ({"device": "tmpfs"}, "option type: is missing"),
        ({"o": "size=1m"}, "option type: is missing"),
        ({"type": "none", "device": "/srv"}, "needs o=bind"),
        ({"type": "ext4", "device": "/srv", "o": "bind"}, "has type=none"),
        ({"type": "none", "device": "srv", "o": "bind"}, "absolute"),
        ({"type": "nfs", "device": "/export", "o": "addr=1.2.3.4"}, "HOST:/PATH"),
        ({"type": "no such", "device": "x"}, "no file system"),
        ({"type": "", "device": "x"}, "empty"),
        ({"size": "much"}, "give bytes"),
        ({"size": "0"}, "1 byte"),
        ({"size": "9" * 19 + "t"}, "1 byte"),
        ({"type": "none", "device": "/srv", "o": "bind", "size": "1g"}, "cannot be limited"),
        ({"image": "base", "clone": "x1"}, "one thing"),
        ({"image": "base", "type": "tmpfs", "device": "tmpfs"}, "goes with no type"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m\nx"}, "printed"),
    ],
)
def test_nonsense_is_refused(volumes: Volumes, given: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        volumes.create("data", options=given)
    assert volumes.all() == [] and not (volumes.store.root / "volumes/data").exists()


@pytest.mark.parametrize(
    "text,wanted",
    [("4096", 4096), ("10k", 10 << 10), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("1 mb", 1 << 20), ("7B", 7)],
)
def test_sizes_are_dockers(text: str, wanted: int) -> None:
    assert options.parse_size(text) == wanted


def test_what_nfs_is_mounted_with() -> None:
    """The kernel wants the host in the device, too, and an address for its name."""
    given = options.parse({"type": "nfs", "device": ":/export", "o": "addr=127.0.0.1,rw,nolock"})
    mount = options.mount_of("data", given)
    assert (mount.type, mount.source, mount.options) == (
        "nfs",
        "127.0.0.1:/export",
        ("addr=127.0.0.1", "rw", "nolock"),
    )
    six = options.mount_of("data", options.parse({"type": "nfs", "device": ":/x", "o": "addr=::1"}))
    assert six.source == "[::1]:/x"


@pytest.mark.parametrize(
    "kind,device,o,source,words",
    [
        ("nfs", "127.0.0.1:/a:/b", "", "127.0.0.1:/a:/b", ("addr=127.0.0.1",)),
        ("nfs4", "127.0.0.1:/x", "", "127.0.0.1:/x", ("addr=127.0.0.1",)),
        ("nfs", "[::1]:/x", "ro", "[::1]:/x", ("ro", "addr=::1")),
        ("cifs", "//127.0.0.1/share", "username=me", "//127.0.0.1/share", ("username=me", "ip=127.0.0.1")),
        ("cifs", "//nas.invalid/share", "ip=127.0.0.1", "//nas.invalid/share", ("ip=127.0.0.1",)),
        ("cifs", "//nas.invalid/share", "addr=127.0.0.1", "//nas.invalid/share", ("addr=127.0.0.1",)),
    ],
)
def test_the_host_of_a_device_has_an_address(
    kind: str, device: str, o: str, source: str, words: tuple[str, ...]
) -> None:
    given = options.parse({"type": kind, "device": device, **({"o": o} if o else {})})
    mount = options.mount_of("data", given)
    assert (mount.source, mount.options) == (source, words)


def test_a_host_that_nobody_knows() -> None:
    for kind, device in (("nfs", "nas.invalid:/x"), ("cifs", "//nas.invalid/x")):
        with pytest.raises(DriverError, match=r"nas.invalid: there is no such host"):
            options.mount_of("data", options.parse({"type": kind, "device": device}))


@needs_root
def test_tmpfs_is_there_while_it_is_used(volumes: Volumes) -> None:
    volumes.create("scratch", options={"type": "tmpfs", "device": "tmpfs", "size": "1m", "o": "mode=1770"})
    assert volumes.path(volumes.find("scratch")) is None
    place = volumes.acquire("scratch", "one")
    assert volumes.acquire("scratch", "two") == place
    assert os.path.ismount(place) and stat.S_IMODE(place.stat().st_mode) == 0o1770
    found = os.statvfs(place)
    assert found.f_blocks * found.f_frsize == 1 << 20
    volumes.release("one")
    assert os.path.ismount(place)
    volumes.release("two")
    assert not os.path.ismount(place)
    volumes.remove("scratch")


@needs_root
def test_a_bind_shows_a_directory_and_leaves_it(volumes: Volumes, tmp_path: Path) -> None:
    theirs = tree(tmp_path / "theirs", {"file": "kept"})
    volumes.create("bound", options={"type": "none", "device": str(theirs), "o": "bind,ro"})
    place = volumes.acquire("bound", "one")
    assert content(place) == {"file": "kept"}
    with pytest.raises(OSError, match="Read-only"):
        (place / "new").write_text("x")
    with pytest.raises(UsageError, match="lie elsewhere"):
        volumes.snapshot("bound", "s1")
    assert content(volumes.acquire(volumes.clone("bound", "copy").name, "one")) == {"file": "kept"}
    volumes.release("one")
    volumes.remove("bound")
    assert content(theirs) == {"file": "kept"}


@needs_root
def test_an_overlay_by_its_options(volumes: Volumes, tmp_path: Path) -> None:
    for name in ("low", "lower", "up", "work"):
        tree(tmp_path / name, {f"of-{name}": name} if name.startswith("low") else {})
    words = f"lowerdir={tmp_path}/low:{tmp_path}/lower,upperdir={tmp_path}/up,workdir={tmp_path}/work"
    volumes.create("merged", options={"type": "overlay", "device": "overlay", "o": words})
    place = volumes.acquire("merged", "one")
    assert content(place) == {"of-low": "low", "of-lower": "lower"}
    (place / "new").write_text("x")
    volumes.release("one")
    assert content(tmp_path / "up") == {"new": "x"}


@needs_root
def test_a_mount_that_a_crash_has_left_keeps_what_it_shows(volumes: Volumes, tmp_path: Path) -> None:
    """The user is forgotten, its mount is not undone: removing the volume removes nothing of what is mounted there."""
    theirs = tree(tmp_path / "theirs", {"file": "kept"})
    volumes.create("bound", options={"type": "none", "device": str(theirs), "o": "bind"})
    place = volumes.acquire("bound", "one")
    books.drop_user(volumes.store, "bound", "one")
    assert table.find(place) is not None
    volumes.remove("bound")
    assert content(theirs) == {"file": "kept"} and not place.exists()


@needs_root
@pytest.mark.parametrize(
    "given,error,why",
    [
        ({"type": "none", "device": "/no/such/place", "o": "bind"}, OperandError, "no directory"),
        ({"type": "nosuchfs", "device": "none"}, DriverError, "no nosuchfs"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "nonsense=1"}, fastlayer.StorageError, "nonsense"),
    ],
)
def test_what_cannot_be_mounted(volumes: Volumes, given: dict[str, str], error: type[Exception], why: str) -> None:
    volumes.create("data", options=given)
    with pytest.raises(error, match=why):
        volumes.acquire("data", "one")
    assert volumes.in_use() == set()
    volumes.remove("data")


# ---- removing ---------------------------------------------------------------------------------------


def test_prune_takes_what_nobody_has(volumes: Volumes) -> None:
    filled(volumes, "named")
    anonymous, used = volumes.create(labels={"a": "b"}), volumes.create()
    volumes.acquire(used.name, "one")
    assert [volume for volume, _ in volumes.prune(dry_run=True)] == [anonymous]
    assert volumes.prune(meant=lambda volume: "x" in volume.labels) == []
    assert [volume for volume, _ in volumes.prune()] == [anonymous]
    (gone,) = volumes.prune(named=True)
    assert gone[0].name == "named" and gone[1] > 0
    assert [volume.name for volume in volumes.all()] == [used.name]


def test_what_killed_processes_left(volumes: Volumes) -> None:
    """A maker and a remover are dead: the one's volume is undone, the other's is finished."""
    store = volumes.store
    filled(volumes, "going")
    with store.lease("test") as lease:
        books.begin(store, lease, books.Volume("coming", "local", {}, {}, 1))
        (store.root / "volumes/coming/_data").mkdir(parents=True)
        books.doom(store, lease, "going")
        assert clear_dead(store) == 0  # its holder lives
        with pytest.raises(AlreadyExistsError, match="by another process"):
            volumes.create("coming")
    assert volumes.all() == []
    report = check(store)
    assert not report.findings or report.sound
    volumes.create("coming")
    assert content(volumes.acquire("coming", "one")) == {}
    clear_dead(store)
    assert not (store.root / "volumes/going").exists()


def test_the_store_is_checked(volumes: Volumes) -> None:
    filled(volumes, "known")
    filled(volumes, "forgotten")
    books.forget(volumes.store, "forgotten")
    volumes.create("lost")
    (volumes.store.root / "volumes/lost/_data").rmdir()
    found = {finding.subject: finding for finding in check(volumes.store).findings}
    assert found.keys() == {"forgotten", "lost"} and {finding.what for finding in found.values()} == {"volume"}
    with pytest.raises(NotFoundError, match="its files are lost"):
        volumes.acquire("lost", "one")
    with pytest.raises(NotFoundError, match="its files are lost"):
        volumes.details("lost")
    volumes.hold("lost", "one")
    repaired = {finding.subject: finding.repaired for finding in check(volumes.store, repair=True).findings}
    assert repaired == {"forgotten": True, "lost": False}
    assert content(volumes.acquire("forgotten", "one"))["a"] == "1"
    volumes.release("one")
    (finding,) = check(volumes.store, repair=True).findings
    assert (finding.subject, finding.repaired) == ("lost", True)
    assert [volume.name for volume in volumes.all()] == ["forgotten", "known"]
    assert check(volumes.store).sound
    (volumes.store.root / "volumes/no name").mkdir()
    (finding,) = check(volumes.store, repair=True).findings
    assert finding.subject == "no name" and not finding.repaired


def test_an_image_volume_is_found_again(volumes: Volumes, tmp_path: Path) -> None:
    """Its row is lost, as with a database that was put back; what was written to it is not."""
    imported(volumes.store, tmp_path / "image")
    volumes.create("root", options={"image": "base:1"})
    (volumes.acquire("root", "one") / "new").write_text("precious")
    volumes.release("one")
    books.forget(volumes.store, "root")
    clear_dead(volumes.store)
    (finding,) = check(volumes.store, repair=True).findings
    assert finding.subject == "root" and finding.repaired
    assert (volumes.acquire("root", "one") / "new").read_text() == "precious"


def test_an_image_volume_is_not_another_ones(volumes: Volumes, tmp_path: Path) -> None:
    """``_`` is a letter of names, no pattern; large and small letters differ."""
    imported(volumes.store, tmp_path / "image")
    for name in ("a_b", "axb", "A_B"):
        volumes.create(name, options={"image": "base:1"})
        (volumes.acquire(name, "one") / "mine").write_text(name)
        volumes.release("one")
    books.forget(volumes.store, "a_b")
    check(volumes.store, repair=True)
    assert (volumes.acquire("a_b", "one") / "mine").read_text() == "a_b"


def test_options_labels_and_snapshots_are_found_again(volumes: Volumes) -> None:
    """The database was put back: a tmpfs stays one, and snapshots can be restored."""
    memory = volumes.create("memory", options={"type": "tmpfs", "device": "tmpfs"}, labels={"of": "me"})
    filled(volumes, "data")
    volumes.snapshot("data", "one")
    for name in ("memory", "data"):
        books.forget(volumes.store, name)
        books.drop_snapshot(volumes.store, name, "one")
    assert {finding.subject for finding in check(volumes.store, repair=True).findings} == {"memory", "data"}
    assert volumes.find("memory") == memory
    assert [state.name for state in volumes.snapshots("data")] == ["one"]
    (volumes.acquire("data", "me") / "a").unlink()
    volumes.release("me")
    volumes.restore("data", "one")
    assert (volumes.acquire("data", "me") / "a").read_text() == "1"


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"options": 1}', '{"options": {"odd": "x"}, "labels": {}, "created_ns": 1}']
)
def test_what_is_noted_of_a_volume_may_be_nonsense(volumes: Volumes, text: str) -> None:
    filled(volumes, "data")
    books.forget(volumes.store, "data")
    (volumes.store.root / "volumes/data/about.json").write_text(text)
    check(volumes.store, repair=True)
    assert (volumes.find("data").options, volumes.find("data").labels) == ({}, {})
    assert (volumes.acquire("data", "me") / "a").read_text() == "1"


def test_what_a_killed_restore_left_goes(volumes: Volumes) -> None:
    place = filled(volumes, "data").parent
    tree(place / ".new", {"old": "x"})
    with lock.alone(volumes.store, "data"):  # a restore that is at work keeps it, and nobody waits for that
        clear_dead(volumes.store)
        assert (place / ".new").exists()
    clear_dead(volumes.store)
    assert not (place / ".new").exists() and (place / "_data/a").read_text() == "1"


def test_names_of_snapshots(volumes: Volumes) -> None:
    """A letter is enough, and with the name of the volume it must be that of a file."""
    volumes.create("a" * 200)
    volumes.snapshot("a" * 200, "s")
    for name in ("", ".", "..", "-a", "a/b", "a@b", "é", "a\n", "b" * 256):
        with pytest.raises(UsageError, match="not the name of a snapshot"):
            volumes.snapshot("a" * 200, name)
    with pytest.raises(UsageError, match="too long"):
        volumes.snapshot("a" * 200, "b" * 55)
    volumes.snapshot("a" * 200, "b" * 54)


def test_snapshots_without_a_volume_go(volumes: Volumes, tmp_path: Path) -> None:
    """Who removed them was killed between the books and the disk."""
    imported(volumes.store, tmp_path / "image")
    before = {info.key for info in volumes.store.snapshotter.walk()}
    volumes.create("root", options={"image": "base:1"})
    volumes.snapshot("root", "s1")
    volumes.clone("root", "copy")
    for name in ("root", "copy"):
        books.forget(volumes.store, name)
        subprocess.run(["rm", "-rf", volumes.store.root / "volumes" / name], check=True)
    assert {info.key for info in volumes.store.snapshotter.walk()} != before
    while clear_dead(volumes.store):
        pass
    assert {info.key for info in volumes.store.snapshotter.walk()} == before


def test_an_image_may_go_before_its_volume(volumes: Volumes, tmp_path: Path) -> None:
    from fastlayer.image.images import Images
    from fastlayer.store.collect import collect

    imported(volumes.store, tmp_path / "image")
    volumes.create("root", options={"image": "base:1"})
    Images(volumes.store).untag("base:1")
    collect(volumes.store)
    assert (volumes.acquire("root", "one") / "etc/passwd").read_text() == "root\n"
    volumes.release("one")
    volumes.clone("root", "copy")
    for name in ("root", "copy"):
        volumes.remove(name)
    collect(volumes.store)
    assert list(volumes.store.snapshotter.walk()) == []
    assert check(volumes.store).sound


def test_disk_usage(volumes: Volumes) -> None:
    volumes.create("idle")
    (volumes.acquire("idle", "one") / "f").write_bytes(b"x" * 100_000)
    volumes.release("one")
    volumes.create("used")
    (volumes.acquire("used", "one") / "f").write_bytes(b"x" * 50_000)
    usage = disk_usage(volumes.store)
    (line,) = [line for line in usage.lines if line.type == "Local Volumes"]
    assert (line.total, line.active) == (2, 1)
    assert 150_000 <= line.size < 200_000 and 100_000 <= line.reclaimable < 120_000
    assert [(row.volume.name, row.links) for row in usage.volumes] == [("idle", 0), ("used", 1)]
    volumes.snapshot("idle", "s1")
    assert 200_000 <= (volumes.size(volumes.find("idle")) or 0) < 240_000


def test_names_that_are_new() -> None:
    assert names.check_name(names.new_name())
