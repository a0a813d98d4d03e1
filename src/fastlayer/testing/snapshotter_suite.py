"""The conformance suite of storage drivers: a driver is done when it passes.

::

    from fastlayer.testing import snapshotter_suite as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
    def test_conformance(check, tmp_path):
        check(suite.Bench(snapshotter, tmp_path))

Every check starts with an empty snapshotter and raises ``AssertionError`` with what is wrong. Nothing of pytest is
needed. ``Bench.privileged`` is what the process may do; without it owners, devices and mounts are left out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastlayer.errors import (
    AlreadyExistsError,
    DriverError,
    InUseError,
    NoSpaceError,
    NotFoundError,
    StorageError,
    UnsafeEntryError,
    UsageError,
)
from fastlayer.snapshot.snapshotter import Snapshotter
from fastlayer.testing.dump import difference, dump

MIB = 1 << 20


class Bench:
    """A snapshotter to be tried, and a scratch directory on any file system."""

    def __init__(self, snapshotter: Snapshotter, scratch: Path) -> None:
        self.snapshotter = snapshotter
        self.scratch = scratch
        self.privileged = os.geteuid() == 0

    @contextmanager
    def mounted(self, key: str) -> Iterator[Path]:
        """The tree of a snapshot; without the right to mount, the directory a single bind mount names."""
        from fastlayer.drivers.vfs import may_mount

        mounts = self.snapshotter.ready(key)
        if not may_mount():
            assert len(mounts) == 1 and mounts[0].type == "bind", f"needs mounts: {mounts}"
            yield Path(mounts[0].source)
            return
        from fastlayer.mounts.mounting import temporary

        with temporary(mounts) as path:
            yield path

    @contextmanager
    def prepared(self, key: str, parent: str | None) -> Iterator[Path]:
        """A new active snapshot, mounted."""
        self.snapshotter.prepare(key, parent)
        with self.mounted(key) as tree:
            yield tree

    @contextmanager
    def viewed(self, key: str, name: str) -> Iterator[Path]:
        """A new view, mounted."""
        self.snapshotter.view(key, name)
        with self.mounted(key) as tree:
            yield tree

    def commit(self, name: str, parent: str | None, write: Callable[[Path], object]) -> None:
        """A committed snapshot made by ``write`` in the tree of ``parent``."""
        with self.prepared(f"making {name}", parent) as tree:
            write(tree)
        self.snapshotter.commit(name, f"making {name}")

    def dump(self, name: str) -> dict[str, dict[str, object]]:
        """What a committed snapshot holds."""
        with self.viewed(f"dump {name}", name) as tree:
            found = dump(tree)
        self.snapshotter.remove(f"dump {name}")
        return found


def base(tree: Path) -> None:
    """Some of everything."""
    tree.chmod(0o755)
    for directory in ("etc", "bin", "var", "var/log", "deep/er/still"):
        (tree / directory).mkdir(parents=True)
    (tree / "etc/passwd").write_text("root:x:0:0\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (tree / "bin/tool").write_bytes(os.urandom(3 * MIB))
    (tree / "bin/tool").chmod(0o4755 if os.geteuid() == 0 else 0o755)
    os.link(tree / "bin/tool", tree / "bin/tool2")
    (tree / "bin/other").write_bytes(b"#!/bin/sh\n")
    (tree / "bin/sh").symlink_to("tool")
    (tree / "deep/er/still/f").write_bytes(b"x" * 100)
    with open(tree / "var/sparse", "wb") as file:
        file.seek(8 * MIB)
        file.write(b"end")
    os.mkfifo(tree / "var/fifo", 0o640)
    (tree / "etc/na\udcffme").write_bytes(b"odd")
    if os.geteuid() == 0:
        os.setxattr(tree / "etc/hosts", "user.note", b"\0value")
        os.chown(tree / "etc/hosts", 1000, 2000)
        os.mknod(tree / "var/null", 0o20666, os.makedev(1, 3))
    os.utime(tree / "etc/hosts", ns=(1, 1_234_567_890_123_456_789))
    os.utime(tree / "var/log", ns=(1, 987_654_321))


def edit(tree: Path) -> None:
    """Every way to change it."""
    with open(tree / "etc/passwd", "a") as file:
        file.write("user:x:1:1\n")
    (tree / "etc/hosts").unlink()
    (tree / "bin/sh").unlink()
    (tree / "bin/sh").mkdir()
    (tree / "bin/sh/now").write_text("a directory")
    (tree / "bin/other").chmod(0o700)
    for name in ("deep/er/still/f", "deep/er/still", "deep/er"):
        path = tree / name
        path.rmdir() if path.is_dir() else path.unlink()
    (tree / "deep/er").mkdir()
    (tree / "deep/er/new").write_text("in a directory that was made again")
    os.rename(tree / "var/sparse", tree / "etc/moved")
    (tree / "etc/added").write_bytes(os.urandom(100_000))


EDITED = {
    "C /bin",
    "C /bin/sh",
    "A /bin/sh/now",
    "C /bin/other",
    "C /deep",
    "C /deep/er",
    "A /deep/er/new",
    "D /deep/er/still",
    "C /etc",
    "A /etc/added",
    "D /etc/hosts",
    "A /etc/moved",
    "C /etc/passwd",
    "C /var",
    "D /var/sparse",
}


def check_a_child_looks_like_its_parent(bench: Bench) -> None:
    bench.commit("base", None, base)
    wanted = bench.dump("base")
    with bench.prepared("child", "base") as tree:
        _same(wanted, dump(tree), "the child and its parent")
    assert "./etc/passwd" in {f"./{name}" for name in wanted}


def check_what_is_written_is_committed(bench: Bench) -> None:
    bench.commit("base", None, base)
    seen: dict[str, dict[str, object]] = {}

    def write(tree: Path) -> None:
        edit(tree)
        seen.update(dump(tree))

    bench.commit("edited", "base", write)
    _same(seen, bench.dump("edited"), "what was written and what was committed")
    assert len(seen) > 15


def check_a_parent_never_changes(bench: Bench) -> None:
    bench.commit("base", None, base)
    before = bench.dump("base")
    bench.commit("edited", "base", edit)
    with bench.prepared("other", "base") as tree:
        edit(tree)
    _same(before, bench.dump("base"), "the parent before and after")
    bench.snapshotter.remove("other")
    _same(before, bench.dump("base"), "the parent after its child went")


def check_children_do_not_see_each_other(bench: Bench) -> None:
    bench.commit("base", None, base)
    with bench.prepared("one", "base") as first, bench.prepared("two", "base") as second:
        (first / "etc/passwd").write_text("first")
        (second / "etc/passwd").write_text("second")
        (first / "etc/hosts").unlink()
        assert (second / "etc/hosts").exists()
        assert (first / "etc/passwd").read_text() == "first"
        assert (second / "etc/passwd").read_text() == "second"
    with bench.mounted("one") as first:
        assert (first / "etc/passwd").read_text() == "first", (
            "what an active snapshot holds is there when mounted again"
        )


def check_a_view_cannot_be_written(bench: Bench) -> None:
    bench.commit("base", None, base)
    before = bench.dump("base")
    with bench.viewed("look", "base") as tree:
        _same(before, dump(tree), "the view and the snapshot")
        try:
            (tree / "etc/passwd").write_text("changed")
            (tree / "new").write_text("new")
        except OSError:
            pass
        else:
            assert not bench.privileged, "a mounted view can be written to"
    bench.snapshotter.remove("look")
    _same(before, bench.dump("base"), "the snapshot before and after a view of it was written to")


def check_changes_are_exact(bench: Bench) -> None:
    bench.commit("base", None, base)
    with bench.prepared("work", "base") as tree:
        _no_changes(bench, "work")
        edit(tree)
        _edited(bench, "work")  # while it is mounted
    _edited(bench, "work")
    bench.snapshotter.commit("edited", "work")
    _edited(bench, "edited")


def check_the_layer_of_the_changes_makes_the_same_tree(bench: Bench) -> None:
    import fastlayer

    bench.commit("base", None, base)
    bench.commit("edited", "base", edit)
    layers = []
    for name in ("base", "edited"):
        layers.append(bench.scratch / f"{name}.tar")
        with bench.snapshotter.changes(name) as changes:
            changes.write(layers[-1])
    fastlayer.apply(layers, bench.scratch / "applied")
    wanted, found = bench.dump("edited"), dump(bench.scratch / "applied")
    for entry in (wanted, found):
        entry["."].pop("mtime_ns")  # layers do not carry the root
    _same(wanted, found, "the snapshot and its layers applied")


def check_layers_are_extracted(bench: Bench) -> None:
    import fastlayer

    trees = [bench.scratch / name for name in ("empty", "a", "b")]
    trees[0].mkdir()
    trees[1].mkdir()
    base(trees[1])
    fastlayer.clone(trees[1], trees[2])
    edit(trees[2])
    parent = None
    for number in (1, 2):
        layer = bench.scratch / f"{number}.tar"
        fastlayer.diff(trees[number - 1], trees[number], layer)
        extract(bench.snapshotter, layer, f"layer-{number}", parent)
        parent = f"layer-{number}"
        wanted = dump(trees[number])
        found = bench.dump(parent)
        for entry in (wanted, found):
            entry["."].pop("mtime_ns")  # layers do not carry the root
        _same(wanted, found, f"tree {number} and the snapshot of its layers")


def extract(snapshotter: Snapshotter, layer: Path, name: str, parent: str | None) -> None:
    """A committed snapshot from a layer file, as loading an image does it."""
    import fastlayer

    key = f"extracting {name}"
    rebase = snapshotter.driver.independent
    snapshotter.prepare(key, None if rebase else parent)
    number, parents = snapshotter.number(key)
    with snapshotter.driver.layer_target(number, parents) as target:
        fastlayer.apply([layer], target.path, format=target.format)
    snapshotter.commit(name, key, parent=parent if rebase else None)


def check_names(bench: Bench) -> None:
    snapshotter = bench.snapshotter
    bench.commit("base", None, base)
    snapshotter.prepare("work", "base")
    _refused(AlreadyExistsError, lambda: snapshotter.prepare("work", "base"))
    _refused(AlreadyExistsError, lambda: snapshotter.prepare("base"))
    _refused(AlreadyExistsError, lambda: snapshotter.commit("base", "work"))
    _refused(NotFoundError, lambda: snapshotter.prepare("x", "nothing"))
    _refused(NotFoundError, lambda: snapshotter.commit("x", "nothing"))
    _refused(NotFoundError, lambda: snapshotter.remove("nothing"))
    _refused(UsageError, lambda: snapshotter.prepare("x", "work"))
    _refused(UsageError, lambda: snapshotter.commit("x", "base"))
    assert [info.key for info in snapshotter.walk()] == ["base", "work"]
    assert snapshotter.stat("work").parent == "base" and snapshotter.stat("work").kind == "active"
    snapshotter.commit("second", "work")
    assert snapshotter.stat("second").kind == "committed" and not snapshotter.exists("work")


def check_removal(bench: Bench) -> None:
    snapshotter = bench.snapshotter
    bench.commit("base", None, base)
    bench.commit("edited", "base", edit)
    snapshotter.view("look", "edited")
    _refused(InUseError, lambda: snapshotter.remove("base"))
    _refused(InUseError, lambda: snapshotter.remove("edited"))
    for key in ("look", "edited", "base"):
        snapshotter.remove(key)
    assert not list(snapshotter.walk())
    assert not snapshotter.driver.numbers(), f"left on disk: {snapshotter.driver.numbers()}"
    snapshotter.driver.remove(4711)  # what is not there can be removed, too
    bench.commit("base", None, base)


def check_a_duplicate_is_of_now(bench: Bench) -> None:
    bench.commit("base", None, base)
    with bench.prepared("work", "base") as tree:
        edit(tree)
        wanted = dump(tree)
        bench.snapshotter.duplicate("copy", "work")
        (tree / "etc/passwd").write_text("later")
        (tree / "etc/added").unlink()
    _same(wanted, bench.dump("copy"), "the active snapshot and its duplicate")
    _edited(bench, "copy")
    with bench.mounted("work") as tree:
        assert (tree / "etc/passwd").read_text() == "later"
    bench.snapshotter.remove("work")
    _same(wanted, bench.dump("copy"), "the duplicate after its source went")


def check_a_fork_is_of_now_and_can_be_written(bench: Bench) -> None:
    """Of an active snapshot that is mounted, and of a duplicate; neither notices what is written to the fork."""
    bench.commit("base", None, base)
    with bench.prepared("work", "base") as tree:
        edit(tree)
        wanted = dump(tree)
        bench.snapshotter.fork("fork", "work")
        bench.snapshotter.duplicate("copy", "work")
        (tree / "etc/passwd").write_text("later")
        (tree / "etc/added").unlink()
    bench.snapshotter.fork("again", "copy")
    for key in ("fork", "again"):
        info = bench.snapshotter.stat(key)
        assert (info.kind, info.parent) == ("active", "base"), info
        _edited(bench, key)
        with bench.mounted(key) as tree:
            _same(wanted, dump(tree), f"the active snapshot and {key}")
            (tree / "etc/passwd").write_text(key)
            (tree / "only").write_text(key)
    with bench.mounted("work") as tree:
        assert (tree / "etc/passwd").read_text() == "later" and not (tree / "only").exists()
    _same(wanted, bench.dump("copy"), "the duplicate after its fork was written to")
    bench.snapshotter.remove("work")
    bench.snapshotter.remove("copy")
    with bench.mounted("again") as tree:
        assert (tree / "only").read_text() == "again" and not (tree / "etc/gone").exists()
    bench.snapshotter.commit("made", "again")
    with bench.mounted("fork") as tree:
        assert (tree / "only").read_text() == "fork"


def check_usage_grows_with_what_is_written(bench: Bench) -> None:
    bench.commit("base", None, base)
    with bench.prepared("work", "base"):
        pass  # what a file system writes of itself when it is mounted is not asked for
    before = bench.snapshotter.usage("work")
    with bench.mounted("work") as tree:
        (tree / "big").write_bytes(os.urandom(4 * MIB))
        os.sync()
    after = bench.snapshotter.usage("work")
    grown = after.bytes - before.bytes
    assert 4 * MIB <= grown < 6 * MIB, f"4 MiB were written, usage grew by {grown}"
    assert 0 <= after.shared <= after.bytes


def check_a_long_chain(bench: Bench) -> None:
    parent = None
    for number in range(24):
        name = f"layer-{number}"

        def write(tree: Path, number: int = number) -> None:
            (tree / f"file-{number}").write_text(str(number))
            (tree / "last").write_text(str(number))
            if number:
                (tree / f"file-{number - 1}").rename(tree / f"moved-{number - 1}")

        bench.commit(name, parent, write)
        parent = name
    found = bench.dump("layer-23")
    assert set(found) == {".", "last", "file-23", *(f"moved-{n}" for n in range(23))}
    assert found["last"]["size"] == 2


def check_many_at_once(bench: Bench) -> None:
    bench.commit("base", None, base)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        own = bench.snapshotter
        try:
            for turn in range(3):
                key = f"work-{number}-{turn}"
                with bench.prepared(key, "base") as tree:
                    (tree / "who").write_text(key)
                own.commit(f"done {key}", key)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for number in range(4):
        with bench.viewed(f"v{number}", f"done work-{number}-2") as tree:
            assert (tree / "who").read_text() == f"work-{number}-2"


def check_a_size_limit_holds_or_is_refused(bench: Bench) -> None:
    bench.commit("base", None, base)
    try:
        bench.snapshotter.prepare("small", "base", size=64 * MIB)
    except DriverError as exc:
        assert ": " in str(exc) and not bench.snapshotter.exists("small")
        return
    with bench.mounted("small") as tree:
        try:
            for number in range(80):
                with open(tree / f"fill-{number}", "wb") as file:
                    file.write(os.urandom(MIB))
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as exc:
            assert exc.errno in (28, 122), exc
        else:
            raise AssertionError("80 MiB went into a snapshot limited to 64 MiB")
    bench.snapshotter.remove("small")


def check_an_option_it_has_not_is_refused(bench: Bench) -> None:
    bench.commit("base", None, base)
    snapshotter, before = bench.snapshotter, bench.snapshotter.driver.numbers()
    for make in (snapshotter.prepare, snapshotter.view):
        try:
            make("odd", "base", options={"no-such-option": "on"})
        except UsageError as exc:
            assert "no-such-option" in str(exc) and snapshotter.driver.name in str(exc), exc
        else:
            raise AssertionError("an option that nobody knows was taken")
    assert snapshotter.driver.numbers() == before and not snapshotter.exists("odd")


def check_asking_for_mounts_changes_nothing(bench: Bench) -> None:
    bench.commit("base", None, base)
    asked = bench.snapshotter.mounts
    with bench.prepared("work", "base") as tree:
        first = asked("work")
        (tree / "etc/passwd").write_text("written")
        assert asked("work") == first, "the mounts of a snapshot change while it is mounted"
        assert (tree / "etc/passwd").read_text() == "written"
    with bench.viewed("look", "base"):
        assert asked("look") == asked("look")
    with bench.mounted("work") as tree:
        assert (tree / "etc/passwd").read_text() == "written", "ready once, ready again"


def check_a_failed_creation_leaves_nothing(bench: Bench) -> None:
    bench.commit("base", None, base)
    driver = bench.snapshotter.driver
    before = driver.numbers()
    original = driver.create

    def fail(*args: object, **keywords: object) -> None:
        original(*args, **keywords)  # type: ignore[arg-type]
        raise NoSpaceError(28, "create", "here")

    driver.create = fail  # type: ignore[method-assign]
    try:
        _refused(NoSpaceError, lambda: bench.snapshotter.prepare("work", "base"))
    finally:
        driver.create = original  # type: ignore[method-assign]
    assert driver.numbers() == before and not bench.snapshotter.exists("work")
    bench.snapshotter.prepare("work", "base")


def check_prepared_files_are_the_same(bench: Bench) -> None:
    bench.commit("base", None, base)
    wanted = bench.dump("base")
    bench.snapshotter.prepare("work", "base")
    number, parents = bench.snapshotter.number("work")
    bench.snapshotter.driver.copy_up(number, parents, [b"etc/passwd", b"bin/tool", b"deep/er/still/f"])
    with bench.mounted("work") as tree:
        found = dump(tree)
        for entry in (wanted, found):  # a hard link that overlayfs copies up loses its other names (overlayfs.rst)
            for name in ("bin/tool", "bin/tool2"):
                entry[name].pop("names", None)
        _same(wanted, found, "the tree before and after copy-up")


def check_only_paths_that_are_there_are_prepared(bench: Bench) -> None:
    def write(tree: Path) -> None:
        base(tree)
        (tree / "up").symlink_to("etc")

    bench.commit("base", None, write)
    bench.snapshotter.prepare("work", "base")
    number, parents = bench.snapshotter.number("work")
    copy_up = bench.snapshotter.driver.copy_up
    for path in (b"nope", b"etc/nope", b"etc/passwd/below", b"up/passwd"):
        _refused(StorageError, lambda path=path: copy_up(number, parents, [path]))  # type: ignore[misc]
    for path in (b"../../etc/passwd", b"etc/../etc/passwd"):
        _refused(UnsafeEntryError, lambda path=path: copy_up(number, parents, [path]))  # type: ignore[misc]
    copy_up(number, parents, [b"/etc/passwd", b"up"])


CHECKS: tuple[Callable[[Bench], None], ...] = tuple(
    value for name, value in sorted(globals().items()) if name.startswith("check_")
)


def name_of(check: Callable[[Bench], None]) -> str:
    """A check's name, for test ids."""
    return check.__name__.removeprefix("check_")


def _same(a: dict[str, dict[str, object]], b: dict[str, dict[str, object]], what: str) -> None:
    found = difference(a, b)
    assert not found, f"{what} differ:\n{found}"


def _lines(bench: Bench, key: str) -> set[str]:
    with bench.snapshotter.changes(key) as changes:
        return {f"{change.kind} /{os.fsdecode(change.path)}" for change in changes}


def _no_changes(bench: Bench, key: str) -> None:
    found = _lines(bench, key)
    assert not found, f"changes of an untouched snapshot: {sorted(found)}"


def _edited(bench: Bench, key: str) -> None:
    found, wanted = _lines(bench, key), EDITED
    assert found == wanted, f"changes: too many {sorted(found - wanted)}, too few {sorted(wanted - found)}"


def _refused(kind: type[BaseException], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__} was raised")
