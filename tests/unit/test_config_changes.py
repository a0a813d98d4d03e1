"""--change of commit and import: what each instruction makes of a configuration, in Docker's fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.changes import apply_changes
from fastlayer.errors import UsageError
from fastlayer.image.images import Images
from fastlayer.oci.config import RunConfig
from fastlayer.store.store import existing_store
from tests.shell import Shell
from tests.stores import tree

S = 10**9


def changed(*instructions: str, before: RunConfig | None = None) -> dict[str, Any]:
    return apply_changes(before or RunConfig(), instructions).to_dict()


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("NONE", {"Test": ["NONE"]}),
        ("none", {"Test": ["NONE"]}),
        ("CMD curl -f http://x/ || exit 1", {"Test": ["CMD-SHELL", "curl -f http://x/ || exit 1"]}),
        ('CMD ["a", "b c"]', {"Test": ["CMD", "a", "b c"]}),
        ("CMD [ -e /run/up ]", {"Test": ["CMD-SHELL", "[ -e /run/up ]"]}),
        ("cmd\ttrue", {"Test": ["CMD-SHELL", "true"]}),
        ("--interval=1m30s CMD true", {"Test": ["CMD-SHELL", "true"], "Interval": 90 * S}),
        (
            "--retries=3 --timeout=500ms --start-period=1h --start-interval=1.5s --interval=10s  CMD true --x=y",
            {
                "Test": ["CMD-SHELL", "true --x=y"],
                "Interval": 10 * S,
                "Timeout": S // 2,
                "StartPeriod": 3600 * S,
                "StartInterval": 3 * S // 2,
                "Retries": 3,
            },
        ),
        ("--interval=0 --retries=0 CMD true", {"Test": ["CMD-SHELL", "true"]}),
    ],
)
def test_healthchecks(text: str, wanted: dict[str, Any]) -> None:
    found = changed(f"HEALTHCHECK {text}")["Healthcheck"]
    assert found == wanted and list(found) == list(wanted)


@pytest.mark.parametrize(
    "text, why",
    [
        ("CMD", "HEALTHCHECK CMD needs a command"),
        ("CMD []", "HEALTHCHECK CMD needs a command"),
        ("true", "use HEALTHCHECK CMD or HEALTHCHECK NONE"),
        ("NONE now", "HEALTHCHECK NONE takes no arguments"),
        ("--interval=1s NONE", "HEALTHCHECK has no flag --interval"),
        ("--interval=1s", "needs at least one argument"),
        ("--every=1s CMD true", "HEALTHCHECK has no flag --every"),
        ("--interval=5 CMD true", "'5' is no duration"),
        ("--interval CMD true", "--interval needs a value"),
        ("--timeout=1us CMD true", "less than 1ms"),
        ("--retries=-1 CMD true", "--retries=-1: use a number, 0 or more"),
    ],
)
def test_what_is_no_healthcheck(text: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed(f"HEALTHCHECK {text}")
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_shell() -> None:
    """Later commands in the shell form go through it, and through the one of the image."""
    assert changed('SHELL ["/bin/bash", "-c"]') == {"Shell": ["/bin/bash", "-c"]}
    found = changed('SHELL ["bash", "-ec"]', "ENTRYPOINT run me", "CMD x y")
    assert found["Entrypoint"] == ["bash", "-ec", "run me"] and found["Cmd"] == ["bash", "-ec", "x y"]
    assert changed("CMD x", before=RunConfig(shell=("ash", "-c")))["Cmd"] == ["ash", "-c", "x"]
    assert changed("CMD x")["Cmd"] == ["/bin/sh", "-c", "x"] and changed('CMD ["x"]')["Cmd"] == ["x"]
    for text in ("bash -c", "[]", '{"a": 1}'):
        with pytest.raises(UsageError, match="SHELL needs the JSON form"):
            changed(f"SHELL {text}")
    with pytest.raises(UsageError, match="': in the JSON form everything must be a string"):
        changed('SHELL ["a", 1]')


def test_import_and_commit_take_them(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store")
    shell.good("import", tree(tmp_path / "root", {"a": "1"}), "base", "-c", "HEALTHCHECK --retries=2 CMD true")
    with existing_store(shell.root) as store:
        writable.create(store, Images(store).find("base"), "work")
    shell.good("commit", "work", "same", "-c", 'SHELL ["bash", "-c"]')
    config = json.loads(shell.good("inspect", "same"))[0]["Config"]
    assert config == {"Shell": ["bash", "-c"], "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Retries": 2}}
    shell.good("commit", "work", "none", "-c", "HEALTHCHECK NONE")
    assert shell.good("inspect", "-f", "{{.Config.Healthcheck.Test}}", "none") == "[NONE]\n"
    line = shell.refused("commit", "work", "x", "-c", "RUN x", code=2)
    assert "HEALTHCHECK, LABEL, ONBUILD, SHELL, " in line


def test_the_docs_name_them_all() -> None:
    from fastlayer.cli import commit, import_image
    from fastlayer.container.changes import ALLOWED

    names = sorted(ALLOWED)
    listed = f"{', '.join(names[:-1])} or {names[-1]}."
    for command in (commit.command, import_image.command):
        (option,) = (one for one in command.options if one.name == "change")
        assert option.settings["help"] == listed
    docs = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    assert f"{', '.join(names[:-1])} and {names[-1]}, as in a Dockerfile" in " ".join(docs.split())


def test_what_is_not_known_is_kept() -> None:
    value = {"Healthcheck": {"Test": ["CMD", "x"], "New": {"a": [1]}}, "Hostname": "h", "Other": None}
    before = RunConfig.from_dict(value, "x")
    assert changed("USER me", before=before) == {**value, "User": "me"}


BEFORE = RunConfig(env=("PATH=/bin", "HOME=/root", "EMPTY="), working_dir="/srv", cmd=("sh",), entrypoint=("e",))


@pytest.mark.parametrize(
    "instructions, field, wanted",
    [
        (["ENV PATH=/opt/bin:$PATH"], "Env", ["PATH=/opt/bin:/bin", "HOME=/root", "EMPTY="]),
        (
            ["ENV A=1 PATH=$A", "ENV B=${A}2 C='$A' D=\"$A b\""],
            "Env",
            ["PATH=", "HOME=/root", "EMPTY=", "A=1", "B=12", "C=$A", "D=1 b"],
        ),
        (["ENV A the rest of $HOME"], "Env", ["PATH=/bin", "HOME=/root", "EMPTY=", "A=the rest of /root"]),
        (["LABEL a=$HOME b=${NONE:-c}"], "Labels", {"a": "/root", "b": "c"}),
        (["WORKDIR $HOME/x"], "WorkingDir", "/root/x"),
        (["WORKDIR //x/../y"], "WorkingDir", "/y"),
        (["USER ${EMPTY:-me}"], "User", "me"),
        (['VOLUME ["$HOME", "/a b"]', "VOLUME $HOME/v"], "Volumes", {"/root": {}, "/a b": {}, "/root/v": {}}),
        (["ENV P=80", "EXPOSE $P/udp"], "ExposedPorts", {"80/udp": {}}),
        (["CMD echo $HOME"], "Cmd", ["/bin/sh", "-c", "echo $HOME"]),
        (["ONBUILD RUN echo $HOME"], "OnBuild", ["RUN echo $HOME"]),
        (["STOPSIGNAL kill", "STOPSIGNAL SIGRTMIN+3"], "StopSignal", "SIGRTMIN+3"),
        (["STOPSIGNAL 9"], "StopSignal", "9"),
        (['CMD ["new"]', 'ENTRYPOINT ["x"]'], "Cmd", ["new"]),
        (['CMD ["new"]', 'ENTRYPOINT ["x"]', 'CMD ["newer"]'], "Cmd", ["newer"]),
        (['ENTRYPOINT ["x"]'], "Cmd", None),
    ],
)
def test_variables_and_what_goes_together(instructions: list[str], field: str, wanted: Any) -> None:
    assert changed(*instructions, before=BEFORE).get(field) == wanted


@pytest.mark.parametrize(
    "text, why",
    [
        ("ENV A=${", "ENV|substitution|unexpected|{"),
        ("ENV A='x", "A='x"),
        ("STOPSIGNAL nope", "STOPSIGNAL nope: is no signal"),
        ("STOPSIGNAL 65", "STOPSIGNAL 65: is no signal"),
        ("STOPSIGNAL SIGRTMIN+16", "is no signal"),
        ("ONBUILD FROM x", "ONBUILD FROM is not allowed"),
        ("ONBUILD onbuild RUN x", "ONBUILD ONBUILD is not allowed"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        changed(text)
