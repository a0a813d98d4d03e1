"""``store check --repair`` puts a damaged database back from its copy, and loses nothing of what came after that."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import mount_writable, unmount
from fastlayer.content.store import REF_NAME
from fastlayer.errors import CorruptStoreError, FastlayerError, InUseError, NotFoundError
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.image.materialize import materialize
from fastlayer.maintenance import recover
from fastlayer.maintenance.disk import disk_usage
from fastlayer.metadata import spare
from fastlayer.store.collect import collect
from tests.filesystems import loop_fs, need_root
from tests.integration.damaged import DAMAGE, PAGE, SEED, Place, child, conf, index_of, overwrite, sound, tree_of, write
from tests.stores import Layout, imported


@pytest.fixture(params=["overlay2", "vfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "overlay2":
        need_root()
    if request.param == "btrfs":
        with loop_fs("btrfs") as top:
            yield Place(top, "btrfs")
        return
    yield Place(tmp_path, request.param)


every_driver = pytest.mark.parametrize("place", ["overlay2", "vfs", "btrfs"], indirect=True)


@pytest.mark.parametrize("kind", DAMAGE)
def test_all_sorts_of_damage(place: Place, kind: str) -> None:
    DAMAGE[kind](place.path)
    broken = place.path.read_bytes() if place.path.exists() else None
    with pytest.raises(
        CorruptStoreError, match=r"metadata\.db: .*: `fastlayer store check --repair` puts back the"
    ) as c:
        place.check()
    assert "\n" not in str(c.value)
    report = place.check(repair=True)
    assert report.sound and report.findings[0].what == "database" and report.findings[0].repaired
    assert [finding.what for finding in report.findings] == ["database"], report.findings
    assert "its copy of 2" in report.findings[0].why
    kept = list(place.root.glob("metadata.db.damaged-*Z"))
    assert len(kept) == (broken is not None)
    if broken is not None:
        assert kept[0].name in report.findings[0].why
    if kind not in ("middle", "a new one"):  # SQLite writes into what it can open
        assert [path.read_bytes() for path in kept] == [broken] * len(kept)
    sound(place)
    with place.open() as store:
        place.whole(store)
    assert not list(place.root.glob("metadata.db.new*")) and not spare.mark_of(place.path).exists()


def test_other_commands_name_the_way_out(place: Place) -> None:
    """Also those that find the damage in the middle of their work."""
    for kind in DAMAGE:
        healthy = place.path.read_bytes()
        DAMAGE[kind](place.path)
        for words in (["images"], ["load", "-i", str(place.top / "layout")]):
            done = subprocess.run(
                [sys.executable, "-m", "fastlayer", *words, "--root", str(place.root), "--driver", place.driver],
                capture_output=True,
                text=True,
            )
            lines = done.stderr.splitlines()
            if kind != "middle" or done.returncode:  # which not everybody meets
                assert done.returncode == 1 and len(lines) == 1, (kind, words, lines)
                assert "`fastlayer store check --repair` puts back the copy of" in lines[0], (kind, words, lines)
        for path in place.root.glob("metadata.db*"):
            if path != place.copy:
                path.unlink()
        place.path.write_bytes(healthy)


def test_one_page_of_noise(place: Place) -> None:
    """Whichever page it is, with or without commands that come before anybody notices."""
    chance = random.Random(SEED)
    found = 0
    for turn in range(30):
        page = chance.randrange(place.path.stat().st_size // PAGE)
        overwrite(place.path, page * PAGE, chance.randbytes(PAGE))
        if turn % 2:
            try:
                with place.open() as store:
                    Images(store).tag("app:2", "app:2")
            except FastlayerError as exc:
                assert "store check --repair" in str(exc), exc
        report = place.check(repair=True)
        assert report.sound, (page, report.findings)
        found += bool(report.findings) and report.findings[0].what == "database"
        sound(place)
        with place.open() as store:
            place.whole(store)
    assert found > 20, "most were noticed"


def test_a_log_that_is_none(place: Place) -> None:
    """It held a name only, so that no number tells."""

    def work() -> None:
        store = place.open()
        Images(store).tag("app:2", "late:1")
        spare.renew(store.database)

    child(work)
    log = place.path.with_name("metadata.db-wal")
    overwrite(log, 8, os.urandom(8))
    report = place.check(repair=True)
    assert report.sound and report.findings[0].what == "database", report.findings
    with place.open() as store:
        assert Images(store).find("late:1").id == Images(store).find("app:2").id
    sound(place)


def test_a_log_without_its_database(place: Place) -> None:
    """It is moved aside: SQLite would read it into the copy."""

    def work() -> None:
        store = place.open()
        write(store, "late", "app:2", b"late")
        spare.renew(store.database)
        writable.remove(store, "late")

    child(work)
    log = place.path.with_name("metadata.db-wal").read_bytes()
    place.path.unlink()
    assert place.check(repair=True).sound
    sound(place)
    assert [path.read_bytes() for path in place.root.glob("metadata.db.damaged-*Z-wal")] == [log]
    with place.open() as store:
        place.whole(store)


@pytest.mark.parametrize("where", ["header", "frames", "deleted"])
def test_a_damaged_log(place: Place, where: str) -> None:
    """A copy has what the log had; SQLite goes on without it, and says nothing."""

    def work() -> None:
        store = place.open()
        write(store, "late", "app:2", b"late")
        Images(store).tag("app:2", "late:1")
        spare.renew(store.database)

    child(work)
    log = place.path.with_name("metadata.db-wal")
    assert log.stat().st_size > PAGE
    if where == "header":
        overwrite(log, 0, os.urandom(32))
    elif where == "frames":
        overwrite(log, 32, os.urandom(log.stat().st_size - 32))
    else:
        log.unlink()
    if where != "header":
        try:
            with place.open() as store:
                Images(store).tag("app:2", "late:1")
        except FastlayerError as exc:
            assert "older" in str(exc)
        with pytest.raises(CorruptStoreError, match="older than its copy"):
            place.check()
    report = place.check(repair=True)
    assert report.sound and report.findings[0].what == "database", report.findings
    sound(place)
    with place.open() as store:
        assert (tree_of(store, "late") / "data").read_bytes() == b"late"
        assert Images(store).find("late:1").id == Images(store).find("app:2").id


@every_driver
def test_an_old_copy_loses_nothing(place: Place) -> None:
    """After it: an image was removed and two came, one without blobs; a layer was written to and one removed."""
    with place.open() as store:
        write(store, "going", "app:1", b"gone")
    old = place.aged()
    with place.open() as store:
        Images(store).untag("app:2")
        collect(store)
        write(store, "new", "app:1", b"written later")
        made = commit(store, writable.find(store, "new"), "made:2")
        topped = write(store, "top", "made:2", b"on the commit")
        twice = commit(store, topped, "made:3")
        ours = imported(store, place.top / "tree", "ours:1")
        materialize(store, ours)
        writable.remove(store, "going")
        materialize(store, Images(store).find("made:1"))
        (tree_of(store, "w") / "more").write_bytes(b"also later")
        before = store.snapshotter.driver.numbers()
    old()
    place.path.write_bytes(b"noise" * 1000)
    report = place.check(repair=True)
    assert report.sound, report.findings
    sound(place)
    assert spare.look(place.path).sequence >= max(before), "no number is given twice"
    with place.open() as store:
        names = [image.name for image in Images(store).all()]
        assert {"docker.io/library/app:1", "docker.io/library/made:1", "docker.io/library/ours:1"} <= set(names)
        assert "docker.io/library/app:2" not in names
        assert "docker.io/library/made:1" in {entry.annotations.get(REF_NAME) for entry in index_of(store)}
        for image, data in ((made, b"written later"), (twice, b"on the commit")):
            assert str(image.id) in names, "found again, without its name"
            assert conf(store, str(image.id), "data") == data
            materialize(store, Images(store).find(str(image.id)))
        assert conf(store, "ours:1", "etc/hosts") == b"localhost\n"
        assert (tree_of(store, "w") / "more").read_bytes() == b"also later"
        assert [layer.name for layer in writable.all_of(store)] == ["w"]
        kept = (place.root / place.driver / "lost+found").rglob("data")
        assert {b"written later", b"on the commit"} <= {path.read_bytes() for path in kept}
        write(store, "next", "app:1", b"")
        assert store.snapshotter.number("writable/next")[0] > max(before)
        collect(store)
        assert conf(store, str(made.id), "data") == b"written later"
    sound(place)


@every_driver
def test_an_image_that_was_only_in_the_lost_rows(place: Place) -> None:
    """A commit on an image that came after the copy, too: what it lies on is unpacked again from blobs."""
    old = place.aged()
    Layout(place.top / "other").image("other:1", [{"base": b"b"}, {"etc/conf": b"other"}])
    with place.open() as store:
        load(store, place.top / "other")
        made = commit(store, write(store, "new", "other:1", b"x"), "made:9")
    old()
    place.path.unlink()
    assert place.check(repair=True).sound
    with place.open() as store:
        assert (conf(store, str(made.id), "data"), conf(store, str(made.id))) == (b"x", b"other")
        assert conf(store, "other:1") == b"other"
    sound(place)


@every_driver
def test_work_that_was_under_way_when_the_copy_was_made(place: Place) -> None:
    """What it says was being made may be complete, and in use, long since: it is not cleared away as a leftover."""
    with place.open() as store:
        layer = write(store, "later", "app:1", b"precious, too")
        made = commit(store, layer, "made:4")
        number = store.snapshotter.number(layer.key)[0]
        with store.database.write() as db:  # as it was a moment before
            db.execute("DELETE FROM writable WHERE name = 'later'")
            db.execute("INSERT INTO leases (id, pid, what, created_ns) VALUES ('0123456789abcdef', 1, 'create', 1)")
            db.execute("UPDATE snapshots SET lease = '0123456789abcdef' WHERE number = ?", (number,))
            db.execute(
                "UPDATE snapshots SET lease = '0123456789abcdef', state = 'making', key = 'commit-1' WHERE key = ?",
                (str(made.chain_id),),
            )
    place.path.write_bytes(b"")
    assert place.check(repair=True).sound
    kept = (place.root / place.driver / "lost+found").rglob("data")
    assert b"precious, too" in [path.read_bytes() for path in kept if f"lost+found/{number}-" in str(path)]
    with place.open() as store:
        assert conf(store, "made:4", "data") == b"precious, too"
    sound(place)


@pytest.mark.parametrize("known", [True, False])
def test_a_mounted_layer_goes_on(place: Place, known: bool) -> None:
    """Also when it was mounted after the copy."""
    need_root()
    target = place.top / "mnt"
    target.mkdir()
    old = place.aged()
    with place.open() as store:
        mount_writable(store, writable.find(store, "w"), target)
    if not known:
        old()
    try:
        place.path.write_bytes(b"noise" * 1000)
        (target / "during").write_text("x")
        assert place.check(repair=True).sound
        with place.open() as store:
            with pytest.raises(InUseError, match="is mounted"):
                mount_writable(store, writable.find(store, "w"), place.top / "layout")
            unmount(store, "w")
            assert (tree_of(store, "w") / "during").read_text() == "x"
    finally:
        subprocess.run(["umount", "-q", target], check=False)
    sound(place)


@pytest.mark.parametrize("how", ["lease", "open", "lock"])
def test_not_while_others_work(place: Place, how: str) -> None:
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            store = place.open()
            with store.lease("work") if how != "open" else store.database.read():
                if how == "lock":
                    store.database.close()
                os.write(ready[1], b"x")
                os.read(go[0], 1)
            store.close()
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    try:
        overwrite(place.path, 0, os.urandom(PAGE))
        broken = place.path.read_bytes()
        with pytest.raises(InUseError, match="another process works in it"):
            place.check(repair=True)
        assert place.path.read_bytes() == broken and not list(place.root.glob("*damaged*"))
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
    assert place.check(repair=True).sound
    with place.open() as store:
        place.whole(store)


@pytest.mark.parametrize("copy", [None, b"", b"noise" * 1000])
def test_without_a_copy_it_says_what_to_do(place: Place, copy: bytes | None) -> None:
    place.copy.unlink()
    if copy is not None:
        place.copy.write_bytes(copy)
    for damage in (lambda: place.path.write_bytes(b"noise" * 1000), lambda: place.path.unlink()):
        damage()
        before = sorted(os.listdir(place.root))
        with pytest.raises(
            CorruptStoreError, match=r"restore it, or move it .* aside .*; writable layers stay on disk"
        ):
            place.check(repair=True)
        assert sorted(os.listdir(place.root)) == before


def test_a_damaged_copy_is_not_put_back(place: Place) -> None:
    healthy = place.copy.read_bytes()
    place.path.unlink()
    refused = 0
    for page in range(len(healthy) // PAGE):
        overwrite(place.copy, page * PAGE, os.urandom(PAGE))
        if spare.look(place.copy).wrong:
            with pytest.raises(CorruptStoreError, match=r"is missing, and its copy of 2.* is damaged, too"):
                place.check(repair=True)
            refused += 1
        place.copy.write_bytes(healthy)
    assert refused > len(healthy) // PAGE * 0.8 and not place.path.exists()


def deadly(work: Callable[..., object]) -> Callable[..., object]:
    def die(*given: Any, **named: Any) -> None:
        work(*given, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    return die


@every_driver
def test_killed_while_the_copy_is_put_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is; meanwhile nobody else comes in."""
    with place.open() as store:
        materialize(store, Images(store).find("made:1"))
    old = place.aged()
    with place.open() as store:
        Images(store).tag("app:2", "late:1")
        Images(store).tag("app:2", "late:2")
    old()
    for step in ("_make_fit", "_keep_index", "_write_mark", "_move_aside", "_reconcile", "_forget_removed", "put"):
        broken = b"noise" * 1000
        place.path.write_bytes(broken)

        with monkeypatch.context() as patch:
            home = Images if step == "put" else recover
            patch.setattr(home, step, deadly(vars(home)[step]))
            child(lambda: place.check(repair=True))
        with pytest.raises(CorruptStoreError, match="store check --repair"):
            place.open().close()
        with pytest.raises(CorruptStoreError, match="store check --repair"):
            place.check()
        report = place.check(repair=True)
        assert report.sound and report.findings[0].what == "database", (step, report.findings)
        with place.open() as store:
            assert len(Images(store).find("late:1").names) == len(Images(store).find("late:2").names) == 3
            assert conf(store, "made:1", "data") == b"precious"
        sound(place)
        assert broken in [path.read_bytes() for path in place.root.glob("metadata.db.damaged-*Z*")]
        assert not list(place.root.glob("*recovery*")) and not list(place.root.glob("*.new*"))
        old()


