"""``WWW-Authenticate``: what a server wants to see (RFC 9110, 11.3 and 11.6.1).

A list of challenges, each a scheme and parameters, all separated by commas. Servers are careless with it: what cannot
be understood is left out, and nothing is raised.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastlayer._values import NamedTuple

_LONGEST = 16 << 10  # characters
_MANY = 64  # challenges, and parameters of one
_SPACE = " \t\r\n"
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Challenge(NamedTuple):
    """``scheme`` and the names of ``parameters`` in lower case."""

    scheme: str
    parameters: Mapping[str, str] = {}


def parse_challenges(text: str) -> tuple[Challenge, ...]:
    """What the header (or several, joined by commas) says, in its order."""
    text = text[:_LONGEST]
    found: list[tuple[str, dict[str, str]]] = []
    at = _skip(text, 0, _SPACE + ",")
    while at < len(text) and len(found) <= _MANY:
        end = _end_of_token(text, at)
        value_at = _after_equals(text, end)
        if end == at or (value_at >= 0 and not found):  # garbage: on with the next item
            at = _next_item(text, at)
        elif value_at >= 0:
            name = text[at:end].lower()
            value, at = _value(text, value_at)
            if len(found[-1][1]) < _MANY:
                found[-1][1].setdefault(name, value)
        else:
            found.append((text[at:end].lower(), {}))
            at = _after_scheme(text, end)
        at = _skip(text, at, _SPACE + ",")
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found[:_MANY])


def _after_scheme(text: str, at: int) -> int:
    """Behind the credentials of one token (``token68``) that a scheme may have instead of parameters."""
    start = _skip(text, at, _SPACE)
    end = _end_of_token(text, start)
    if start == at or (_after_equals(text, end) >= 0 and end > start):
        return start
    rest = text[start:].partition(",")[0].strip(_SPACE)
    return start if not rest or any(char in _SPACE + '"' for char in rest) else start + len(rest)


def _after_equals(text: str, at: int) -> int:
    """Where the value begins, when an equals sign follows that is not padding of base64; else -1."""
    at = _skip(text, at, _SPACE)
    if text[at : at + 1] != "=" or text[at + 1 : at + 2] == "=":
        return -1
    return _skip(text, at + 1, _SPACE)


def _value(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] == '"':
        return _quoted(text, at + 1)
    end = at
    while end < len(text) and text[end] not in _SPACE + ",":  # more than a token: addresses come unquoted too
        end += 1
    return text[at:end], end


def _quoted(text: str, at: int) -> tuple[str, int]:
    out: list[str] = []
    while at < len(text) and text[at] != '"':
        at += text[at] == "\\" and at + 1 < len(text)
        out.append(text[at])
        at += 1
    return "".join(out), at + 1


def _next_item(text: str, at: int) -> int:
    while at < len(text) and text[at] != ",":
        at = _quoted(text, at + 1)[1] if text[at] == '"' else at + 1
    return at


def _end_of_token(text: str, at: int) -> int:
    while at < len(text) and text[at] in _TOKEN:
        at += 1
    return at


def _skip(text: str, at: int, chars: str) -> int:
    while at < len(text) and text[at] in chars:
        at += 1
    return at
