"""The driver interface: ours and anybody's pass the suite, broken ones do not; packages bring drivers along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fastlayer.errors import AlreadyExistsError, DriverError, InUseError, NotFoundError, UsageError
from fastlayer.testing import volume_suite as suite
from fastlayer.volume.driver import VolumeDriver
from fastlayer.volume.registry import driver_of
from fastlayer.volume.volumes import Volumes
from tests.stores import vfs_store
from tests.volume_drivers import Folders, ThroughStore

Check = Callable[[suite.Bench], None]


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    with vfs_store(tmp_path / "store") as store:
        yield Volumes(store)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution with drivers."""
    info = tmp_path / "site/with_volumes-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: with-volumes\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fastlayer.volume_drivers]\n"
        "folders = tests.volume_drivers:Folders\n"
        "missing = tests.volume_drivers:Nothing\n"
        "raising = tests.volume_drivers:ThroughStore\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
def test_a_driver_of_somebody_else(check: Check, tmp_path: Path) -> None:
    check(suite.Bench(lambda: Folders(tmp_path)))


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
def test_local(check: Check, volumes: Volumes) -> None:
    check(suite.Bench(lambda: ThroughStore(volumes, "local")))


@pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
@pytest.mark.usefixtures("package")
def test_a_driver_of_a_package(check: Check, volumes: Volumes) -> None:
    check(suite.Bench(lambda: ThroughStore(volumes, "folders", "global")))


# ---- the suite finds what is broken ----------------------------------------------------------------


class Forgetful(Folders):
    """Keeps in memory what the next process does not know."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.made: list[str] = []

    def create(self, name: str, options: Mapping[str, str]) -> None:
        super().create(name, options)
        self.made.append(name)

    def names(self) -> list[str]:
        return self.made


class Emptying(Folders):
    """Throws the files away with the user."""

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        if last:
            self.remove(name)
            (self.place / name).mkdir()


class Selfish(Folders):
    """Unmounts for all when one goes."""

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        self.remove(name)


class Deaf(Folders):
    """Takes any option."""

    def create(self, name: str, options: Mapping[str, str]) -> None:
        super().create(name, {})


class Generous(Folders):
    """Makes what it has not got."""

    def mount(self, name: str, user: str) -> Path:
        (self.place / name).mkdir(exist_ok=True)
        return self.place / name


class Once(Folders):
    """Fails at what is done already."""

    def remove(self, name: str) -> None:
        self._found(name)
        super().remove(name)


BROKEN = {
    Forgetful: {"names"},
    Emptying: {"what_is_written_stays"},
    Selfish: {"users_share_a_volume", "what_is_written_stays"},
    Deaf: {"options_that_mean_nothing_are_refused"},
    Generous: {"an_unknown_volume_is_refused", "removed_is_gone"},
    Once: {"what_is_done_twice_is_no_error"},
}


def failures(new: Callable[[Path], VolumeDriver], scratch: Path) -> set[str]:
    found = set()
    for check in suite.CHECKS:
        place = scratch / check.__name__
        place.mkdir()
        try:
            check(suite.Bench(lambda place=place: new(place)))  # type: ignore[misc]
        except (AssertionError, NotFoundError):  # what a driver itself raises fails the check as well
            found.add(suite.name_of(check))
    return found


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_the_suite_finds_what_is_broken(broken: type[Folders], tmp_path: Path) -> None:
    found = failures(broken, tmp_path)
    assert found >= BROKEN[broken]


# ---- drivers of packages ---------------------------------------------------------------------------


@pytest.mark.usefixtures("package")
def test_a_package_brings_a_driver_along(volumes: Volumes) -> None:
    made = volumes.create("theirs", driver="folders", options={"color": "red"}, labels={"a": "b"})
    assert (made.driver, made.options, made.labels) == ("folders", {"color": "red"}, {"a": "b"})
    place = volumes.acquire("theirs", "me")
    assert place == volumes.store.root / "volume-drivers/folders/theirs"
    (place / "file").write_text("x")
    details = volumes.details("theirs")
    assert (details.scope, details.status, details.path) == ("global", {"Files": 1}, place)
    with pytest.raises(InUseError, match="in use"):
        volumes.remove("theirs")
    volumes.release("me")
    volumes.remove("theirs")
    assert not place.exists()


@pytest.mark.usefixtures("package")
def test_a_volume_that_the_driver_has_already_is_taken_as_it_is(volumes: Volumes) -> None:
    place = volumes.store.root / "volume-drivers/folders"
    volumes.create("first", driver="folders")
    (place / "older").mkdir()
    (place / "older/file").write_text("kept")
    volumes.create("older", driver="folders")
    assert (volumes.acquire("older", "me") / "file").read_text() == "kept"


@pytest.mark.usefixtures("package")
def test_names_belong_to_one_driver(volumes: Volumes) -> None:
    volumes.create("data")
    with pytest.raises(AlreadyExistsError, match="with the driver local"):
        volumes.create("data", driver="folders")


@pytest.mark.usefixtures("package")
def test_copies_of_other_drivers(volumes: Volumes) -> None:
    """Of any driver a clone can be made; snapshots are of the store's own files."""
    volumes.create("theirs", driver="folders")
    (volumes.acquire("theirs", "me") / "file").write_text("x")
    assert volumes.clone("theirs", "ours").driver == "local"
    assert (volumes.acquire("ours", "me") / "file").read_text() == "x"
    with pytest.raises(DriverError, match=r"driver folders has no snapshots.*clone"):
        volumes.snapshot("theirs", "s1")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name,why", [("missing", "Nothing"), ("raising", "TypeError")])
