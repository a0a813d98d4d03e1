"""``--filter KEY=VALUE``: which things of a list are meant. Docker's keys, and what they mean there.

Of the same key one value has to fit, of different keys each; but, as in Docker, all labels that are asked for must be
there. ``until`` and ``label!``, which keep images from being removed, each do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.cli import stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from datetime import datetime

    from fastlayer.container.mounted import Mounted
    from fastlayer.container.writable import Writable
    from fastlayer.image.images import Image, Images
    from fastlayer.store.store import Store
    from fastlayer.volume.books import Volume

F = TypeVar("F", bound=Callable[..., Any])
Filters = dict[str, list[str]]  # key -> values, in the order given
_TRUTHS = ("dangling", "writable", "all")
_YES, _NO = ("true", "1", "t", "True", "TRUE"), ("false", "0", "f", "False", "FALSE")


def filter_option(*keys: str, short: bool = False) -> Callable[[F], F]:
    """--filter, which may be given many times; ``keys``: those there are, ``label!`` for ``label!=``.

    ``short``: as -f, too, as in Docker's lists.
    """
    shown = ", ".join(f"{key}=" for key in keys)
    return declare.option(
        *(("-f",) if short else ()),
        "--filter",
        "filters",
        multiple=True,
        metavar="KEY=VALUE",
        callback=lambda words: _parsed(words, keys),
        help=f"Only what fits: {shown}.",
    )


def _parsed(words: Sequence[str], keys: Collection[str]) -> Filters:
    found: Filters = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in keys:
            known = ", ".join(f"{key}=" for key in keys)
            raise declare.LineError(f"--filter {word!a}: there is no such filter: use {known}")
        found.setdefault(key, []).append(value)
    for key in _TRUTHS:
        truth(found, key)
    for value in found.get("until", ()):
        until(value)
    for value in found.get("reference", ()):
        path_match(value)
    return found


def truth(filters: Filters, key: str) -> set[bool]:
    """The values of a key that is true or false; empty when it was not given."""
    values = set()
    for value in filters.get(key, ()):
        if value not in (*_YES, *_NO):
            raise declare.LineError(f"--filter {key}={value}: give {key}=true or {key}=false")
        values.add(value in _YES)
    return values


def path_match(pattern: str) -> Callable[[str], bool]:
    """Go's path.Match: ``*`` and ``?`` stand for no slash. Raises ``declare.LineError`` for no pattern."""
    parts, rest = [""], pattern  # between the stars
    while rest:
        found = re.match(_PIECE, rest)
        if found is None:
            raise declare.LineError(f"{pattern!a} is no pattern: close the bracket, or write \\[ for one")
        rest = rest[found.end() :]
        if found[0].startswith("*"):
            parts.append("")
        else:
            parts[-1] += _as_regex(found)
    expression = parts[0]
    if parts[1:]:  # the first place where a part fits will do: no way back, so no pattern takes long
        expression += "".join(f"(?>[^/]*?{part})" for part in parts[1:-1]) + f"[^/]*{parts[-1]}"
    try:
        compiled = re.compile(expression, re.DOTALL)
    except re.error:
        raise declare.LineError(f"{pattern!a} is no pattern: a range in brackets goes from low to high") from None
    return lambda text: compiled.fullmatch(text) is not None


_CHAR = r"(?:\\.|[^\\\]-])"  # in brackets
_PIECE = rf"(?s)\*+|\?|\[(?P<not>\^?)(?P<set>(?:{_CHAR}(?:-{_CHAR})?)+)\]|\\(?P<quoted>.)|[^*?\[\\]+"


def _as_regex(piece: re.Match[str]) -> str:
    if piece["set"] is not None:
        inner = re.sub(
            r"\\?(.)", lambda char: "-" if char[0] == "-" else re.escape(char[1]), piece["set"], flags=re.DOTALL
        )
        return f"[{piece['not']}{inner}]"
    if piece["quoted"] is not None:
        return re.escape(piece["quoted"])
    return "[^/]" if piece[0] == "?" else re.escape(piece[0])


# ---- images ----------------------------------------------------------------------------------------


