"""``--output``: comma-separated values as Docker reads them (docs.docker.com, "Exporters"), and kaniko's options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, cast

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.builder.fields import fields_of, truth
from fastlayer.errors import UsageError, show_path

Type = Literal["image", "oci", "docker", "local", "tar", "cacheonly"]
Compression = Literal["none", "gzip", "zstd", "zstd:chunked", "estargz"]

TYPES = ("image", "oci", "docker", "local", "tar", "cacheonly")
_ARCHIVES = ("oci", "docker")
COMPRESSIONS = {"uncompressed": "none", "none": "none", "gzip": "gzip", "zstd": "zstd"}
_OF_LAYERS = COMPRESSIONS | {"zstd:chunked": "zstd:chunked", "estargz": "estargz"}
_OF_IMAGES = (
    *("name", "compression", "compression-level", "force-compression", "oci-mediatypes", "rewrite-timestamp"),
    *("push", "store", "unpack", "dangling-name-prefix", "name-canonical", "oci-artifact"),
)
_KNOWN: dict[str, tuple[str, ...]] = {
    "image": (*_OF_IMAGES, "registry.insecure"),
    "oci": (*_OF_IMAGES, "dest", "tar"),
    "docker": (*_OF_IMAGES, "dest", "tar"),
    "local": ("dest", "platform-split"),
    "tar": ("dest", "platform-split"),
    "cacheonly": (),
}
_ANNOTATION = re.compile(r"annotation(?:-(manifest|index|manifest-descriptor|index-descriptor))?(?:\[([^]]*)\])?\.(.+)")


class Export(NamedTuple):
    """One ``--output``. ``dest``: a path, ``-`` for stdout, empty where there is none; ``names``: instead of those of
    the build; ``compression``: of layers, ``level`` None for its default; ``force``: also of those that came compressed
    otherwise; ``docker_types``: Docker's media types instead of OCI's; ``annotations`` of the manifest,
    ``descriptor_annotations`` of its line in an index; ``rewrite_timestamp``: no file of the build's own layers is
    younger than SOURCE_DATE_EPOCH; ``archive``: False for a layout directory. ``push``: to the registries of its names,
    ``insecure``: plain HTTP and any certificate will do there, None: as it is set up."""

    type: Type = "image"
    dest: str = ""
    names: tuple[str, ...] = ()
    compression: Compression | None = None
    level: int | None = None
    force: bool = False
    docker_types: bool = False
    annotations: Mapping[str, str] = {}
    descriptor_annotations: Mapping[str, str] = {}
    rewrite_timestamp: bool = False
    archive: bool = True
    push: bool = False
    insecure: bool | None = None

    @property
    def to_stdout(self) -> bool:
        return self._is_one_file and self.dest in ("", "-")

    @property
    def is_file(self) -> bool:
        """Whether ``dest`` names one."""
        return self._is_one_file and not self.to_stdout

    @property
    def _is_one_file(self) -> bool:
        return self.type in ("oci", "docker", "tar") and self.archive


def parse_output(text: str) -> Export:
    """``type=oci,dest=image.tar``; ``DIR`` alone is ``type=local,dest=DIR``, ``-`` is a tar to stdout.

    Raises ``UsageError``, naming what was given.
    """
    fields = fields_of("--output", text)
    if len(fields) == 1 and "=" not in fields[0]:
        if not fields[0]:
            raise UsageError("--output: is empty: give a directory, - for stdout, or type=TYPE,...")
        return Export("tar", "-") if fields[0] == "-" else Export("local", fields[0])
    values: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        name = name.strip()
        if not name.startswith("annotation"):  # whose keys tell capitals apart
            name = name.lower()
        if not equals:
            raise UsageError(f"--output {show_path(text)}: {show_path(field)} has no `=`: write NAME=VALUE")
        values[name] = value
    return _Reader(text, values).export()


Refuse = Callable[[str], Exception]  # makes the error of what is wrong with an option


def compression_in(values: Mapping[str, str], refuse: Refuse, *, chunked: bool = False) -> Compression | None:
    """``compression=`` of an option, as layers have it; None: it is not given. ``chunked``: also with their files one
    by one."""
    value = values.get("compression")
    if value is None:
        return None
    known = _OF_LAYERS if chunked else COMPRESSIONS
    if value not in known:
        *names, last = [name for name in known if name != "none"]
        raise refuse(f"no compression {value}{nearest(value, known)}: use {', '.join(names)} or {last}")
    return cast(Compression, known[value])


def level_in(values: Mapping[str, str], refuse: Refuse) -> int | None:
    """``compression-level=``, any number of up to three digits; None: it is not given."""
    value = values.get("compression-level")
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,3}", value, re.ASCII):
        raise refuse(f"compression-level={value}: use a number")
    return int(value)


class _Reader:
    def __init__(self, text: str, values: dict[str, str]) -> None:
        self._text = text
        self._values = values

    def _refuse(self, why: str) -> UsageError:
        return UsageError(f"--output {show_path(self._text)}: {why}")

    def export(self) -> Export:
        kind, push = self._type()
        manifest, line = self._annotations(kind)
        for name in self._values:
            if name not in _KNOWN[kind]:
                raise self._refuse(f"type={kind} has no {name}{nearest(name, _KNOWN[kind])}")
        return self._checked(
            Export(
                kind,
                self._values.get("dest", ""),
                tuple(name for name in self._values.get("name", "").split(",") if name),
                self._compression(),
                self._level(),
                self._truth("force-compression", default=False),
                not self._truth("oci-mediatypes", default=kind != "docker"),
                manifest,
                line,
                self._truth("rewrite-timestamp", default=False),
                self._truth("tar", default=True),
                push,
                self._truth("registry.insecure", default=False) if "registry.insecure" in self._values else None,
            )
        )

    def _type(self) -> tuple[Type, bool]:
        """And whether it is to be pushed."""
        kind = self._values.pop("type", "")
        if not kind:
            raise self._refuse(f"has no type: one of {', '.join(TYPES)}")
        push = self._truth("push", default=kind == "registry")
        if kind == "registry":
            kind = "image"
        if kind not in TYPES:
            raise self._refuse(f"no type {kind}{nearest(kind, (*TYPES, 'registry'))}")
        if push and kind != "image":
            raise self._refuse(f"type={kind} is no image in the store, which could be pushed: use type=registry")
        return cast(Type, kind), push

    def _checked(self, found: Export) -> Export:
        from fastlayer.layer.compression import check_level

        if found.level is not None:
            try:
                check_level(found.compression or "gzip", found.level)
            except UsageError as exc:
                raise self._refuse(str(exc)) from None
        if found.docker_types and found.compression in ("zstd", "zstd:chunked"):
            raise self._refuse("Docker's media types have no zstd: add oci-mediatypes=true")
        if found.docker_types and found.compression == "estargz":
            raise self._refuse(
                "estargz needs annotations, which Docker's media types have not: add oci-mediatypes=true"
            )
        if found.docker_types and (found.annotations or found.descriptor_annotations):
            raise self._refuse("Docker's media types have no annotations: add oci-mediatypes=true")
        if self._truth("platform-split", default=False):
            raise self._refuse("platform-split: the image is for one platform: name the directory")
        if found.type == "local" and found.dest in ("", "-"):
            raise self._refuse("a directory is needed: dest=DIR")
        if not found.archive and found.dest in ("", "-"):
            raise self._refuse("a layout is a directory: dest=DIR")
        return found

    def _compression(self) -> Compression | None:
        return compression_in(self._values, self._refuse, chunked=True)

    def _level(self) -> int | None:
        return level_in(self._values, self._refuse)

    def _truth(self, name: str, *, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        found = truth(value)
        if found is None:
            raise self._refuse(f"{name}={value}: use true or false")
        return found

    def _annotations(self, kind: str) -> tuple[dict[str, str], dict[str, str]]:
        """Taken out of the values: of the manifest, and of the line that names it."""
        manifest: dict[str, str] = {}
        line: dict[str, str] = {}
        for name in [name for name in self._values if name.startswith("annotation")]:
            found = _ANNOTATION.fullmatch(name)
            if found is None or kind not in ("image", *_ARCHIVES):
                raise self._refuse(f"{name}: use annotation.KEY=VALUE, for images")
            where, value = found[1] or "manifest", self._values.pop(name)
            if where.startswith("index"):
                raise self._refuse(f"{name}: an image for one platform has no index of its own: use annotation.KEY")
            (manifest if where == "manifest" else line)[found[3]] = value
        return manifest, line


def kaniko_outputs(tar_path: str | None, oci_layout_path: str | None, names: Sequence[str]) -> list[Export]:
    """What ``--tar-path`` (``--tarPath``) and ``--oci-layout-path`` of kaniko ask for."""
    found = []
    if tar_path is not None:
        if not tar_path:
            raise UsageError("--tar-path: name a file for the archive")
        found.append(Export("docker", tar_path, tuple(names), docker_types=True))
    if oci_layout_path is not None:
        if not oci_layout_path:
            raise UsageError("--oci-layout-path: name a directory for the layout")
        found.append(Export("oci", oci_layout_path, tuple(names), archive=False))
    return found
