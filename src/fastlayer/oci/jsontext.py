"""JSON as manifests may be written: strict, bounded, and one line of error for everything else.

Go, Python and JavaScript read odd JSON differently (two equal keys, keys that differ in case only, NaN, surrogates). A
document that could mean different things to different readers is refused, for its digest names all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

from fastlayer.errors import ManifestError, UsageError

MAX_DEPTH = 64  # objects and arrays within each other
MAX_VALUES = 250_000  # in one document: each takes far more memory than its text
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{},]', re.DOTALL)
_COMMA = ord(",")
_MAX_DIGITS = 308  # of an integer: one that is longer is no number to readers that take all for floating point
_SHOWN = 60  # characters of a bad value that a message shows


def refuse(what: str, why: str) -> NoReturn:
    raise ManifestError(f"{what}: {why}")


def parse_object(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in ``data``, which may have ``limit`` bytes. ``ManifestError`` begins with ``what``."""
    value = _parse(data, what, limit)
    if not isinstance(value, dict):
        refuse(what, f"is a JSON {_kind(value)}, not an object")
    return value


def parse_objects(data: bytes, what: str, limit: int) -> list[dict[str, Any]]:
    """The JSON array of objects in ``data``."""
    value = _parse(data, what, limit)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        refuse(what, "is not a JSON array of objects")
    return value


def _parse(data: bytes, what: str, limit: int) -> Any:
    if len(data) > limit:
        refuse(what, f"has {len(data)} bytes; the limit is {limit}")
    _check_shape(data, what)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_pairs,
            parse_constant=_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except UnicodeDecodeError:
        refuse(what, "is not UTF-8 text")
    except (ValueError, RecursionError) as exc:  # the depth is bounded, but not how deep our caller is
        reason = "too deeply nested" if isinstance(exc, RecursionError) else str(exc).splitlines()[0]
        refuse(what, f"is not valid JSON ({reason})")
    if rb"\ud" in data.lower():
        _check_surrogates(value, what)
    return value


def _check_shape(data: bytes, what: str) -> None:
    """Depth and number of values, before anything is made of them."""
    openers = data.count(b"[") + data.count(b"{")
    if openers <= MAX_DEPTH and openers + data.count(b",") <= MAX_VALUES:
        return
    depth = values = 0
    for token in _TOKEN.finditer(data):
        first = data[token.start()]
        if first in b"]}":
            depth -= 1
        elif first in b"[{,":
            values += 1
            depth += first != _COMMA
            if depth > MAX_DEPTH:
                refuse(what, f"nests more than {MAX_DEPTH} objects and arrays")
            if values > MAX_VALUES:
                refuse(what, f"has more than {MAX_VALUES} values: do not use it")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {double[:_SHOWN]!a} occurs twice")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is too large")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


def _check_surrogates(value: Any, what: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        refuse(what, "has half a character (a lone surrogate) in a string")


def check_spelling(value: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """Refuses keys that differ from known ones in case only: Go's readers take them for the known ones."""
    folded = {key.lower(): key for key in known}
    for key in value:
        wanted = folded.get(key.lower())
        if wanted is not None and key != wanted:
            refuse(what, f"has {key!a} where {wanted} is meant")


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _wrong(what: str, key: str, wanted: str, value: Any) -> NoReturn:
    refuse(what, f"{key} is a JSON {_kind(value)}, not {wanted}")


def text(value: Mapping[str, Any], key: str, what: str) -> str:
    """A string, empty when absent or null, as Go reads it."""
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        _wrong(what, key, "a string", found)
    return found


def texts(value: Mapping[str, Any], key: str, what: str) -> tuple[str, ...]:
    """An array of strings, empty when absent or null."""
    return tuple(found for found in _array(value, key, what, str, "an array of strings"))


def text_map(value: Mapping[str, Any], key: str, what: str) -> dict[str, str]:
    """An object of strings, empty when absent or null."""
    found = mapping(value, key, what)
    if not all(isinstance(item, str) for item in found.values()):
        refuse(what, f"{key} does not map strings to strings")
    return cast(dict[str, str], found)


def objects(value: Mapping[str, Any], key: str, what: str) -> tuple[dict[str, Any], ...]:
    """An array of objects, empty when absent or null."""
    return tuple(_array(value, key, what, dict, "an array of objects"))


def mapping(value: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    """An object, empty when absent or null."""
    found = value.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        _wrong(what, key, "an object", found)
    return found


def truth(value: Mapping[str, Any], key: str, what: str) -> bool:
    """A truth value, false when absent or null."""
    found = value.get(key)
    if found is None:
        return False
    if not isinstance(found, bool):
        _wrong(what, key, "a truth value", found)
    return found


def _array(value: Mapping[str, Any], key: str, what: str, kind: type, wanted: str) -> list[Any]:
    found = value.get(key)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        _wrong(what, key, wanted, found) if not isinstance(found, list) else refuse(what, f"{key} is not {wanted}")
    return cast(list[Any], found)


def schema_two(value: Mapping[str, Any], what: str) -> None:
    """``schemaVersion`` must be 2 (image-spec manifest.md, image-index.md)."""
    version = value.get("schemaVersion")
    if version == 1 and not isinstance(version, bool):
        refuse(what, "is a Docker schema 1 manifest, which has been retired: pull or build the image again")
    if version != 2 or isinstance(version, bool | float):
        refuse(what, "schemaVersion is not 2")


def write(value: Any) -> bytes:
    """Compact JSON in UTF-8, keys in the order given, ``<``, ``>`` and ``&`` as they are.

    Raises ``UsageError`` for text that is no UTF-8, which Python holds as lone surrogates.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        part = ascii(text[max(0, exc.start - 20) : exc.end + 20])
        raise UsageError(f"{part}: is not UTF-8, as all text of an image has to be") from None
