"""``--cache-to`` and ``--cache-from`` as Docker spells them (docs.docker.com, "Cache storage backends").

::

    type=local,dest=DIR | src=DIR    an image layout; a path alone is that, too
    type=registry,ref=NAME[:TAG]     a repository; a name alone is that, too
    type=inline                      in the configuration of the image itself (--cache-to only)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.builder.fields import fields_of, truth, values_of
from fastlayer.builder.outputs.options import Compression, compression_in, level_in
from fastlayer.errors import ReferenceFormatError, UsageError, show_path
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import is_tag, parse_reference

Kind = Literal["local", "registry", "inline"]
Mode = Literal["min", "max"]
DEFAULT_TAG = "latest"
INLINE_ARGUMENT = "BUILDKIT_INLINE_CACHE"  # a build argument that means type=inline
_ELSEWHERE = ("gha", "s3", "azblob")
_COMPRESSIONS = ("compression", "compression-level", "force-compression")
_FORMATS = ("oci-mediatypes", "image-manifest", "oci-artifact")  # what is written is OCI's in any case
_WRITTEN = ("type", "mode", *_COMPRESSIONS, *_FORMATS, "ignore-error")
_OF_TO: Mapping[str, tuple[str, ...]] = {
    "local": (*_WRITTEN, "dest", "tag"),
    "registry": (*_WRITTEN, "ref", "registry.insecure", "mounts"),
    "inline": ("type",),
}
_OF_FROM: Mapping[str, tuple[str, ...]] = {
    "local": ("type", "src", "tag", "digest"),
    "registry": ("type", "ref", "registry.insecure", "mounts"),
}


class CacheTo(NamedTuple):
    """One ``--cache-to``. ``dest``: the layout directory, where ``tag`` is the name in it, or a full name in a
    registry. ``mode``: ``min``: the layers of the result, ``max``: those of all steps. ``compression``: of layers that
    are written now, ``level`` None: its default; ``force``: also of those that are there with another one.
    ``ignore_error``: a failure is only a warning. ``insecure``: plain HTTP and any certificate will do, None: as it is
    set up; ``mounts``: cache mounts go there, too."""

    dest: str = ""
    tag: str = DEFAULT_TAG
    mode: Mode = "min"
    compression: Compression | None = None
    level: int | None = None
    force: bool = False
    ignore_error: bool = False
    kind: Kind = "local"
    insecure: bool | None = None
    mounts: bool = False

    def __str__(self) -> str:
        return f"{self.dest}:{self.tag}" if self.kind == "local" else self.dest


class CacheFrom(NamedTuple):
    """One ``--cache-from``. ``src``, ``tag``, ``insecure``: as of ``CacheTo``; ``digest``: of the manifest in a layout,
    empty: what ``tag`` names; ``mounts``: cache mounts that the store has not come from there, too."""

    src: str
    tag: str = DEFAULT_TAG
    digest: str = ""
    kind: Kind = "local"
    insecure: bool | None = None
    mounts: bool = False

    def __str__(self) -> str:
        return f"{self.src}:{self.tag}" if self.kind == "local" else self.src


INLINE = CacheTo(kind="inline")


def parse_cache_to(text: str) -> CacheTo:
    """``type=registry,ref=NAME[,mode=max]...``, or a name or path alone. Raises ``UsageError``, naming what was
    given."""
    reader = _Reader("--cache-to", text, "dest", _OF_TO)
    if reader.kind == "inline":
        return INLINE
    compression = reader.compression()
    return CacheTo(
        reader.place(),
        reader.tag(),
        reader.mode(),
        compression,
        reader.level(compression),
        reader.truth("force-compression"),
        reader.truth("ignore-error"),
        reader.kind,
        reader.insecure(),
        reader.truth("mounts"),
    )


def parse_cache_from(text: str) -> CacheFrom:
    """``type=registry,ref=NAME``, ``type=local,src=DIR[,tag=TAG][,digest=DIGEST]``, or a name or path alone. Raises
    ``UsageError``."""
    reader = _Reader("--cache-from", text, "src", _OF_FROM)
    return CacheFrom(
        reader.place(), reader.tag(), reader.digest(), reader.kind, reader.insecure(), reader.truth("mounts")
    )


def shared(cache_from: Sequence[str], cache_to: Sequence[str], arguments: Mapping[str, str]) -> dict[str, Any]:
    """``--cache-from`` and ``--cache-to`` as fields of ``Options``. Raises ``UsageError``."""
    wanted = list(map(parse_cache_to, cache_to))
    if INLINE not in wanted and truth(arguments.get(INLINE_ARGUMENT, "0")):
        wanted.append(INLINE)
    return {"cache_from": tuple(map(parse_cache_from, cache_from)), "cache_to": tuple(wanted)}


class _Reader:
    def __init__(self, option: str, text: str, path: str, known: Mapping[str, tuple[str, ...]]) -> None:
        self._option = option
        self._text = text
        self._path = path
        self._values = self._parsed(known)
        self.kind = cast(Kind, self._values.get("type", "local"))
        for name in self._values:
            if name not in known[self.kind]:
                raise self._refuse(f"type={self.kind} has no {name}{nearest(name, known[self.kind])}")

    def _refuse(self, why: str) -> UsageError:
        return UsageError(f"{self._option} {show_path(self._text)}: {why}")

    def _parsed(self, known: Mapping[str, tuple[str, ...]]) -> Mapping[str, str]:
        fields = fields_of(self._option, self._text)
        if len(fields) == 1 and "=" not in fields[0]:
            if not fields[0]:
                raise self._refuse("is empty: give type=registry,ref=NAME, or a path with a `/`")
            if _is_path(fields[0]):
                return {"type": "local", self._path: fields[0]}
            return {"type": "registry", "ref": fields[0]}
        values = values_of(self._option, self._text)
        kind = values.get("type", "")
        if kind in _ELSEWHERE:
            raise self._refuse(f"type={kind} is not supported: use type=registry, or keep the directory of type=local")
        if kind == "inline" and kind not in known:
            raise self._refuse("type=inline is read by the name of the image: use type=registry,ref=NAME")
        if kind not in known:
            one = " or ".join(f"type={name}" for name in known)
            raise self._refuse(f"has no type: use {one}" if not kind else f"no type {kind}: use {one}")
        return values

    def place(self) -> str:
        """The directory, or the name in full."""
        if self.kind == "registry":
            return self._reference()
        place = self._values.get(self._path, "")
        if not place:
            raise self._refuse(f"a directory is needed: {self._path}=DIR")
        return place

    def _reference(self) -> str:
        name = self._values.get("ref", "").removeprefix("docker://")
        if not name:
            raise self._refuse("a name is needed: ref=HOST/NAME:TAG")
        try:
            found = parse_reference(name).with_default_tag()
        except ReferenceFormatError as exc:
            raise self._refuse(str(exc)) from None
        if found.digest and self._option == "--cache-to":
            raise self._refuse("nothing can be written under a digest: give ref=HOST/NAME:TAG")
        if found.digest and "mounts" in self._values:
            raise self._refuse("mounts are beside a tag: give ref=HOST/NAME:TAG")
        return str(found)

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

    def insecure(self) -> bool | None:
        return self.truth("registry.insecure") if "registry.insecure" in self._values else None

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