class ImageFilter:
    """Which images are meant. What is known of each is looked at before any document is read."""

    def __init__(self, images: Images, filters: Filters) -> None:
        self._images = images
        self._dangling = truth(filters, "dangling")
        self._before = [self._moment_of(name) for name in filters.get("before", ())]
        self._since = [self._moment_of(name) for name in filters.get("since", ())]
        self._until = [until(value) for value in filters.get("until", ())]
        self._labels = [value.partition("=") for value in filters.get("label", ())]
        self._without = [value.partition("=") for value in filters.get("label!", ())]

    def __call__(self, image: Image) -> bool:
        return (
            (not self._dangling or (not image.names) in self._dangling)
            and self._fits_time(image)
            and self._fits_labels(image)
        )

    def _fits_time(self, image: Image) -> bool:
        bounds = [*self._before, *self._since, *self._until]
        made = stores.moment(image.created) if bounds else None
        if made is None:
            return not bounds
        return (
            (not self._before or any(made < bound for bound in self._before))
            and (not self._since or any(made > bound for bound in self._since))
            and all(made < bound for bound in self._until)
        )

    def _fits_labels(self, image: Image) -> bool:
        if not (self._labels or self._without):
            return True
        labels = self._images.config(image).run.labels
        wanted = all(_has(labels, *label) for label in self._labels)
        return wanted and not any(_has(labels, *label) for label in self._without)

    def _moment_of(self, name: str) -> datetime:
        from fastlayer.errors import StoreError

        image = self._images.find(name)
        made = stores.moment(image.created)
        if made is None:
            raise StoreError(f"{name}: does not say when it was made: compare with another image")
        return made


def _has(labels: Any, key: str, sign: str, value: str) -> bool:
    return key in labels and (not sign or labels[key] == value)


def until(text: str, option: str = "--filter until") -> datetime:
    """A moment: a duration ago, a time (RFC 3339; local without a zone), or seconds since 1970."""
    from datetime import UTC, datetime

    from fastlayer.oci.duration import parse_duration

    try:
        if re.fullmatch(r"\d{2,11}(\.\d{1,9})?", text, re.ASCII):
            return datetime.fromtimestamp(float(text), UTC)
        if re.match(r"\d{4}-", text, re.ASCII):
            return datetime.fromisoformat(text).astimezone(UTC)
        return datetime.fromtimestamp(time.time() - parse_duration(text) / 1e9, UTC)
    except (ValueError, OverflowError, OSError):
        wanted = "a duration (24h), a time (2026-01-31T12:00:00Z) or seconds since 1970"
        raise declare.LineError(f"{option}={text}: give {wanted}") from None


# ---- mounts and writable layers ----------------------------------------------------------------------


class MountFilter:
    """Which mounts and writable layers are meant. ``name`` is a part of one; ``image`` a name or an id."""

    def __init__(self, store: Store, filters: Filters) -> None:
        self._store = store
        self._filters = filters
        self._writable = truth(filters, "writable")
        self._images = {known for name in filters.get("image", ()) for known in self._known_as(name)}

    def __call__(self, thing: Writable | Mounted) -> bool:
        from fastlayer.container.writable import Writable

        wanted, layer = self._filters, isinstance(thing, Writable)
        names = wanted.get("name")
        return (
            (not self._writable or layer in self._writable)
            and (names is None or (isinstance(thing, Writable) and any(name in thing.name for name in names)))
            and ("driver" not in wanted or thing.driver in wanted["driver"])
            and ("image" not in wanted or bool(self._images & {thing.image, getattr(thing, "manifest", "")}))
        )

    def _known_as(self, name: str) -> set[str]:
        """All names of an image; of one that is gone, or has lost that name, what was asked for."""
        from fastlayer.errors import NotFoundError
        from fastlayer.image.images import Images, full_name

        try:
            image = Images(self._store).find(name)
        except NotFoundError:
            return {name} if name.startswith("sha256:") else {full_name(name)}
        return {*image.names, str(image.id), str(image.manifest)}


# ---- volumes -----------------------------------------------------------------------------------------


class VolumeFilter:
    """Which volumes are meant. ``used``: the names of those that somebody has; ``name`` is a part of one."""

    def __init__(self, used: Collection[str], filters: Filters) -> None:
        self._used = used
        self._filters = filters
        self._dangling = truth(filters, "dangling")
        self._labels = [value.partition("=") for value in filters.get("label", ())]
        self._without = [value.partition("=") for value in filters.get("label!", ())]

    def __call__(self, volume: Volume) -> bool:
        wanted = self._filters
        return (
            (not self._dangling or (volume.name not in self._used) in self._dangling)
            and ("driver" not in wanted or volume.driver in wanted["driver"])
            and ("name" not in wanted or any(part in volume.name for part in wanted["name"]))
            and all(_has(volume.labels, *label) for label in self._labels)
            and not any(_has(volume.labels, *label) for label in self._without)
        )
