"""What cache mounts may take, and how long they stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.builder import cachemounts, limits, pruning
from fastlayer.builder.cachemounts import Access, all_mounts, use
from fastlayer.builder.limits import ALL, Limit
from fastlayer.errors import CorruptStoreError
from fastlayer.store.store import Store, open_store

NOW = time.time_ns()
HOUR = 3600
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store", driver="vfs") as opened:
        yield opened


def made(store: Store, identity: str, size: int, hours: int) -> None:
    """A cache mount of that size that was used so many hours ago."""
    with use(store, identity, "shared", Access(), lambda: None) as place:
        (place / "f").write_bytes(b"x" * size)
    with store.database.write() as db:
        db.execute("UPDATE cache_mounts SET used_ns = ? WHERE id = ?", (NOW - hours * HOUR * 10**9, identity))


@pytest.fixture
def three(store: Store) -> Store:
    made(store, "old", MIB, 30)
    made(store, "large", 3 * MIB, 20)
    made(store, "new", MIB, 1)
    return store


def left(store: Store) -> list[str]:
    return [mount.id for mount in all_mounts(store)]


@pytest.mark.parametrize(
    "wanted,stays",
    [
        ({}, ["old", "large", "new"]),
        ({ALL: Limit()}, ["old", "large", "new"]),
        ({ALL: Limit(max_age=25 * HOUR)}, ["large", "new"]),
        ({ALL: Limit(max_size=6 * MIB)}, ["old", "large", "new"]),
        ({ALL: Limit(max_size=4 * MIB + MIB // 2)}, ["large", "new"]),
        ({ALL: Limit(max_size=2 * MIB)}, ["new"]),
        ({ALL: Limit(max_size=1)}, []),
        ({"large": Limit(max_size=2 * MIB)}, ["old", "new"]),
        ({"large": Limit(max_size=4 * MIB)}, ["old", "large", "new"]),
        ({ALL: Limit(max_age=10 * HOUR), "old": Limit(max_age=100 * HOUR)}, ["old", "new"]),
        ({"large": Limit(max_size=2 * MIB), ALL: Limit(max_size=3 * MIB)}, ["old", "new"]),
    ],
)
def test_what_is_beyond_goes(three: Store, wanted: dict[str, Limit], stays: list[str]) -> None:
    limits.set_limits(three, wanted)
    gone = limits.apply(three, now_ns=NOW)
    assert left(three) == stays and len(gone) == 3 - len(stays)
    assert limits.apply(three, now_ns=NOW) == []


def test_what_a_step_has_stays(three: Store) -> None:
    limits.set_limits(three, {ALL: Limit(max_size=1)})
    with use(three, "large", "shared", Access(), lambda: None) as place:
        limits.apply(three)
        assert left(three) == ["large"] and (place / "f").exists()


def test_they_are_kept_with_the_store(store: Store) -> None:
    wanted = {ALL: Limit(max_size=5), "a": Limit(max_age=7)}
    limits.set_limits(store, {**wanted, "nothing": Limit()})
    with open_store(store.root, driver="vfs") as again:
        assert limits.limits(again) == wanted


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema":2,"limits":{}}', '{"schema":1,"limits":{"a":{"max_size":"x"}}}',
             '{"schema":1,"limits":{"a":{"other":1}}}', '{"schema":1,"limits":[]}',
             '{"schema":1,"limits":{"a":{"max_age":-1}}}'],
)  # fmt: skip
def test_a_damaged_file_is_named(store: Store, text: str) -> None:
    limits.set_limits(store, {})
    (store.root / "cache/mounts/limits.json").write_text(text)
    with pytest.raises(CorruptStoreError, match="--clear"):
        limits.limits(store)


# ---- cache prune -----------------------------------------------------------------------------------


def test_prune_of_mounts_only(three: Store) -> None:
    assert pruning.prune(three, kind="mount", unused_for=25 * HOUR).mounts == 1 and left(three) == ["large", "new"]
    done = pruning.prune(three, kind="mount", keep=2 * MIB, dry_run=True)
    assert (done.mounts, left(three)) == (1, ["large", "new"]) and done.bytes >= 3 * MIB
    assert pruning.prune(three, kind="mount", keep=2 * MIB).mounts == 1 and left(three) == ["new"]
    assert pruning.prune(three, kind="step", everything=True).mounts == 0 and left(three) == ["new"]
    assert pruning.prune(three, everything=True).mounts == 1 and left(three) == []


def test_prune_by_id(three: Store) -> None:
    assert pruning.prune(three, ids=["old", "new"]).mounts == 2 and left(three) == ["large"]


def test_prune_keeps_the_latest_of_all_kinds(three: Store) -> None:
    pruning.prune(three, everything=True, keep=2 * MIB)
    assert left(three) == ["new"]


def test_prune_leaves_what_a_step_has(three: Store) -> None:
    with use(three, "old", "shared", Access(), lambda: None):
        done = pruning.prune(three, kind="mount")
    assert done.mounts == 2 and left(three) == ["old"] and done.bytes >= 4 * MIB


def test_removing_others_of_an_id(store: Store) -> None:
    with use(store, "a", "private", Access(), lambda: None), use(store, "a", "private", Access(), lambda: None):
        pass
    cachemounts.remove_others(store, "a")
    assert [mount.number for mount in all_mounts(store)] == [2]
