"""``--cache-to`` and ``--cache-from`` as Docker spells them (docs.docker.com, "Cache storage backends")."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.builder.fields import fields_of, truth, values_of
from fastlayer.builder.outputs.options import Compression, compression_in, level_in
from fastlayer.errors import UsageError, show_path
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import is_tag

Mode = Literal["min", "max"]
DEFAULT_TAG = "latest"
_ELSEWHERE = ("registry", "inline", "gha", "s3", "azblob")
_OF_TO = (
    *("type", "dest", "tag", "mode", "compression", "compression-level", "force-compression", "ignore-error"),
    *("oci-mediatypes", "image-manifest", "oci-artifact"),  # what is written is OCI's in any case
)
_OF_FROM = ("type", "src", "tag", "digest")


class CacheTo(NamedTuple):
    """One ``--cache-to``. ``dest``: the layout directory, ``tag`` the name in it. ``mode``: ``min``: the layers of the
    result, ``max``: those of all steps. ``compression``: of layers that are written now, ``level`` None: its default;
    ``force``: also of those that are there with another one. ``ignore_error``: a failure is only a warning."""

    dest: str
    tag: str = DEFAULT_TAG
    mode: Mode = "min"
    compression: Compression | None = None
    level: int | None = None
    force: bool = False
    ignore_error: bool = False


class CacheFrom(NamedTuple):
    """One ``--cache-from``. ``digest``: of the manifest, empty: what ``tag`` names."""

    src: str
    tag: str = DEFAULT_TAG
    digest: str = ""


def parse_cache_to(text: str) -> CacheTo:
    """``type=local,dest=DIR[,mode=max]...``, or a path alone. Raises ``UsageError``, naming what was given."""
    reader = _Reader("--cache-to", text, "dest", _OF_TO)
    compression = reader.compression()
    return CacheTo(
        reader.place,
        reader.tag(),
        reader.mode(),
        compression,
        reader.level(compression),
        reader.truth("force-compression"),
        reader.truth("ignore-error"),
    )


def parse_cache_from(text: str) -> CacheFrom:
    """``type=local,src=DIR[,tag=TAG][,digest=DIGEST]``, or a path alone. Raises ``UsageError``."""
    reader = _Reader("--cache-from", text, "src", _OF_FROM)
    return CacheFrom(reader.place, reader.tag(), reader.digest())


def shared(cache_from: Sequence[str], cache_to: Sequence[str]) -> dict[str, Any]:
    """``--cache-from`` and ``--cache-to`` as fields of ``Options``. Raises ``UsageError``."""
    return {
        "cache_from": tuple(map(parse_cache_from, cache_from)),
        "cache_to": tuple(map(parse_cache_to, cache_to)),
    }


class _Reader:
    def __init__(self, option: str, text: str, place: str, known: tuple[str, ...]) -> None:
        self._option = option
        self._text = text
        self._values = self._parsed(place)
        for name in self._values:
            if name not in known:
                raise self._refuse(f"type=local has no {name}{nearest(name, known)}")
        self.place = self._values.get(place, "")
        if not self.place:
            raise self._refuse(f"a directory is needed: {place}=DIR")

    def _refuse(self, why: str) -> UsageError:
        return UsageError(f"{self._option} {show_path(self._text)}: {why}")

    def _parsed(self, place: str) -> Mapping[str, str]:
        fields = fields_of(self._option, self._text)
        if len(fields) == 1 and "=" not in fields[0]:
            if not _is_path(fields[0]):
                raise self._refuse(f"no registry can be asked yet: use type=local,{place}=DIR, or a path with a `/`")
            return {place: fields[0]}
        values = values_of(self._option, self._text)
        kind = values.get("type", "")
        if kind in _ELSEWHERE:
            raise self._refuse(f"type={kind} is not supported: use type=local, and keep or copy the directory")
        if kind != "local":
            raise self._refuse("has no type: use type=local" if not kind else f"no type {kind}: use type=local")
        return values

    def tag(self) -> str:
        tag = self._values.get("tag", DEFAULT_TAG)
        if not is_tag(tag):
            raise self._refuse(f"tag={tag}: use letters, digits and ._- (at most 128)")
        return tag

    def digest(self) -> str:
        text = self._values.get("digest", "")
        try:
            return Digest(text) if text else ""
        except ValueError as exc:
            raise self._refuse(str(exc)) from None

    def mode(self) -> Mode:
        mode = self._values.get("mode", "min")
        if mode not in ("min", "max"):
            raise self._refuse(f"mode={mode}: use min or max")
        return cast(Mode, mode)

    def compression(self) -> Compression | None:
        return compression_in(self._values, self._refuse)

    def level(self, compression: Compression | None) -> int | None:
        from fastlayer.layer.compression import check_level

        level = level_in(self._values, self._refuse)
        try:
            return None if level is None else check_level(compression or "gzip", level)
        except UsageError as exc:
            raise self._refuse(str(exc)) from None

    def truth(self, name: str) -> bool:
        found = truth(self._values.get(name, "false"))
        if found is None:
            raise self._refuse(f"{name}={self._values[name]}: use true or false")
        return found


def _is_path(text: str) -> bool:
    """What is no name of an image in a registry."""
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..") or os.path.isdir(text)
