"""Profiles in Docker's format, JSON (docs.docker.com, "Seccomp security profiles for Docker"), or podman's."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from typing import Any

from fastlayer.errors import UsageError
from fastlayer.running.seccomp import words
from fastlayer.running.seccomp.profile import Condition, Profile, Rule

LARGEST = 1 << 20  # bytes; the largest known have 30 KB
_MOST_ERRNO = 4095
_KERNEL = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(\.[0-9]+)?", re.ASCII)


def read_profile(data: bytes, name: str) -> Profile:
    """The profile in a file called ``name``. Raises ``UsageError``, which says where in it something is wrong."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{name}: not a seccomp profile: not JSON: {exc}") from None
    place = _Place(name)
    found = place.object(value)
    if "defaultAction" not in found:
        raise place.wrong("has no defaultAction: for no filter at all give seccomp=unconfined")
    rules: list[Rule] = []
    for number, entry in enumerate(place.list(found, "syscalls")):
        rules += _rules(_Place(f"{name}: syscalls[{number}]"), entry)
    default = _action(place, found, "defaultAction", "defaultErrnoRet", "defaultErrno")
    return Profile(default, tuple(rules), _others(place, found), _flags(place, found))


class _Place:
    """Where in a file we are, for messages."""

    def __init__(self, name: str) -> None:
        self.name = name

    def wrong(self, message: str) -> UsageError:
        return UsageError(f"{self.name}: {message}")

    def object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(f"is {_short(value)}, not an object")
        return value

    def list(self, value: dict[str, Any], key: str) -> list[Any]:
        found = value.get(key)
        if found is not None and not isinstance(found, list):
            raise self.wrong(f"{key} is {_short(found)}, not a list")
        return found or []

    def texts(self, value: dict[str, Any], key: str) -> tuple[str, ...]:
        found = self.list(value, key)
        if not all(isinstance(text, str) for text in found):
            raise self.wrong(f"{key} is a list of texts")
        return tuple(found)

    def number(self, value: dict[str, Any], key: str, most: int) -> int:
        found = value.get(key)
        if found is None:
            return 0
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= most:
            raise self.wrong(f"{key} is {_short(found)}: use a number from 0 to {most}")
        return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _action(place: _Place, value: dict[str, Any], key: str, number_key: str, name_key: str) -> int:
    """With the number that it gives: EPERM, where it says none."""
    name = value.get(key)
    if name == "SCMP_ACT_NOTIFY":
        raise place.wrong("SCMP_ACT_NOTIFY: nobody listens here who could answer: use another action")
    if not isinstance(name, str) or name not in words.ACTIONS:
        raise place.wrong(f"{key} {_short(name)} is unknown: use one of {', '.join(words.ACTIONS)}")
    action = words.ACTIONS[name]
    return action | _number(place, value, number_key, name_key) if action in words.WITH_NUMBER else action


def _number(place: _Place, value: dict[str, Any], number_key: str, name_key: str) -> int:
    if value.get(number_key) is not None:
        return place.number(value, number_key, _MOST_ERRNO)
    name = value.get(name_key) or "EPERM"
    found = getattr(errno, name, None) if isinstance(name, str) and name.isupper() else None
    if not isinstance(found, int):
        raise place.wrong(f"{name_key} {_short(name)} is no error of errno(3)")
    return found


def _others(place: _Place, value: dict[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    listed, mapped = place.texts(value, "architectures"), place.list(value, "archMap")
    if listed and mapped:
        raise place.wrong("has both architectures and archMap: use one of them")
    if listed:
        every = _known(listed)
        return tuple((name, every) for name in words.ARCHITECTURES.values())
    entries = [place.object(entry) for entry in mapped]
    pairs = [(str(entry.get("architecture")), place.texts(entry, "subArchitectures")) for entry in entries]
    return tuple((words.ARCHITECTURES[name], _known(others)) for name, others in pairs if name in words.ARCHITECTURES)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(words.ARCHITECTURES[name] for name in names if name in words.ARCHITECTURES)


def _flags(place: _Place, value: dict[str, Any]) -> int:
    found = 0
    for name in place.texts(value, "flags"):
        if name not in words.FLAGS:
            raise place.wrong(f"the flag {name} is unknown: use one of {', '.join(words.FLAGS)}")
        found |= words.FLAGS[name]
    return found


# ---- one rule ------------------------------------------------------------------------------------


def _rules(place: _Place, entry: Any) -> Iterator[Rule]:
    """One, or one for each condition where two of them are about the same argument, as runc has it."""
    value = place.object(entry)
    includes, excludes = (place.object(value.get(key) or {}) for key in ("includes", "excludes"))
    rule = Rule(
        _names(place, value),
        _action(place, value, "action", "errnoRet", "errno"),
        with_capabilities=place.texts(includes, "caps"),
        without_capabilities=place.texts(excludes, "caps"),
        machines=_machines(place, includes),
        other_machines=_machines(place, excludes),
        since=_kernel(place, includes) or (0, 0),
        until=_kernel(place, excludes),
    )
    conditions = tuple(_condition(place, argument) for argument in place.list(value, "args"))
    if len({condition.argument for condition in conditions}) == len(conditions):
        yield rule._replace(conditions=conditions)
    else:
        yield from (rule._replace(conditions=(condition,)) for condition in conditions)


def _names(place: _Place, value: dict[str, Any]) -> tuple[str, ...]:
    names, name = place.texts(value, "names"), value.get("name")
    if name and names:
        raise place.wrong("has both name and names: use names")
    if name is not None and not isinstance(name, str):
        raise place.wrong(f"name is {_short(name)}, not a text")
    return (name,) if name else names


def _machines(place: _Place, value: dict[str, Any]) -> tuple[str, ...]:
    return tuple(words.MACHINES.get(name, name) for name in place.texts(value, "arches"))


def _kernel(place: _Place, value: dict[str, Any]) -> tuple[int, int] | None:
    text = value.get("minKernel")
    if not text:
        return None
    found = _KERNEL.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise place.wrong(f"minKernel {_short(text)}: use a version as 4.8")
    return int(found[1]), int(found[2])


def _condition(place: _Place, entry: Any) -> Condition:
    value = place.object(entry)
    operator = value.get("op")
    if not isinstance(operator, str) or operator not in words.OPERATORS:
        raise place.wrong(f"op {_short(operator)} is unknown: use one of {', '.join(words.OPERATORS)}")
    one, two = (place.number(value, key, (1 << 64) - 1) for key in ("value", "valueTwo"))
    return Condition(place.number(value, "index", 5), words.OPERATORS[operator], one, two)
