"""Lists that come in pages: tags, repositories, referrers (distribution-spec, "Listing Tags"; RFC 8288)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from fastlayer.errors import RegistryError
from fastlayer.oci.jsontext import parse_object
from fastlayer.registry.answers import Answer
from fastlayer.registry.origins import follow, origin_of

MAX_PAGE = 8 << 20  # bytes
MAX_LIST = 32 << 20  # bytes of all pages
MAX_PAGES = 10_000
_LONGEST = 16 << 10  # characters of a header
_LINK = re.compile(r'\s*<([^>]*)>((?:\s*;\s*[^\s=;,]+\s*(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";,]*))?)*)\s*(?:,|$)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s";,]*))', re.IGNORECASE)


def pages(get: Callable[[str], Answer], url: str, what: str) -> Iterator[tuple[Answer, dict[str, Any]]]:
    """Each page's answer and object, from the one at ``url`` on. ``what``: for messages.

    Raises ``RegistryError`` for pages that lead back or away, ``ManifestError`` for what is no JSON.
    """
    seen: set[str] = set()
    size = 0
    while url:
        if url in seen or len(seen) >= MAX_PAGES:
            raise RegistryError(f"{what}: its pages lead in a circle: tell whoever runs the registry")
        seen.add(url)
        with get(url) as answer:
            data = answer.read_all(MAX_PAGE)
        size += len(data)
        if size > MAX_LIST:
            raise RegistryError(f"{what}: a list of more than {MAX_LIST >> 20} MiB: see whether it is a registry")
        yield answer, parse_object(data, what, MAX_PAGE)
        url = next_page(answer, what)


def next_page(answer: Answer, what: str) -> str:
    """The address of the next page, empty after the last."""
    target = next_link(answer.headers.get("link", ""))
    if not target:
        return ""
    url = follow(answer.url, target)
    if origin_of(url) != origin_of(answer.url):
        raise RegistryError(f"{what}: its next page is at another host: tell whoever runs the registry")
    return url


def next_link(text: str) -> str:
    """The target with the relation ``next`` in a ``Link`` header, empty when there is none."""
    text = " ".join(text[:_LONGEST].split())  # runs of spaces would take the pattern long
    at = 0
    while found := _LINK.match(text, at):
        relation = _REL.search(found[2])
        if relation and "next" in (relation[1] or relation[2] or "").lower().split():
            return found[1].strip()
        at = found.end()
    return ""


def strings(value: dict[str, Any], name: str, what: str) -> list[str]:
    """A list of strings in an object; one that is missing or null is empty."""
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise RegistryError(f"{what}: {name} is no list of names: see whether it is a registry")
    return found
