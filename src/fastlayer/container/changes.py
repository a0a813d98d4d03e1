"""``commit --change``: Dockerfile instructions that change a configuration, as `docker commit` takes them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence

from fastlayer.errors import UsageError
from fastlayer.oci.config import RunConfig


def apply_changes(run: RunConfig, instructions: Sequence[str]) -> RunConfig:
    """The configuration after the instructions. Raises ``UsageError`` for one that cannot be used here."""
    for text in instructions:
        word, _, rest = text.strip().partition(" ")
        action = _ACTIONS.get(word.upper())
        if action is None:
            raise UsageError(f"--change {text!r}: {word} cannot be used: use one of {', '.join(sorted(_ACTIONS))}")
        if not rest.strip():
            raise UsageError(f"--change {text!r}: needs a value")
        run = action(run, rest.strip())
    return run


def _command(text: str) -> tuple[str, ...]:
    """The JSON form as it is, the shell form through the shell."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
    return ("/bin/sh", "-c", text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--change: {text!r}: {exc}") from None


def _pairs(text: str) -> dict[str, str]:
    words = _words(text)
    if words and "=" not in words[0]:  # ENV NAME the rest of the line
        name, _, value = text.partition(" ")
        return {name: value.strip()}
    if not all("=" in word.lstrip("=") for word in words):
        raise UsageError(f"--change: {text!r}: give NAME=VALUE")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _env(run: RunConfig, text: str) -> RunConfig:
    env = dict(entry.partition("=")[::2] for entry in run.env)
    env.update(_pairs(text))
    return run._replace(env=tuple(f"{name}={value}" for name, value in env.items()))


def _ports(run: RunConfig, text: str) -> RunConfig:
    ports = {port if "/" in port else f"{port}/tcp" for port in _words(text)}
    return run._replace(exposed_ports=tuple(sorted({*run.exposed_ports, *ports})))


def _volumes(run: RunConfig, text: str) -> RunConfig:
    names = _command(text) if text.startswith("[") else tuple(_words(text))
    return run._replace(volumes=tuple(sorted({*run.volumes, *names})))


def _workdir(run: RunConfig, text: str) -> RunConfig:
    import posixpath

    return run._replace(working_dir=posixpath.normpath(posixpath.join(run.working_dir or "/", text)))


def _entrypoint(run: RunConfig, text: str) -> RunConfig:
    return run._replace(entrypoint=_command(text), cmd=None)


_ACTIONS: dict[str, Callable[[RunConfig, str], RunConfig]] = {
    "CMD": lambda run, text: run._replace(cmd=_command(text)),
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _ports,
    "LABEL": lambda run, text: run._replace(labels={**run.labels, **_pairs(text)}),
    "ONBUILD": lambda run, text: run._replace(on_build=(*run.on_build, text)),
    "STOPSIGNAL": lambda run, text: run._replace(stop_signal=text),
    "USER": lambda run, text: run._replace(user=text),
    "VOLUME": _volumes,
    "WORKDIR": _workdir,
}
