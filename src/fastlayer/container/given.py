"""What ``run``, ``create`` and the methods of containers are given: every value is of its kind, or refused."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastlayer._checked import mapping, number, text, truth, whole, words
from fastlayer.errors import UsageError

_CHECKS: tuple[tuple[Any, Callable[[str, Any], Any]], ...] = (  # by the default of an option; a bool is an int, too
    (bool, truth),
    (int, whole),
    (float, number),
    (str, text),
    (Mapping, mapping),
    (Sequence, words),
)
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


def user(name: str, value: Any) -> str:
    """A name or a number."""
    return str(value) if type(value) is int else text(name, value)


def count(name: str, value: Any) -> int | None:
    """A whole number from 0, or None."""
    if value is not None and whole(name, value) < 0:
        raise UsageError(f"{name}: {value} is below 0")
    return value  # type: ignore[no-any-return]


def data(what: str, value: Any) -> bytes | None:
    """Bytes, or None."""
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return value  # type: ignore[return-value]
    raise UsageError(f"{what}: {type(value).__name__} is not bytes: encode it")


def path(name: str, value: Any) -> bytes:
    """A path in the container, or outside."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise UsageError(f"{name}: {value!r} is not a path")
    if b"\0" in os.fsencode(value):
        raise UsageError(f"{name}: {value!r} has a null byte in it")
    if not os.fsencode(value):
        raise UsageError(f"{name}: the path is empty: `.` is the current directory, `/` the root")
    return os.fsencode(value)


def file(name: str, value: Any, use: str) -> Any:
    """A path, an open descriptor, or a binary file to ``read`` or ``write``."""
    if isinstance(value, str | bytes | os.PathLike):
        return path(name, value)
    if isinstance(value, io.TextIOBase):
        raise UsageError(f"{name}: is an open text file: open it in binary mode")
    if isinstance(value, io.IOBase) and (value.closed or not (value.readable if use == "read" else value.writable)()):
        raise UsageError(f"{name}: is a file that is not open to {use}")
    if type(value) is int or hasattr(value, use):
        return value
    raise UsageError(f"{name}: {type(value).__name__} is neither a path, a descriptor nor a binary file")


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
        "stop_timeout": lambda value: whole(name, value),
        "size": lambda value: whole(name, value),
        "user": lambda value: user(name, value),
    }
    if name in special:
        return special[name](value)
    for kind, check in _CHECKS:
        if isinstance(default, kind):
            return check(name, value)
    raise AssertionError(name)


def _entrypoint(value: Any) -> tuple[str, ...]:
    """A program, or its words; an empty one: none."""
    return words("entrypoint", value) if not isinstance(value, str) else (value,) if value else ()


def _hosts(value: Any) -> tuple[tuple[str, str], ...]:
    """A mapping from names to addresses, or pairs."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(pairs, str) or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise UsageError(f"add_hosts: {value!r} is no mapping: give {{'name': '10.0.0.1'}}")
    return tuple((text("add_hosts", name), text("add_hosts", address)) for name, address in pairs)
