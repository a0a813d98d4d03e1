"""What scripts read after a build: ``--iidfile``, ``--metadata-file``, and kaniko's ``--digest-file`` and the like."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, StorageError, show_path
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.oci.platform import Platform
from fastlayer.oci.reference import parse_reference


class Built(NamedTuple):
    """An image as it left the build. ``manifest``: its descriptor; ``names``: in full."""

    manifest: Descriptor
    config: Digest
    names: tuple[str, ...] = ()
    platform: Platform | None = None


class Notes(NamedTuple):
    """Paths; empty where none is wanted."""

    iidfile: str = ""
    metadata_file: str = ""
    digest_file: str = ""
    image_name_with_digest_file: str = ""
    image_name_tag_with_digest_file: str = ""


def forget_notes(notes: Notes) -> None:
    """Before a build: what an earlier one wrote is gone when this one fails. Raises ``OperandError``, ``StorageError``
    where nothing can be written afterwards."""
    for path in filter(None, notes):
        check_file(path)
        try:
            if os.path.isfile(path):
                os.unlink(path)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "remove", path) from exc


def check_file(path: str) -> None:
    """Before a build. Raises ``OperandError`` where no file can be written after it."""
    if os.path.isdir(path):
        raise OperandError(f"{show_path(path)}: is a directory: name a file")
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise OperandError(f"{show_path(path)}: its directory is not there: make {show_path(parent)} first")


def write_notes(notes: Notes, built: Built) -> None:
    """After a build. Raises ``StorageError``; a file is complete or not there."""
    digest = str(built.manifest.digest)
    pairs = (
        (notes.iidfile, str(built.config)),
        (notes.metadata_file, _json(metadata(built))),
        (notes.digest_file, digest),
        (notes.image_name_with_digest_file, _lines(f"{_bare(name)}@{digest}" for name in built.names)),
        (notes.image_name_tag_with_digest_file, _lines(f"{name}@{digest}" for name in built.names)),
    )
    for path, text in pairs:
        if path:
            _write(path, text)


def metadata(built: Built) -> dict[str, Any]:
    """The object of ``--metadata-file``, keys as of Docker's buildx."""
    descriptor = built.manifest
    if descriptor.platform is None and built.platform is not None:
        descriptor = descriptor._replace(platform=built.platform)
    value: dict[str, Any] = {
        "containerimage.config.digest": str(built.config),
        "containerimage.descriptor": descriptor.to_dict(),
        "containerimage.digest": str(descriptor.digest),
    }
    if built.names:
        value["image.name"] = ",".join(built.names)
    return value


def _bare(name: str) -> str:
    return str(parse_reference(name)._replace(tag="", digest=""))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2)


def _write(path: str, text: str) -> None:
    from fastlayer.layer.output import Output

    with Output(path) as output:
        output.write(text.encode())
        output.commit()