def test_a_driver_that_cannot_be_used(volumes: Volumes, name: str, why: str) -> None:
    with pytest.raises(DriverError, match=why):
        volumes.create("data", driver=name)
    assert volumes.all() == []


def test_an_unknown_driver(volumes: Volumes) -> None:
    with pytest.raises(NotFoundError, match="volume driver nothing"):
        volumes.create("data", driver="nothing")
    with pytest.raises(UsageError, match="not the name of a volume driver"):
        volumes.create("data", driver="../x")
    assert volumes.all() == []


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "method,kind",
    [(method, "raises") for method in ("create", "mount", "unmount", "path", "status", "names", "remove", "scope")]
    + [(method, "answers") for method in ("mount", "path", "status", "names", "scope")],
)
def test_a_driver_that_misbehaves(volumes: Volumes, method: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is anybody's: whatever it does is one line that names it, and a volume is what it was."""

    def bad(*_: object, **__: object) -> object:
        if kind == "raises":
            raise KeyError("on\nfire\x1b[31m")
        return {"status": {"x": {1, 2}}, "names": [1]}.get(method, "nonsense")

    if method != "create":
        volumes.create("data", driver="folders")
    monkeypatch.setattr(Folders, method, property(bad) if method == "scope" else bad)
    with pytest.raises(DriverError, match=rf"volume driver folders .*{method}") as caught:
        if method == "create":
            volumes.create("data", driver="folders")
        elif method == "remove":
            volumes.remove("data")
        elif method == "names":
            driver_of(volumes.store, "folders").names()
        elif method == "mount":
            volumes.acquire("data", "me")
        elif method == "unmount":
            volumes.acquire("data", "me")
            volumes.release("me")
        else:
            volumes.details("data")
    assert str(caught.value).isprintable()
    monkeypatch.undo()
    assert [volume.name for volume in volumes.all()] == ([] if method == "create" else ["data"])


@pytest.mark.usefixtures("package")
def test_prune_spares_what_others_may_have(volumes: Volumes) -> None:
    """As Docker's: only the driver local."""
    volumes.create("theirs", driver="folders")
    volumes.create("ours")
    assert [volume.name for volume, _ in volumes.prune(named=True)] == ["ours"]
    assert volumes.find("theirs").driver == "folders"
