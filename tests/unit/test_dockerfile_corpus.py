"""The corpus of Dockerfiles that judges build: what it covers, and that our parser understands all of it."""

from __future__ import annotations

import re

import pytest

from fastlayer.builder.dockerfile.instructions import Add, Command, Copy, Onbuild, Run
from fastlayer.builder.dockerfile.mounts import TYPES
from fastlayer.builder.dockerfile.stages import Dockerfile, read
from fastlayer.builder.graph import plan
from fastlayer.errors import DockerfileError
from tests.integration.buildcases import CORPUS, JUDGES, Case, cases

CASES = {case.name: case for case in cases()}
PLATFORMS = {
    "TARGETPLATFORM": "linux/amd64",
    "BUILDPLATFORM": "linux/amd64",
    "TARGETOS": "linux",
    "TARGETARCH": "amd64",
}
REFUSED_WHEN_READ = (
    "heredoc-open", "onbuild-forbidden", "refused-later-stage", "refused-own-stage", "refused-unknown-target",
    "refused-unknown-instruction", "refused-unknown-flag", "refused-no-from", "refused-empty", "refused-half-a-pair",
    "refused-bad-mount",
)  # fmt: skip


def planned(case: Case, file: str = "") -> None:
    path = case.path / file if file else case.dockerfile
    plan(read(path.read_bytes(), path.name), case.target, case.args, PLATFORMS)


def built() -> list[Dockerfile]:
    return [read(case.dockerfile.read_bytes()) for case in CASES.values() if not case.fails]


def commands(file: Dockerfile) -> list[Command]:
    return [command for stage in file.stages for command in stage.commands]


@pytest.mark.parametrize("case", [c for c in CASES.values() if not c.fails], ids=lambda case: case.name)
def test_what_is_built_is_understood(case: Case) -> None:
    planned(case)
    if case.older:
        planned(case, "Dockerfile.older")


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.fails], ids=lambda case: case.name)
def test_what_is_wrong_is_refused(case: Case) -> None:
    """What can be seen in the file alone is refused before anything is built, in the words of the case."""
    try:
        planned(case)
    except DockerfileError as exc:
        assert case.name in REFUSED_WHEN_READ and case.fails and re.search(case.fails, str(exc)), exc
    else:
        assert case.name not in REFUSED_WHEN_READ


def test_every_folder_is_a_case() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(CASES) and len(CASES) >= 60


def test_cases_are_sound() -> None:
    for case in CASES.values():
        assert case.why, case.name
        assert set(case.judges) | set(case.older) <= set(JUDGES) and not set(case.judges) & set(case.older), case.name
        assert bool(case.older) == (case.path / "Dockerfile.older").exists(), case.name
        assert case.builders or case.fails, f"{case.name}: nobody judges it"
        for known in (case.differs, case.unsteady):
            assert known.keys() <= {*JUDGES, "ours"} and all(why for say in known.values() for why in say.values())


def test_the_corpus_has_the_whole_language() -> None:
    files = built()
    found = {command.at.keyword for file in files for command in commands(file)}
    keywords = """add arg cmd copy entrypoint env expose healthcheck label maintainer onbuild run shell stopsignal
        user volume workdir"""
    assert found == set(keywords.split())
    flags = {
        f"{command.at.keyword} {flag.partition('=')[0]}"
        for file in files
        for command in commands(file)
        for flag in (command.at.trigger or command.at).flags
    }
    wanted = """copy --from, copy --chown, copy --chmod, copy --link, copy --parents, copy --exclude, add --chown,
        add --chmod, add --checksum, add --unpack, run --mount, run --network, run --security,
        healthcheck --interval, healthcheck --timeout, healthcheck --start-period, healthcheck --retries"""
    assert {flag.strip() for flag in wanted.split(",")} <= flags
    mounts = " ".join(mount for f in files for c in commands(f) if isinstance(c, Run) for mount in c.mounts)
    assert all(f"type={kind}" in mounts for kind in TYPES)
    triggers = [command for file in files for command in commands(file) if isinstance(command, Onbuild)]
    assert len(triggers) > 5
    heredocs = [type(c) for f in files for c in commands(f) if c.at.heredocs]
    assert {Run, Copy, Add} <= set(heredocs)
    assert sum(len(file.stages) > 1 for file in files) > 15
