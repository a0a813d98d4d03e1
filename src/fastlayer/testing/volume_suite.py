"""The conformance suite of volume drivers (``fastlayer.volume.driver``): a driver is done when it passes.

::

    from fastlayer.testing import volume_suite as suite

    @pytest.mark.parametrize("check", suite.CHECKS, ids=suite.name_of)
    def test_conformance(check, tmp_path):
        check(suite.Bench(lambda: Driver(tmp_path)))

Every check starts with a driver that has no volumes and raises ``AssertionError`` with what is wrong. Nothing of pytest
is needed. ``Bench.new`` is called whenever another process might be: what a driver must know it must have written down.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fastlayer.errors import FastlayerError, NotFoundError
from fastlayer.volume.driver import VolumeDriver

_NOTHING: Mapping[str, str] = {}


class Bench:
    """Makes the driver to be tried. ``options``: with which it makes a plain, empty volume."""

    def __init__(self, new: Callable[[], VolumeDriver], options: Mapping[str, str] = _NOTHING) -> None:
        self.new = new
        self.options = options

    def made(self, name: str = "data") -> VolumeDriver:
        """A driver that has just made the volume."""
        driver = self.new()
        driver.create(name, self.options)
        return driver

    def mounted(self, name: str, user: str) -> Path:
        """By a driver that remembers nothing."""
        return self.new().mount(name, user)

    def unmounted(self, name: str, user: str, *, last: bool = True) -> None:
        self.new().unmount(name, user, last=last)


def check_a_new_volume_is_an_empty_directory(bench: Bench) -> None:
    bench.made()
    place = bench.mounted("data", "one")
    assert isinstance(place, Path) and place.is_absolute(), f"{place!r}: is no absolute path"
    assert place.is_dir(), f"{place}: is no directory"
    assert not list(place.iterdir()), f"{place}: is not empty"
    (place / "file").write_text("written")
    bench.unmounted("data", "one")


def check_what_is_written_stays(bench: Bench) -> None:
    bench.made()
    (bench.mounted("data", "one") / "file").write_text("written")
    bench.unmounted("data", "one")
    place = bench.mounted("data", "two")
    _holds(place, "what was written is gone after an unmount")
    bench.unmounted("data", "two")


def check_users_share_a_volume(bench: Bench) -> None:
    bench.made()
    one, two = bench.mounted("data", "one"), bench.mounted("data", "two")
    (one / "file").write_text("written")
    _holds(two, "two users see different files")
    bench.unmounted("data", "one", last=False)
    _holds(two, "the first that goes takes the files from the other")
    bench.unmounted("data", "two")


def check_the_same_user_again_has_the_same(bench: Bench) -> None:
    bench.made()
    first, again = bench.mounted("data", "one"), bench.mounted("data", "one")
    assert first == again, f"the same user is given {first}, then {again}"
    bench.unmounted("data", "one")


def check_volumes_are_apart(bench: Bench) -> None:
    bench.made("one")
    bench.made("two")
    (bench.mounted("one", "user") / "file").write_text("written")
    place = bench.mounted("two", "user")
    assert not list(place.iterdir()), "two volumes have the same files"
    for name in ("one", "two"):
        bench.unmounted(name, "user")


def check_the_path_is_where_it_is_mounted(bench: Bench) -> None:
    bench.made()
    place = bench.mounted("data", "one")
    assert bench.new().path("data") == place, f"mounted at {place}, but path says {bench.new().path('data')}"
    bench.unmounted("data", "one")
    later = bench.new().path("data")
    assert later is None or later.is_dir(), f"path says {later}, where nothing is"


def check_names(bench: Bench) -> None:
    assert bench.new().names() == [], "a driver without volumes has names"
    bench.made("one")
    bench.made("two")
    assert sorted(bench.new().names()) == ["one", "two"], f"names: {bench.new().names()}"
    bench.new().remove("one")
    assert bench.new().names() == ["two"], f"names after a removal: {bench.new().names()}"


def check_a_status_is_json(bench: Bench) -> None:
    bench.made()
    status = bench.new().status("data")
    assert isinstance(status, Mapping), f"{status!r}: is no mapping"
    json.dumps(dict(status))


def check_an_unknown_volume_is_refused(bench: Bench) -> None:
    _refused(NotFoundError, lambda: bench.new().mount("nothing", "one"), "mount")
    _refused(NotFoundError, lambda: bench.new().status("nothing"), "status")
    assert bench.new().path("nothing") is None, "an unknown volume has a path"


def check_removed_is_gone(bench: Bench) -> None:
    bench.made()
    (bench.mounted("data", "one") / "file").write_text("written")
    bench.unmounted("data", "one")
    bench.new().remove("data")
    _refused(NotFoundError, lambda: bench.new().mount("data", "one"), "mount after remove")
    bench.made()
    place = bench.mounted("data", "one")
    assert not list(place.iterdir()), "a volume made again has the files of the one that was removed"
    bench.unmounted("data", "one")


def check_what_is_done_twice_is_no_error(bench: Bench) -> None:
    bench.made()
    bench.mounted("data", "one")
    bench.unmounted("data", "one")
    bench.unmounted("data", "one")
    bench.unmounted("data", "nobody")
    bench.new().remove("data")
    bench.new().remove("data")
    bench.unmounted("data", "one")


def check_options_that_mean_nothing_are_refused(bench: Bench) -> None:
    options = {**bench.options, "no.such-option": "1"}
    _refused(FastlayerError, lambda: bench.new().create("data", options), "create with an unknown option")
    assert "data" not in bench.new().names(), "a volume that could not be made is there"
    bench.made()


def check_the_scope_is_one(bench: Bench) -> None:
    assert bench.new().scope in ("local", "global"), f"scope {bench.new().scope!r}"


CHECKS: tuple[Callable[[Bench], None], ...] = tuple(
    value for name, value in sorted(globals().items()) if name.startswith("check_")
)


def name_of(check: Callable[[Bench], None]) -> str:
    """A check's name, for test ids."""
    return check.__name__.removeprefix("check_")


def _holds(place: Path, what: str) -> None:
    """The file that was written is there."""
    try:
        found = (place / "file").read_text()
    except OSError as exc:
        raise AssertionError(f"{what}: {exc}") from exc
    assert found == "written", what


def _refused(kind: type[BaseException], call: Callable[[], object], what: str) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{what}: no {kind.__name__} was raised")
