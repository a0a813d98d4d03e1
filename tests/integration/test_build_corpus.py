"""The corpus of Dockerfiles, built by docker's two builders, by buildah, and by us: the same images."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import needs_root, require
from tests.integration import buildbases
from tests.integration.buildcases import Case, cases
from tests.integration.buildjudges import Built, Court, Refused, buildah, differences, docker, ours
from tests.integration.judges import fresh
from tests.shell import Shell

CASES = {case.name: case for case in cases()}
EVERY = 1 if os.environ.get("FASTLAYER_CORPUS") == "all" else 9
SAMPLE = dict(list(CASES.items())[::EVERY])  # three judges take nine minutes for all of it: FASTLAYER_CORPUS=all

pytestmark = [needs_root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """On tmpfs, short enough for sockets."""
    path = fresh(Path("/dev/shm") / f"corpus-{os.getpid()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def archives(place: Path) -> Bases:
    return Bases(place)


class Bases:
    """The archives of the base images, made when a case needs them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._made: dict[str, Path] = {}

    def archive(self, name: str) -> Path:
        if name not in self._made:
            require(*(["debootstrap"] if name == "debian" else ["/bin/busybox"]))
            self._made[name] = (buildbases.debian if name == "debian" else buildbases.busybox)(self.place)
        return self._made[name]


@pytest.fixture(scope="module")
def court(place: Path, archives: Bases) -> Iterator[Court]:
    require("dockerd", "docker", "buildah")
    with docker(place / "docker") as one, buildah(place / "buildah") as two:
        yield Court(one, two, fresh(place / "case"))


@pytest.fixture(scope="module")
def shell(place: Path, archives: Bases) -> Shell:
    return Shell(place / "store", "overlay2")


_loaded: set[tuple[int, str]] = set()


def have_base(case: Case, archives: Bases, into: Court | Shell) -> None:
    """Loads the case's base image once."""
    if (id(into), case.base) in _loaded:
        return
    archive = archives.archive(case.base)
    if isinstance(into, Court):
        into.load(archive)
    else:
        into.good("load", "-q", "-i", archive)
    _loaded.add((id(into), case.base))


def check(found: set[str], case: Case, who: str) -> None:
    """Differences are those that the case explains, all of them."""
    known, unsteady = case.differs.get(who, {}).keys(), case.unsteady.get(who, {}).keys()
    assert found - unsteady == set(known), f"{case.name}, {who}: {case.why}"


@pytest.mark.parametrize("case", SAMPLE.values(), ids=SAMPLE)
def test_judges_agree(case: Case, court: Court, archives: Bases) -> None:
    have_base(case, archives, court)
    verdicts = court.verdicts(case)
    if case.fails:
        assert [judge for judge, verdict in verdicts.items() if isinstance(verdict, Built)] == []
        return
    refused = {judge: verdict.message[-800:] for judge, verdict in verdicts.items() if isinstance(verdict, Refused)}
    assert refused == {}
    reference, *others = case.builders
    for judge in others:
        older = (judge in case.older) != (reference in case.older)
        one, two = verdicts[reference], verdicts[judge]
        assert isinstance(one, Built) and isinstance(two, Built)
        check(differences(one, two, older=older), case, judge)


@pytest.mark.parametrize("case", [c for c in SAMPLE.values() if c.prints is not None], ids=lambda case: case.name)
def test_containers_print(case: Case, court: Court, archives: Bases) -> None:
    have_base(case, archives, court)
    judge = next(judge for judge in case.builders if judge != "buildah")
    assert isinstance(court.verdict(case, judge), Built)
    assert court.docker.prints(f"{judge}-{case.name}") == case.prints


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_we_build_the_same(case: Case, court: Court, shell: Shell, archives: Bases) -> None:
    have_base(case, archives, court)
    have_base(case, archives, shell)
    verdict = ours(case, shell, court.place)
    if case.fails:
        assert isinstance(verdict, Refused)
        assert re.search(case.fails, verdict.message), verdict.message
        assert "Traceback" not in verdict.message
        return
    assert isinstance(verdict, Built), verdict
    reference = case.builders[0]
    wanted = court.verdict(case, reference)
    assert isinstance(wanted, Built)
    check(differences(wanted, verdict, older=reference in case.older), case, "ours")
    assert not {f"/{name}" for name in verdict.tree} & set(case.stubs)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.prints is not None], ids=lambda case: case.name)
