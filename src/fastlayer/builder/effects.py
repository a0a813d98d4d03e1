"""Instructions that change the configuration only: what each makes of a state, and the step in the history.

The texts of the history are those that Docker's builder writes (frontend/dockerfile/dockerfile2llb of BuildKit).
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile import instructions as said
from fastlayer.builder.dockerfile.shell import Budget, Lexer
from fastlayer.builder.options import PROXIES
from fastlayer.builder.state import State
from fastlayer.errors import DockerfileError
from fastlayer.oci.ports import parse_ports


class Given(NamedTuple):
    """What a build was given: ``arguments`` of --build-arg; ``globals``: the ARGs before the first FROM with their
    values, and the platforms' (TARGETARCH and the like); ``escape``: of the Dockerfile; ``budget``: of its texts."""

    arguments: Mapping[str, str]
    globals: Mapping[str, str]
    escape: str
    budget: Budget


def effect(state: State, command: said.Command, given: Given) -> State | None:
    """The state after an instruction that changes no file; None for one that may. Raises ``DockerfileError``."""
    action = _ACTIONS.get(type(command))
    return None if action is None else action(state, command, given)


def word(state: State, text: str, given: Given) -> str:
    """The text with its variables filled in."""
    return Lexer(given.escape, budget=given.budget).word(text, state.env)


def proxies(given: Given) -> dict[str, str]:
    """The build arguments that every RUN sees without an ARG, and no layer, cache key or history (reference, "ARG")."""
    return {name: value for name, value in given.arguments.items() if name.upper() in PROXIES}


def workdir(state: State, command: said.Workdir, given: Given) -> State:
    """With another working directory; making it is not done here."""
    path = word(state, command.path, given)
    if not path:
        raise DockerfileError(f"WORKDIR {command.path}: is empty")
    joined = posixpath.normpath(posixpath.join("/", state.directory, path))
    return state.with_run(working_dir="/" + joined.lstrip("/"))


# ---- one by one ------------------------------------------------------------------------------------


def _arg(state: State, command: said.Arg, given: Given) -> State:
    texts = []
    for name, default in command.values:
        value: str | None = None
        if name in given.arguments:
            value = given.arguments[name]
        elif default is not None:
            value = word(state, default, given)
        else:
            value = given.globals.get(name)
        env = state.env if value is None else {**state.env, name: value}
        state = state._replace(env=env, arguments={**state.arguments, name: value})
        texts.append(name if value is None else f"{name}={value}")
    return state.explained("ARG " + " ".join(texts))


def _env(state: State, command: said.Env, given: Given) -> State:
    """All values see the variables as they were before the instruction (reference, "Environment replacement")."""
    pairs = [(word(state, name, given), word(state, value, given)) for name, value in command.values]
    state = state.with_run(env=_with(state, dict(pairs)))
    state = state._replace(env={**state.env, **dict(pairs)})
    return state.explained("ENV" + "".join(f" {name}={value}" for name, value in pairs))


def _with(state: State, pairs: Mapping[str, str]) -> tuple[str, ...]:
    """The variables of the configuration and these, in the places that they have."""
    if pairs.keys() & state.env.keys():
        kept = dict(entry.partition("=")[::2] for entry in state.run.env)
        return tuple(f"{name}={value}" for name, value in {**kept, **pairs}.items())
    return (*state.run.env, *(f"{name}={value}" for name, value in pairs.items()))


def _label(state: State, command: said.Label, given: Given) -> State:
    pairs = [(word(state, name, given), word(state, value, given)) for name, value in command.values]
    state = state.with_run(labels={**state.run.labels, **dict(pairs)})
    return state.explained("LABEL" + "".join(f" {name}={value}" for name, value in pairs))


def _command_words(state: State, line: said.CommandLine) -> tuple[str, ...]:
    return (*state.shell, " ".join(line.words)) if line.shell else line.words


def _quoted(words: tuple[str, ...]) -> str:
    return "[" + " ".join(json.dumps(text, ensure_ascii=False) for text in words) + "]"


