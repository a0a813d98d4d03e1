"""The directories of RUN --mount=type=cache: who may have one at the same time, and what is left of the dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.builder import cachemounts
from fastlayer.builder.cachemounts import Access, all_mounts, remove, use
from fastlayer.store.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", driver="vfs") as opened:
        yield opened


class Stop(Exception):
    """What a build that ends raises."""


def nothing() -> None:
    pass


def stop() -> None:
    raise Stop


def test_files_stay(store: Store) -> None:
    with use(store, "a", "shared", Access(), nothing) as place:
        (place / "f").write_text("1")
    with use(store, "a", "locked", Access(), nothing) as place:
        assert (place / "f").read_text() == "1"
    with use(store, "b", "shared", Access(), nothing) as place:
        assert list(place.iterdir()) == []
    assert [mount.id for mount in all_mounts(store)] == ["a", "b"]


def test_shared_is_one_for_all(store: Store) -> None:
    with use(store, "a", "shared", Access(), nothing) as one, use(store, "a", "shared", Access(), nothing) as two:
        assert one == two


def test_private_is_another_while_it_is_in_use(store: Store) -> None:
    with use(store, "a", "private", Access(), nothing) as one, use(store, "a", "private", Access(), nothing) as two:
        assert one != two
    with use(store, "a", "private", Access(), nothing) as again:
        assert again == one
    assert len(all_mounts(store)) == 2


def test_locked_waits(store: Store) -> None:
    order: list[str] = []
    begun = threading.Event()

    def other() -> None:
        with use(store, "a", "locked", Access(), begun.set):
            order.append("second")

    with use(store, "a", "locked", Access(), nothing):
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


@pytest.mark.parametrize("first,second", [("locked", "shared"), ("shared", "locked")])
def test_waiting_ends_with_the_build(store: Store, first: str, second: str) -> None:
    with use(store, "a", first, Access(), nothing), pytest.raises(Stop), use(store, "a", second, Access(), stop):
        raise AssertionError("nobody has it")


def test_it_is_made_as_was_asked(store: Store) -> None:
    def seed(place: Path) -> None:
        (place / "seed").write_text("s")

    with use(store, "a", "shared", Access(mode=0o700, seed=seed), nothing) as place:
        assert place.stat().st_mode & 0o7777 == 0o700 and (place / "seed").read_text() == "s"
        (place / "seed").unlink()
    with use(store, "a", "shared", Access(mode=0o755, seed=seed), nothing) as place:
        assert place.stat().st_mode & 0o7777 == 0o700 and list(place.iterdir()) == []


def test_a_seed_that_fails_leaves_nothing(store: Store) -> None:
    def seed(place: Path) -> None:
        (place / "part").write_text("")
        raise Stop

    with pytest.raises(Stop), use(store, "a", "shared", Access(seed=seed), nothing):
        raise AssertionError("nobody has it")
    assert all_mounts(store) == [] and list((store.root / "cache/mounts").iterdir()) == []


def test_what_is_in_use_is_not_removed(store: Store) -> None:
    with use(store, "a", "shared", Access(), nothing) as place:
        (mount,) = all_mounts(store)
        assert not remove(store, mount) and place.exists()
    assert remove(store, mount) and all_mounts(store) == [] and not place.parent.exists()


def test_what_a_killed_maker_left_is_in_nobodys_way(store: Store) -> None:
    """A directory without a row: its number is passed over."""
    (store.root / "cache/mounts/1").mkdir(parents=True)
    with use(store, "a", "shared", Access(), nothing) as place:
        assert place == cachemounts.data_of(store, all_mounts(store)[0]) and place.parent.name == "2"
