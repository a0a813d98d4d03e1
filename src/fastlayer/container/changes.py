"""``commit --change``: Dockerfile instructions that change a configuration, as `docker commit` takes them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence

from fastlayer.errors import UsageError
from fastlayer.oci.config import RunConfig
from fastlayer.oci.duration import parse_duration

_SHELL = ("/bin/sh", "-c")
_OPTION = re.compile(r"--(?P<name>[a-z-]*)(?:=(?P<value>\S*))?(?:\s+|$)")
_DURATIONS = {  # option of HEALTHCHECK -> Docker's field
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
_PORT = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>tcp|udp|sctp))?", re.I | re.A)
_SHORTEST = 10**6  # ns: Docker refuses less than a millisecond


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


def _exec_form(text: str) -> tuple[str, ...] | None:
    """The words of a JSON array; None when it is none, and so a line for a shell."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _command(run: RunConfig, text: str) -> tuple[str, ...]:
    """The JSON form as it is, the shell form through the shell."""
    words = _exec_form(text)
    return (*(run.shell or _SHELL), text) if words is None else words


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise UsageError(f"--change: {text!r}: {exc}") from None


def _pairs(text: str) -> dict[str, str]:
    words = _words(text)
    if words and "=" not in words[0]:  # ENV NAME the rest of the line
        name, blank, value = text.partition(" ")
        if not blank:
            raise UsageError(f"--change: {text!r}: has no value: give NAME=VALUE")
        return {name: value.strip()}
    if not all("=" in word.lstrip("=") for word in words):
        raise UsageError(f"--change: {text!r}: give NAME=VALUE")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _env(run: RunConfig, text: str) -> RunConfig:
    env = dict(entry.partition("=")[::2] for entry in run.env)
    env.update(_pairs(text))
    return run._replace(env=tuple(f"{name}={value}" for name, value in env.items()))


def _ports(run: RunConfig, text: str) -> RunConfig:
    ports = {port for word in _words(text) for port in _ports_of(word)}
    return run._replace(exposed_ports=tuple(sorted({*run.exposed_ports, *ports})))


def _ports_of(word: str) -> list[str]:
    """Each port of ``80``, ``53/udp``, ``8000-8002/tcp``."""
    found = _PORT.fullmatch(word)
    first, last = (int(found["first"]), int(found["last"] or found["first"])) if found else (0, 0)
    if found is None or not 1 <= first <= last <= 65535:
        raise UsageError(f"--change: EXPOSE {word}: give PORT[-PORT][/tcp|udp|sctp], 1 to 65535")
    return [f"{port}/{(found['protocol'] or 'tcp').lower()}" for port in range(first, last + 1)]


def _volumes(run: RunConfig, text: str) -> RunConfig:
    words = _exec_form(text)
    names = tuple(_words(text)) if words is None else words
    return run._replace(volumes=tuple(sorted({*run.volumes, *names})))


def _workdir(run: RunConfig, text: str) -> RunConfig:
    import posixpath

    return run._replace(working_dir=posixpath.normpath(posixpath.join(run.working_dir or "/", text)))


def _entrypoint(run: RunConfig, text: str) -> RunConfig:
    return run._replace(entrypoint=_command(run, text), cmd=None)


def _shell(run: RunConfig, text: str) -> RunConfig:
    words = _exec_form(text)
    if not words:
        raise UsageError(f"--change: SHELL {text!r}: give a JSON array of strings")
    return run._replace(shell=words)


def _healthcheck(run: RunConfig, text: str) -> RunConfig:
    """``[OPTIONS] CMD COMMAND`` or ``NONE``; Docker's object, durations in nanoseconds, what is not given left out."""
    given: dict[str, str] = {}
    while option := _OPTION.match(text):
        given[option["name"]] = option["value"] or ""
        text = text[option.end() :]
    kind, command = [*text.split(None, 1), "", ""][:2]
    if kind.upper() == "NONE" and not command and not given:
        return run._replace(healthcheck={"Test": ["NONE"]})
    words = _exec_form(command)
    if kind.upper() != "CMD" or not command or words == ():
        raise UsageError(f"--change: HEALTHCHECK {text!r}: give CMD and a command, or NONE alone")
    test = ["CMD-SHELL", command] if words is None else ["CMD", *words]
    return run._replace(healthcheck={"Test": test, **_health_options(given)})


def _health_options(given: dict[str, str]) -> dict[str, int]:
    known = (*_DURATIONS, "retries")
    if unknown := given.keys() - set(known):
        raise UsageError(f"--change: HEALTHCHECK --{min(unknown)}: use one of --{', --'.join(known)}")
    try:
        found = {field: parse_duration(given[name]) for name, field in _DURATIONS.items() if name in given}
    except ValueError as exc:
        raise UsageError(f"--change: HEALTHCHECK: {exc}") from None
    if any(0 < value < _SHORTEST for value in found.values()):
        raise UsageError("--change: HEALTHCHECK: a time is less than 1ms: give more, or 0 for the default")
    retries = given.get("retries", "0")
    if not re.fullmatch("[0-9]{1,9}", retries):
        raise UsageError(f"--change: HEALTHCHECK --retries={retries}: give a number")
    found["Retries"] = int(retries)
    return {field: value for field, value in found.items() if value}


_ACTIONS: dict[str, Callable[[RunConfig, str], RunConfig]] = {
    "CMD": lambda run, text: run._replace(cmd=_command(run, text)),
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _ports,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda run, text: run._replace(labels={**run.labels, **_pairs(text)}),
    "ONBUILD": lambda run, text: run._replace(on_build=(*run.on_build, text)),
    "SHELL": _shell,
    "STOPSIGNAL": lambda run, text: run._replace(stop_signal=text),
    "USER": lambda run, text: run._replace(user=text),
    "VOLUME": _volumes,
    "WORKDIR": _workdir,
}