def _cmd(state: State, command: said.Cmd, _given: Given) -> State:
    words = _command_words(state, command.command)
    return state.with_run(cmd=words)._replace(own_cmd=True).explained(f"CMD {_quoted(words)}")


def _entrypoint(state: State, command: said.Entrypoint, _given: Given) -> State:
    """A CMD of the base image goes: it was meant for another entry point."""
    words = _command_words(state, command.command)
    state = state.with_run(entrypoint=words, cmd=state.run.cmd if state.own_cmd else None)
    return state.explained(f"ENTRYPOINT {_quoted(words)}")


def _user(state: State, command: said.User, given: Given) -> State:
    user = word(state, command.user, given)
    if not user:
        raise DockerfileError(f"USER {command.user}: is empty")
    return state.with_run(user=user).explained(f"USER {user}")


def _shell(state: State, command: said.Shell, _given: Given) -> State:
    return state.with_run(shell=command.words).explained(f"SHELL [{' '.join(command.words)}]")


def _volume(state: State, command: said.Volume, given: Given) -> State:
    paths = [word(state, path, given) for path in command.paths]
    if not all(paths):
        raise DockerfileError("VOLUME: a path is empty")
    state = state.with_run(volumes=tuple(sorted({*state.run.volumes, *paths})))
    return state.explained(f"VOLUME [{' '.join(paths)}]")


def _expose(state: State, command: said.Expose, given: Given) -> State:
    lexer = Lexer(given.escape, budget=given.budget)
    words = [found for port in command.ports for found in lexer.words(port, state.env)]
    ports: list[str] = []
    for text in words:
        try:
            ports += parse_ports(text)
        except ValueError as exc:
            raise DockerfileError(f"EXPOSE {text}: {exc}") from None
    state = state.with_run(exposed_ports=tuple(sorted({*state.run.exposed_ports, *ports})))
    return state.explained(f"EXPOSE [{' '.join(ports)}]")


def _stop_signal(state: State, command: said.StopSignal, given: Given) -> State:
    text = word(state, command.signal, given)
    from fastlayer.running.signals import number_of

    if number_of(text) is None:
        raise DockerfileError(f"STOPSIGNAL {text}: is no signal: give a name such as SIGTERM, or a number")
    return state.with_run(stop_signal=text).explained(f"STOPSIGNAL {text}")


def _healthcheck(state: State, command: said.Healthcheck, _given: Given) -> State:
    fields = {
        "Interval": command.interval,
        "Timeout": command.timeout,
        "StartPeriod": command.start_period,
        "StartInterval": command.start_interval,
        "Retries": command.retries,
    }
    value: dict[str, Any] = {"Test": list(command.test), **{name: number for name, number in fields.items() if number}}
    texts = [f"Test:[{' '.join(command.test)}]", *(f"{name}:{_shown(name, number)}" for name, number in fields.items())]
    return state.with_run(healthcheck=value).explained(f"HEALTHCHECK {{{' '.join(texts)}}}")


def _shown(name: str, number: int) -> str:
    """Numbers as they are, times in the unit that is whole."""
    if name == "Retries":
        return str(number)
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if number % size == 0:
            return f"{number // size}{unit}"
    return f"{number}ns"


def _onbuild(state: State, command: said.Onbuild, _given: Given) -> State:
    """For images that go on from this one; Docker writes no step for it."""
    return state.with_run(on_build=(*state.run.on_build, command.trigger))


def _maintainer(state: State, command: said.Maintainer, _given: Given) -> State:
    return state._replace(author=command.name).explained(f"MAINTAINER {command.name}")


_ACTIONS: dict[type, Callable[[State, Any, Given], State]] = {
    said.Arg: _arg,
    said.Cmd: _cmd,
    said.Entrypoint: _entrypoint,
    said.Env: _env,
    said.Expose: _expose,
    said.Healthcheck: _healthcheck,
    said.Label: _label,
    said.Maintainer: _maintainer,
    said.Onbuild: _onbuild,
    said.Shell: _shell,
    said.StopSignal: _stop_signal,
    said.User: _user,
    said.Volume: _volume,
}
