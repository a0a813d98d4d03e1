"""What the language means by white space, and how it splits words (docs.docker.com, Dockerfile reference, "Format").

Words keep their quotes and escapes here: what they mean is said when variables are filled in (``shell.py``).
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from fastlayer.errors import DockerfileError

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_ASCII = "\t\n\v\f\r "  # what ends a flag
_BLANKS = re.compile("[\t\v\f\r ]+")


def split_first(text: str) -> tuple[str, str]:
    """The first word and the rest, which begins where the blanks between them end."""
    parts = _BLANKS.split(text, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def by_blanks(text: str) -> list[str]:
    """Split at blanks, whatever is quoted."""
    return _BLANKS.split(text) if text else []


def words(text: str, escape: str) -> list[str]:
    """Split at white space that is neither quoted nor escaped. An escape at the very end goes."""
    found: list[str] = []
    word: list[str] = []
    quote, begun, at = "", False, 0
    while at < len(text):
        char = text[at]
        at += 1
        if not quote and char in SPACES:
            if begun:
                found.append("".join(word))
            word, begun = [], False
            continue
        if char == escape and quote != "'":
            if at == len(text):
                quote = ""
                break
            word += (char, text[at])
            at += 1
            begun = True
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        word.append(char)
        begun = True
    if begun:
        found.append("".join(word))
    return found


def flags(text: str) -> tuple[list[str], str]:
    """The ``--flags`` in front, without their quotes and escapes, and the rest. ``--`` alone ends them.

    The escape is a backslash here, whatever the directive `escape` says.
    """
    found: list[str] = []
    at = 0
    while True:
        while at < len(text) and text[at] in _ASCII:
            at += 1
        if not text.startswith("--", at):
            return found, text[at:]
        flag, at = _flag(text, at)
        if flag == "--":
            return found, text[at:]
        found.append(flag)


def _flag(text: str, at: int) -> tuple[str, int]:
    word, quote = [], ""
    while at < len(text):
        char = text[at]
        if not quote and char in _ASCII:
            break
        at += 1
        if char == "\\":
            if at == len(text):
                break
            word.append(text[at])
            at += 1
        elif quote:
            word.append("" if char == quote else char)
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            word.append(char)
    return "".join(word), at


def pairs(text: str, escape: str, keyword: str) -> list[str]:
    """``NAME=VALUE ...`` or ``NAME the rest``: names and values in turn."""
    found = words(text, escape)
    if not found:
        return []
    if "=" not in found[0]:
        name, value = split_first(text)
        if not value and len(_BLANKS.split(text, maxsplit=1)) < 2:
            raise DockerfileError(f"{keyword} {name}: has no value: write {keyword} {name}=VALUE")
        return [name, value]
    flat: list[str] = []
    for word in found:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"{keyword}: {word} has no `=`: write NAME=VALUE, and quote values with spaces")
        flat += (name, value)
    return flat


def json_strings(text: str) -> list[str] | None:
    """The strings of a JSON array; None when it is none (then it is meant for a shell).

    Raises ``DockerfileError`` for an array that holds anything but strings.
    """
    text = text.lstrip(SPACES)
    if not text.startswith("["):
        return None
    try:
        value: Any = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise DockerfileError("in the JSON form everything must be a string in double quotes")
    return [item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in value]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which Python would take
