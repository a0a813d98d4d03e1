"""Registries that say no: status, the registry's own code and words (distribution-spec, "Error codes"), what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import RegistryDeniedError, RegistryError, RegistryMissingError
from fastlayer.oci.jsontext import parse_object
from fastlayer.registry.answers import Answer, number
from fastlayer.registry.lines import host_of, one_line

_LOGIN = "fastlayer login"  # to whom a registry does not let in
_ANEW = "log in anew:"
_ADVICE = re.compile(rf": (?:the login[^:]*, {_ANEW} )?{_LOGIN} .*", re.DOTALL)
MAX_ERROR = 64 << 10  # bytes of an answer that says no
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_WHEN = ("retry-after", "ratelimit-remaining", "ratelimit-reset")  # what says when to come again
_FEW = 3  # errors of one answer that are shown
_WORDS = {401: "wants a login", 403: "forbids it", 404: "has no such thing", 429: "too many requests"}


_PAGE = "an HTML page, which no registry sends: see its address, and what is in between"


class Refusal(NamedTuple):
    """What a registry says: its ``codes`` and the line for people."""

    codes: tuple[str, ...]
    said: str


def problem(answer: Answer, doing: str, registry: str, login: str = "") -> RegistryError:
    """The error for an answer that is none of those that were hoped for; reads and closes it.

    ``doing``: what was asked for, for people; ``registry``: ``HOST[:PORT]`` of the registry, for ``fastlayer login``;
    ``login``: the one that it has seen, such as ``the login of jane``.
    """
    host = host_of(answer.url)
    refusal = read_refusal(answer)
    said = f": {refusal.said}" if refusal.said else ""
    advice = _advice(answer, registry, login)
    kind = _kind(answer.status, refusal.codes)
    return kind(
        f"{host}: {doing}: status {answer.status}{_words(answer.status, refusal)}{said}{advice}",
        status=answer.status,
        code=refusal.codes[0] if refusal.codes else "",
        headers={name: answer.headers[name] for name in _WHEN if name in answer.headers},
        transient=answer.status in _LATER or "TOOMANYREQUESTS" in refusal.codes,
    )


def _kind(status: int, codes: tuple[str, ...]) -> type[RegistryError]:
    if "TOOMANYREQUESTS" in codes:
        return RegistryError
    if status in (401, 403):
        return RegistryDeniedError
    return RegistryMissingError if status == 404 else RegistryError


def _words(status: int, refusal: Refusal) -> str:
    """What the status means, where nobody says it better."""
    words = _WORDS.get(status, "")
    return f" ({words})" if words and not refusal.codes else ""


def without_advice(text: str) -> str:
    """A line of ``problem`` about a login, for who is logging in."""
    return _ADVICE.sub("", text)


def _advice(answer: Answer, registry: str, login: str) -> str:
    status = answer.status
    if status == 401:
        refused = f"{login} is not taken, {_ANEW} " if login else ""
        return f": {refused}{_LOGIN} {registry}"
    if status == 403:
        return f": see what this login may do, or log in as somebody else: {_LOGIN} {registry}"
    if status == 404:
        return ": see how it is called"
    if status == 429:
        return _wait(answer.headers)
    if status >= 500:
        return ": try again later"
    return ": see whether it is a registry" if 300 <= status < 400 else ""


def _wait(headers: Mapping[str, str]) -> str:
    seconds = number(headers.get("retry-after", ""))
    return f": try again in {seconds} s" if seconds is not None else ": try again later"


def read_refusal(answer: Answer) -> Refusal:
    """What the body of an answer says, in whatever form; never raises for one that is not as it should be."""
    try:
        with answer:
            data = answer.read_all(MAX_ERROR, cut=True)
    except RegistryError:
        return Refusal((), "")
    return refusal_of(data, answer.media_type)


def refusal_of(data: bytes, media_type: str) -> Refusal:
    """Of JSON as the specification has it, JSON of other kinds (token servers), text; HTML is named, not shown."""
    text = data.decode("utf-8", "replace").strip()
    if not text:
        return Refusal((), _PAGE if "html" in media_type else "")
    try:
        value = parse_object(data, "answer", MAX_ERROR)
    except Exception:  # a ManifestError of whatever it is instead
        value = None
    if value is not None:
        codes, said = _of_object(value)
        return Refusal(codes, one_line(said))
    if "html" in media_type or text[:200].lower().startswith(("<!doctype", "<html")):
        return Refusal((), _PAGE)
    return Refusal((), one_line(text))


def _of_object(value: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    errors = value.get("errors")
    found = [_of_error(item) for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    if not found:
        found = [_of_error(value)]
    codes = tuple(one_line(code) for code, _ in found if code)
    return codes, "; ".join(": ".join(filter(None, pair)) for pair in found[:_FEW])


def _of_error(value: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message; those of OAuth (RFC 6749, 5.2) and of token servers that say ``details`` are known too."""
    code = _text(value, "code", "error")
    message = _text(value, "message", "error_description", "details")
    detail = value.get("detail")
    if isinstance(detail, str) and detail and detail != message:
        message = f"{message}: {detail}" if message else detail
    return code, message


def warnings_of(header: str) -> list[str]:
    """What a registry wants people to know (distribution-spec, "Warnings": ``Warning: 299 - "TEXT"``)."""
    found = re.findall(r'299\s+\S+\s+"((?:[^"\\]|\\.)*)"', header[: 16 << 10])
    return [one_line(re.sub(r"\\(.)", r"\1", text)) for text in found]


def _text(value: Mapping[str, Any], *names: str) -> str:
    return next((value[name] for name in names if isinstance(value.get(name), str) and value[name]), "")
