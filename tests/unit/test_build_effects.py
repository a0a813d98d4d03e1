"""Instructions that change the configuration only. The texts of the history were taken from Docker's builder."""

from __future__ import annotations

import pytest

from fastlayer.builder.dockerfile.shell import Budget
from fastlayer.builder.dockerfile.stages import read
from fastlayer.builder.effects import Given, effect, proxies
from fastlayer.builder.state import State, begin, scratch
from fastlayer.errors import DockerfileError
from fastlayer.oci.platform import Platform

LINUX = Platform("linux", "amd64")


def run(text: str, state: State | None = None, **given: str) -> State:
    """What the instructions after FROM make of an empty image."""
    file = read(f"FROM scratch\n{text}\n".encode())
    state = begin(scratch(LINUX)) if state is None else state
    for command in file.stages[0].commands:
        after = effect(state, command, Given(given, {"TARGETARCH": "amd64", "GLOBAL": "of the file"}, "\\", Budget()))
        assert after is not None, command
        state = after
    return state


def said(state: State) -> list[str]:
    assert all(step.empty_layer for step in state.history)
    return [step.created_by for step in state.history]


def test_scratch_has_a_path_and_a_directory() -> None:
    state = run("")
    assert state.run.env == ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    assert state.run.working_dir == "/" and state.chain is None


def test_env_is_frozen_for_the_instruction() -> None:
    state = run("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc")
    assert state.run.env[1:] == ("abc=bye", "def=hello", "ghi=bye")
    assert said(state) == ["ENV abc=hello", "ENV abc=bye def=hello", "ENV ghi=bye"]


@pytest.mark.parametrize(
    "line,value",
    [
        ("ENV a b c", "b c"),
        ('ENV a="b c"', "b c"),
        ("ENV a=b\\ c", "b c"),
        ("ENV a=${none:-x}", "x"),
        ("ENV a=${PATH:+y}", "y"),
        ("ENV a=\\$PATH", "$PATH"),
        ("ENV a='$PATH'", "$PATH"),
    ],
)
def test_env_values(line: str, value: str) -> None:
    assert run(line).env["a"] == value


def test_arg_takes_what_was_given_then_its_default_then_the_files() -> None:
    state = run("ARG one=1\nARG two=2\nARG three\nARG GLOBAL\nARG TARGETARCH\nARG none", two="given")
    assert {name: state.env.get(name) for name in ("one", "two", "three", "GLOBAL", "TARGETARCH", "none")} == {
        "one": "1",
        "two": "given",
        "three": None,
        "GLOBAL": "of the file",
        "TARGETARCH": "amd64",
        "none": None,
    }
    assert said(state) == ["ARG one=1", "ARG two=given", "ARG three", "ARG GLOBAL=of the file",
                           "ARG TARGETARCH=amd64", "ARG none"]  # fmt: skip
    assert "one=1" not in state.run.env


def test_an_arg_that_was_not_declared_is_not_seen() -> None:
    assert "secret" not in run("ENV a=1", secret="x").env


def test_env_overrides_an_arg_before_it() -> None:
    state = run("ARG v=arg\nENV v=env\nENV w=$v")
    assert state.run.env[1:] == ("v=env", "w=env")


def test_a_stage_goes_on_with_the_args_of_its_base() -> None:
    after = begin(run("ARG v=1\nENV e=2"))
    assert after.env["v"] == "1" and after.env["e"] == "2"


def test_proxies_are_for_run_only() -> None:
    given = Given({"http_proxy": "p", "NO_PROXY": "n", "other": "o"}, {}, "\\", Budget())
    assert proxies(given) == {"http_proxy": "p", "NO_PROXY": "n"}


def test_entrypoint_drops_the_command_of_the_base_only() -> None:
    base = begin(run('CMD ["old"]'))
    assert run('ENTRYPOINT ["e"]', base).run.cmd is None
    assert run('CMD ["new"]\nENTRYPOINT ["e"]', base).run.cmd == ("new",)


def test_shell_forms() -> None:
    state = run('CMD echo $HOME\nSHELL ["/bin/bash", "-ec"]\nENTRYPOINT exec "a b"')
    assert state.run.cmd == ("/bin/sh", "-c", "echo $HOME")
    assert state.run.entrypoint == ("/bin/bash", "-ec", 'exec "a b"')
    assert said(state) == [
        'CMD ["/bin/sh" "-c" "echo $HOME"]',
        "SHELL [/bin/bash -ec]",
        'ENTRYPOINT ["/bin/bash" "-ec" "exec \\"a b\\""]',
    ]


def test_the_rest_of_the_configuration() -> None:
    state = run(
        "LABEL a=1 b='two words'\nUSER app:staff\nVOLUME /data /more\nEXPOSE 80 53/udp 8000-8001\nSTOPSIGNAL SIGQUIT\n"
        "MAINTAINER me\nHEALTHCHECK --interval=30s --retries=2 CMD curl -f x\nONBUILD RUN make"
    )
    run_config = state.run
    assert run_config.labels == {"a": "1", "b": "two words"}
    assert run_config.user == "app:staff" and run_config.stop_signal == "SIGQUIT" and state.author == "me"
    assert run_config.volumes == ("/data", "/more")
    assert run_config.exposed_ports == ("53/udp", "80/tcp", "8000/tcp", "8001/tcp")
    assert run_config.healthcheck == {"Test": ["CMD-SHELL", "curl -f x"], "Interval": 30 * 10**9, "Retries": 2}
    assert run_config.on_build == ("RUN make",)
    assert said(state)[:6] == [
        "LABEL a=1 b=two words",
        "USER app:staff",
        "VOLUME [/data /more]",
        "EXPOSE [53/udp 80/tcp 8000/tcp 8001/tcp]",
        "STOPSIGNAL SIGQUIT",
        "MAINTAINER me",
    ]
    assert len(state.history) == 7  # ONBUILD writes none


def test_what_is_kept_for_others_is_not_for_the_next_but_one() -> None:
    assert begin(run("ONBUILD RUN make")).run.on_build == ()


@pytest.mark.parametrize("signal", ["SIGTERM", "term", "9", "RTMIN+3", "SIGRTMAX-1"])
def test_signals(signal: str) -> None:
    assert run(f"STOPSIGNAL {signal}").run.stop_signal == signal


@pytest.mark.parametrize(
    "line,words",
    [
        ("STOPSIGNAL SIGNOTHING", "is no signal"),
        ("STOPSIGNAL 0", "is no signal"),
        ("STOPSIGNAL RTMIN+99", "is no signal"),
        ("EXPOSE 80/http", "give PORT"),
        ("EXPOSE 99999", "1 to 65535"),
        ("USER $none", "is empty"),
        ("VOLUME $none", "is empty"),
        ("ENV a=${b:?needed}", "needed"),
    ],
)
def test_what_means_nothing(line: str, words: str) -> None:
    with pytest.raises(DockerfileError, match=words):
        run(line)
