"""Where an image is, in skopeo's words (containers-transports(5); each transport's ``ParseReference``).

::

    docker://NAME[:TAG][@DIGEST]     a registry; NAME by Docker's grammar, ``alpine`` is docker.io/library/alpine
    oci:DIR[:NAME | :@N]             an image layout; NAME is the annotation org.opencontainers.image.ref.name
    oci-archive:FILE[:NAME | :@N]    the same in a tar
    docker-archive:FILE[:REF | :@N]  what ``docker save`` writes; REF by Docker's grammar, without a digest
    dir:DIR                          a directory with manifest.json and the blobs beside it
    NAME[:TAG][@DIGEST]              what the caller says: a registry or our store

A path ends at the first colon, but that of ``dir:``, which may have some. ``@N`` is the Nth image of an archive or
layout, from 0. The words before the first colon are transports even where they could be names of images; only
``docker:`` without slashes is an image's, for ``docker:dind`` is one.
"""

from __future__ import annotations

import re
from typing import Literal, NoReturn

from fastlayer._checked import text as checked
from fastlayer._values import NamedTuple
from fastlayer.errors import ReferenceFormatError, show_path
from fastlayer.oci.digest import Digest
from fastlayer.oci.reference import Reference, parse_any, parse_reference

Transport = Literal["docker", "oci", "oci-archive", "docker-archive", "dir", "store"]
Bare = Literal["docker", "store"]

_LOCAL: tuple[Transport, ...] = ("oci", "oci-archive", "docker-archive", "dir")
_ELSEWHERE = {  # transport of skopeo or podman -> what to do instead
    "containers-storage": "go by docker-archive:FILE, which `podman save` writes and `podman load` reads",
    "docker-daemon": "go by docker-archive:FILE, which `docker save` writes and `docker load` reads",
    "ostree": "give docker://, oci:, oci-archive:, docker-archive: or dir:",
    "atomic": "give docker://, oci:, oci-archive:, docker-archive: or dir:",
    "sif": "give docker://, oci:, oci-archive:, docker-archive: or dir:",
    "tarball": "make an image of the tar with `fastlayer import`",
}
_MAX_PATH = 4095  # bytes (PATH_MAX without its NUL)
_MAX_NAME = 1024  # characters of an image's name in a layout
_MAX_DIGITS = 6
_LAYOUT_NAME = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"  # image-spec annotations.md, ref.name
_LAYOUT_NAMES = rf"{_LAYOUT_NAME}(?:/{_LAYOUT_NAME})*"


class Place(NamedTuple):
    """Where an image is. ``reference``: in a registry, a docker-archive, the store; ``name``: in a layout, or what
    was given for an image of the store; ``number``: that of an image in an archive or layout, -1 for none."""

    transport: Transport
    path: str = ""
    reference: Reference | None = None
    name: str = ""
    number: int = -1

    @property
    def is_registry(self) -> bool:
        """Whether a network is needed."""
        return self.transport == "docker"

    def __str__(self) -> str:
        """As skopeo spells it; of the store the name."""
        if self.transport == "store":
            return self.name
        if self.transport == "docker":
            return f"docker://{self.reference}"
        inner = f"@{self.number}" if self.number >= 0 else str(self.reference or self.name)
        return f"{self.transport}:{self.path}" + (f":{inner}" if inner else "")


def parse_place(text: str, *, bare: Bare = "docker") -> Place:
    """The place that a person means; ``bare``: where an image without a transport is.

    Raises ``ReferenceFormatError``, one line; ``UsageError`` for what is no text.
    """
    word, colon, rest = checked("the place of an image", text).partition(":")
    if colon and word == "docker" and rest.startswith("//"):
        return _in_registry(rest[2:], text)
    if colon and word in _ELSEWHERE:
        _refuse(text, f"images of {word}: cannot be reached from here: {_ELSEWHERE[word]}")
    for transport in _LOCAL:
        if colon and word == transport:
            return _local(transport, rest, text)
    return _in_registry(text, text) if bare == "docker" else _in_store(text)


def _in_registry(name: str, text: str) -> Place:
    if not name:
        _refuse(text or "an empty text", "names no image: give docker://HOST/NAME[:TAG]")
    if name.startswith("/"):
        _refuse(text, "has a slash too many: give docker://HOST/NAME[:TAG]")
    host, slash, _ = name.partition("/")
    if slash and "@" in host:  # it is not shown: what is before the @ may be a password
        _refuse(
            "docker://...@" + host.rpartition("@")[2], "a name has no login in it: use `fastlayer login`, or --creds"
        )
    return Place("docker", reference=parse_reference(name).with_default_tag())


def _in_store(text: str) -> Place:
    found = parse_any(text)
    return Place("store", name=text, reference=None if isinstance(found, Digest) else found.with_default_tag())


def _local(transport: Transport, rest: str, text: str) -> Place:
    if transport == "dir":
        return Place("dir", _path(rest, text, "dir:DIR"))
    path, colon, inner = rest.partition(":")
    wanted = {"oci": "oci:DIR[:NAME]", "oci-archive": "oci-archive:FILE[:NAME]"}
    path = _path(path, text, wanted.get(transport, "docker-archive:FILE[:NAME[:TAG]]"))
    if inner.startswith("@"):
        return Place(transport, path, number=_number(inner[1:], text))
    if transport == "docker-archive":
        return Place(transport, path, reference=_archived(inner, text) if colon else None)
    if inner and (len(inner) > _MAX_NAME or not re.fullmatch(_LAYOUT_NAMES, inner, re.ASCII)):
        _refuse(text, "not the name of an image in a layout: letters and digits, between them one of . _ : @ + - /")
    return Place(transport, path, name=inner)


def _archived(name: str, text: str) -> Reference:
    if not name:
        _refuse(text, "ends with a colon: leave it out, or give docker-archive:FILE:NAME[:TAG]")
    found = parse_reference(name)
    if found.digest:
        _refuse(text, "a docker-archive knows no digests: give NAME[:TAG]")
    return found.with_default_tag()


def _number(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS:
        _refuse(text, "after @ comes the number of an image, from 0")
    return int(digits)


def _path(path: str, text: str, wanted: str) -> str:
    if not path:
        _refuse(text, f"has no path: give {wanted}")
    if "\0" in path or len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH:
        _refuse(text, "is no path that a system could have: give a shorter one, without NUL bytes")
    return path


def _refuse(text: str, why: str) -> NoReturn:
    short = text if len(text) <= 100 else text[:100] + "..."
    raise ReferenceFormatError(f"{show_path(short)}: {why}")
