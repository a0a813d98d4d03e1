"""What ``fastlayer.run`` and ``fastlayer.create`` are given, as ``Options``: every value is of its kind, or refused.

A list in place of words, or one word in place of a list, is what people who come from other libraries write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlayer.errors import UsageError

_MOUNTS = ("volumes", "mounts", "tmpfs")


def options_of(given: Mapping[str, Any]) -> Any:
    """``Options`` of keywords; None is as if it had not been given. Raises ``UsageError``."""
    from fastlayer.container.options import Options

    found = {name: value for name, value in given.items() if value is not None}
    mounts = _mounts(found)
    if unknown := [name for name in found if name not in Options._fields]:
        raise UsageError(f"{unknown[0]}: there is no such option: {', '.join(sorted(Options._fields))}")
    checked = {name: _checked(name, value, Options._field_defaults[name]) for name, value in found.items()}
    return Options(**checked, mounts=mounts)


def text(what: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise UsageError(f"{what}: {value!r} is not a text")
    return value


def words(what: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | set | frozenset):
        raise UsageError(f"{what}: {value!r} is no list of words: give [{str(value)!r}]")
    return tuple(text(what, one) for one in value)


def command(value: Sequence[Any]) -> tuple[str, ...]:
    """The words of a program."""
    for one in value:
        if not isinstance(one, str):
            raise UsageError(
                f"the words of a program are texts of their own, as in run('debian', 'ls', '/'): not {one!r}"
            )
    return tuple(value)


def environment(value: Any) -> tuple[str, ...]:
    """A mapping, or ``NAME=value`` texts. None, or a name alone: the image's variable goes."""
    if isinstance(value, Mapping):
        return tuple(name if one is None else f"{name}={one}" for name, one in value.items())
    return words("env", value)


def data(what: str, value: Any) -> bytes | None:
    """Bytes, or None."""
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return value  # type: ignore[return-value]
    raise UsageError(f"{what}: {type(value).__name__} is not bytes: encode it")


def _mounts(given: dict[str, Any]) -> tuple[Any, ...]:
    """Takes them out."""
    from fastlayer.container import mountoptions

    parsers = (mountoptions.parse_volume, mountoptions.parse_mount, mountoptions.parse_tmpfs)
    return tuple(
        parse(text) for name, parse in zip(_MOUNTS, parsers, strict=True) for text in words(name, given.pop(name, ()))
    )


def _checked(name: str, value: Any, default: Any) -> Any:
    special: dict[str, Callable[[Any], Any]] = {
        "entrypoint": _entrypoint,
        "env": environment,
        "add_hosts": _hosts,
        "stop_timeout": lambda value: _number(name, value, int),
        "size": lambda value: _number(name, value, int),
        "user": lambda value: str(value) if type(value) is int else text(name, value),
    }
    if name in special:
        return special[name](value)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{name}: {value!r} is neither True nor False")
        return value
    if isinstance(default, int | float):
        return _number(name, value, type(default))
    if isinstance(default, str):
        return text(name, value)
    return _mapping(name, value) if isinstance(default, Mapping) else words(name, value)


def _entrypoint(value: Any) -> tuple[str, ...]:
    """A program, or its words; an empty one: none."""
    return words("entrypoint", value) if not isinstance(value, str) else (value,) if value else ()


def _number(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        what = "a whole number (sizes are bytes)" if kind is int else "a number"
        raise UsageError(f"{name}: {value!r} is not {what}")
    return value


def _mapping(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{name}: {value!r} is no mapping: give {{'KEY': 'value'}}")
    return {text(name, key): text(name, one) for key, one in value.items()}


def _hosts(value: Any) -> tuple[tuple[str, str], ...]:
    """A mapping from names to addresses, or pairs."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(pairs, str) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise UsageError(f"add_hosts: {value!r} is no mapping: give {{'name': '10.0.0.1'}}")
    return tuple((text("add_hosts", name), text("add_hosts", address)) for name, address in pairs)