def test_as_people_type_it(place: Place) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastlayer", *words, "--root", str(place.root), "--driver", place.driver]
        return subprocess.run(command, capture_output=True, text=True)

    place.path.write_bytes(b"noise" * 1000)
    done = run("store", "check")
    assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert "file is not a database: `fastlayer store check --repair` puts back the copy of 2" in done.stderr
    done = run("store", "check", "--repair", "--format", "json")
    first = json.loads(done.stdout.splitlines()[0])
    assert done.returncode == 0 and first["what"] == "database" and first["repaired"] and first["schema"] == 1
    place.path.write_bytes(b"noise" * 1000)
    done = run("store", "check", "--repair")
    assert done.returncode == 0 and done.stdout.startswith(
        "repaired: database metadata.db: file is not a database: its"
    )
    assert "the damaged one is metadata.db.damaged-" in done.stdout.splitlines()[0]
    assert run("store", "check").returncode == 0
    place.path.write_bytes(b"noise" * 1000)
    place.copy.unlink()
    done = run("store", "check", "--repair")
    assert done.returncode == 1 and "restore it, or move it" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_layer_whose_snapshot_is_gone_is_forgotten(place: Place) -> None:
    with place.open() as store:
        number = store.snapshotter.number("writable/w")[0]
        store.snapshotter.driver.remove(number)
    assert place.check(repair=True).sound
    with place.open() as store, pytest.raises(NotFoundError):
        writable.find(store, "w")


@every_driver
def test_a_committed_layer_is_set_aside(place: Place) -> None:
    """It could be nowhere else."""
    with place.open() as store:
        assert len(disk_usage(store).images) == 3
        number = store.snapshotter.number(str(Images(store).find("made:1").chain_id))[0]
        kept = store.snapshotter.driver.set_aside(number)
        assert kept is not None
        assert [path.read_bytes() for path in kept.rglob("data")] == [b"precious"]
        if place.driver == "btrfs":
            with pytest.raises(OSError, match="Read-only"):
                (kept / "x").touch()
        assert number not in store.snapshotter.driver.numbers()
