"""The corpus of Dockerfiles, built by those who may do less than root: the images are root's, id for id.

========  =============================================================================================================
user      a plain user with ranges in /etc/subuid: root of a user namespace, isolation native, driver overlay2
single    a plain user without: all files are theirs, and nobody else can be
pod       root of an unprivileged container, which makes no namespace and mounts nothing: isolation chroot, driver vfs
========  =============================================================================================================

A third of the cases, with all that cannot work somewhere; every one with ``FASTLAYER_CORPUS=all``.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import needs_root, require
from tests.integration import buildbases
from tests.integration.buildcases import cases
from tests.integration.confined import confined
from tests.integration.corpusrun import CHECK, Outcome
from tests.integration.judges import fresh
from tests.integration.userns import as_somebody

pytestmark = [needs_root, pytest.mark.timeout(1200)]
ALL = os.environ.get("FASTLAYER_CORPUS") == "all"
CASES = {case.name: case for case in cases() if ALL or case.base == "busybox"}


class Fails(NamedTuple):
    """``said``: the end of the message, which tells a way out where there is one; ``why``."""

    said: str
    why: str


class Differs(NamedTuple):
    """It is built, and is another image than root's by overlay2. ``like``: whose it is instead, if anybody's."""

    why: str
    like: str | None = None


_CHOWN = Fails(r"exit status 1$", "chown to an id that is not there, by the step")
_USER = Fails(
    r"the user \d+:\d+ is not among the ids of this user namespace: give this user ranges in /etc/subuid and "
    r"/etc/subgid, with newuidmap and newgidmap installed, or run as root$",
    "USER names somebody that nobody can become",
)
_APT = Fails(r"exit status 100$", "apt downloads as another user")
_SHOWN = Differs("the step writes down whose a mount is: it is root's")

UNLIKE: Mapping[str, Mapping[str, Fails | Differs]] = {
    "user": {},
    "single": {
        "copy-merges": _CHOWN,
        "copy-over-a-file": _CHOWN,
        "project-database": _CHOWN,
        "project-php": _CHOWN,
        "run-changes-attributes": _CHOWN,
        "stage-copy-by-name": _CHOWN,
        "stage-copy-special": _CHOWN,
        "run-environment": _USER,
        "user-copy-is-root": _USER,
        "user-forms": _USER,
        "workdir-of-user": _USER,
        "mount-cache-attributes": _SHOWN,
        "mount-secret-target": _SHOWN,
        "run-removes": Differs("a directory of another owner is changed, and the tree has none but root"),
        "lesson-flask-one": _APT,
        "lesson-flask-two": _APT,
        "project-debian-users": Differs("files of the group shadow are changed, and the tree has none but root's"),
    },
    "pod": {
        "mount-bind": Fails(
            r"exit status 1$", "a read-only bind is a copy: the step can write to it, and what it writes is lost"
        ),
        "run-network-none": Fails(
            r"network none needs a network namespace, which chroot cannot make: use isolation native or oci$",
            "chroot makes no namespaces",
        ),
        "run-shm-size": Differs("the step writes down the size of /dev/shm, which is a directory like any other there"),
        "run-hard-links": Differs("a copy-up of overlayfs breaks the links of a file, a tree does not", "vfs"),
    },
}
LIKE_VFS = sorted(
    {name for table in UNLIKE.values() for name, told in table.items() if getattr(told, "like", None) == "vfs"}
)
NAMED = {name for table in UNLIKE.values() for name in table}
SAMPLE = [name for number, name in enumerate(CASES) if ALL or number % 3 == 0 or name in NAMED]
Outcomes = Mapping[str, Outcome]


# ---- the builders


class Runs:
    """Builds the sample once by everybody who is asked for."""

    def __init__(self, place: Path) -> None:
        self.place = place
        makers = {"busybox": buildbases.busybox, "debian": buildbases.debian}
        self._archives = [makers[base](place) for base in sorted({CASES[name].base for name in SAMPLE})]
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._port = server.getsockname()[1]
        self._by = {name: functools.cache(functools.partial(run, self)) for name, run in _RUNS.items()}

    def by(self, who: str) -> Outcomes:
        return self._by[who]()

    def place_of(self, who: str) -> Path:
        """With the base images in it, which not everybody may read where they are."""
        place = fresh(self.place / who)
        for archive in self._archives:
            os.link(archive, place / archive.name)
        (place / "work").mkdir()
        return place

    def command(self, place: Path, isolation: str, names: Sequence[str] = SAMPLE) -> list[str]:
        archives = ":".join(os.fspath(place / archive.name) for archive in self._archives)
        words = ["-m", "tests.integration.corpusrun", place / "work", isolation, self._port, archives]
        return [sys.executable, *map(str, words), *names]

    def heard(self, done: subprocess.CompletedProcess[str], names: Sequence[str] = SAMPLE) -> Outcomes:
        assert done.returncode == 0, done.stderr[-3000:]
        found = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
        assert [outcome.name for outcome in found] == [*names, CHECK]
        return {outcome.name: outcome for outcome in found}


def _root(runs: Runs, driver: str, names: Sequence[str] = SAMPLE) -> Outcomes:
    command = runs.command(runs.place_of(driver), "native", names)
    env = {**os.environ, "FASTLAYER_DRIVER": driver}
    return runs.heard(subprocess.run(command, capture_output=True, text=True, env=env, check=False), names)


def _user(runs: Runs) -> Outcomes:
    require("newuidmap", "newgidmap")
    place, shown = runs.place_of("user"), {}
    user, uids, gids = "somebody:x:54321:54321::/:/bin/sh\n", "somebody:200000:65536\n", "somebody:300000:65536\n"
    for target, text in (("/etc/passwd", user), ("/etc/subuid", uids), ("/etc/subgid", gids)):
        file = place / os.path.basename(target)
        file.write_text(text)
        shown[file] = target
    command = runs.command(place, "native")
    return runs.heard(as_somebody(command, place, shown=shown, FASTLAYER_DRIVER="overlay2"))


def _single(runs: Runs) -> Outcomes:
    place = runs.place_of("single")
    return runs.heard(as_somebody(runs.command(place, "native"), place, FASTLAYER_DRIVER="overlay2"))


def _pod(runs: Runs) -> Outcomes:
    return runs.heard(confined(runs.command(runs.place_of("pod"), "chroot")))


_RUNS: Mapping[str, Callable[[Runs], Outcomes]] = {
    "overlay2": functools.partial(_root, driver="overlay2"),
    "vfs": functools.partial(_root, driver="vfs", names=LIKE_VFS),
    "user": _user,
    "single": _single,
    "pod": _pod,
}


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """On tmpfs."""
    require("/bin/busybox", "git", "dpkg-deb")
    place = fresh(Path("/dev/shm") / f"rights-{os.getpid()}")
    place.chmod(0o755)
    yield Runs(place)
    shutil.rmtree(place)


# ---- what they build


def check(runs: Runs, who: str, name: str) -> None:
    wanted, found, unlike = runs.by("overlay2")[name], runs.by(who)[name], UNLIKE[who].get(name)
    assert "Traceback" not in found.said and "internal error" not in found.said
    if isinstance(unlike, Fails):
        assert wanted.code == 0 and found.code == 1 and re.search(unlike.said, found.said.strip()), found
    elif isinstance(unlike, Differs):
        assert wanted.code == found.code == 0 and found.id != wanted.id, found
        assert unlike.like is None or found.id == runs.by(unlike.like)[name].id
    elif fails := CASES[name].fails:
        assert wanted.code == found.code != 0 and re.search(fails, found.said), found
    else:
        assert (wanted.code, wanted.said) == (0, ""), wanted
        assert (found.code, found.id) == (0, wanted.id), found


@pytest.mark.parametrize("name", SAMPLE)
@pytest.mark.parametrize("who", UNLIKE)
def test_the_image_is_the_one_that_root_builds(runs: Runs, who: str, name: str) -> None:
    check(runs, who, name)


@pytest.mark.parametrize("who", UNLIKE)
def test_the_store_is_sound(runs: Runs, who: str) -> None:
    found = runs.by(who)[CHECK]
    assert found.code == 0 and found.id.endswith("sound"), found


# what a container of a CI system cannot do: the library's calls, and one that no library has
_TRIES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, *words):
    print(name, libc[name](*words) == 0 or os.strerror(ctypes.get_errno()))
for flags in (0x20000, 0x10000000, 0x10000000 | 0x20000):
    tried("unshare", flags)
tried("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)
tried("syscall", 428, -100, b"/", 1)
tried("chroot", b"/")
"""


def test_a_pod_has_no_rights_to_namespaces_and_mounts() -> None:
    done = confined([sys.executable, "-c", _TRIES])
    refused = "Operation not permitted"
    assert done.stdout.splitlines() == [
        *(f"unshare {refused}" for _ in range(3)),
        f"mount {refused}",
        f"syscall {refused}",
        "chroot True",
    ], done
    names = "from fastlayer.running.isolation import probes; print([v.name for v in probes() if v.probe.works])"
    done = confined([sys.executable, "-c", names])
    assert done.stdout == "['chroot']\n", done