def test_our_containers_print(case: Case, court: Court, shell: Shell, archives: Bases, place: Path) -> None:
    have_base(case, archives, shell)
    name, archive = f"ours.invalid/{case.name}:1", place / "ours.tar"
    assert isinstance(ours(case, shell, court.place), Built)
    shell.good("save", "-o", archive, "--format", "docker-archive", name)
    court.docker.load(archive)
    assert court.docker.prints(name) == case.prints


# ---- substitution

NAMES = ("A", "B_1", "c", "LONG_NAME")
TEXTS = ("x", "", "a b", "é", "$", "it's", '"q"', "a=b", "-", "/p/q", "#", "\\t")


def reference(chance: random.Random) -> str:
    """A variable in one of the ways to name it."""
    name, text = chance.choice(NAMES), chance.choice(("d", "", "d,e", "$c", "${A}"))
    return chance.choice((f"${name}", f"${{{name}}}", f"${{{name}:-{text}}}", f"${{{name}:+{text}}}"))


def word(chance: random.Random) -> str:
    """A value as somebody could write it, of one to three parts."""
    parts = []
    for _ in range(chance.randrange(1, 4)):
        plain = re.sub(r"[^\wé/.-]", lambda found: "\\" + found[0], chance.choice(TEXTS))
        quoted = re.sub(r'["\\$]', lambda found: "\\" + found[0], chance.choice(TEXTS))
        single = chance.choice(TEXTS).replace("'", "")
        parts.append(
            chance.choice((plain, f'"{quoted}{reference(chance)}"', f"'{single}$A'", reference(chance), "\\$A"))
        )
    return "".join(parts)


def substitutions(seed: int) -> str:
    """A Dockerfile of nothing but settings, each made of those before it."""
    chance = random.Random(seed)
    lines = ["FROM fastlayer.invalid/busybox", "ARG A=first", "ARG c=$A B_1"]
    for number in range(60):
        name = chance.choice((*NAMES, f"V{number}", f"W{number}"))
        pairs = " ".join(
            f"{key}={word(chance)}" for key in dict.fromkeys((name, *chance.sample(NAMES, chance.randrange(3))))
        )
        rest = chance.choice(("a $A b", '"x $c" y', "\\$A ${B_1:-z z}", "it is ${c}"))
        forms = (f"ENV {pairs}", f"ENV {pairs}", f"ENV {name} {rest}", f"LABEL l{number}={word(chance)}")
        lines.append(chance.choice((*forms, f"ARG {name}={word(chance)}", f"ARG {name}", f"WORKDIR /w{number}$B_1")))
    return (
        "\n".join((*lines, "EXPOSE ${B_1:+80} 8${c:+1}", "VOLUME /v$A /w", "USER u$c", "STOPSIGNAL SIG${A:+TERM}"))
        + "\n"
    )


@pytest.mark.parametrize("seed", range(3))
def test_substitution(seed: int, court: Court, shell: Shell, archives: Bases, place: Path) -> None:
    """What ENV, ARG, LABEL and others make of variables, compared with BuildKit."""
    path = fresh(place / f"substitution-{seed}")
    (path / "Dockerfile").write_text(substitutions(seed))
    case = Case(f"substitution-{seed}", path, "variables", judges=("buildkit",))
    have_base(case, archives, court)
    have_base(case, archives, shell)
    wanted, found = court.verdict(case, "buildkit"), ours(case, shell, court.place)
    assert isinstance(wanted, Built), wanted
    assert isinstance(found, Built), found
    assert found.config == wanted.config and len(found.config["Env"]) > 4
