"""``fastlayer manifest``: looking at manifests; indexes of images, one per platform, made here and pushed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.transfer.documents import Documents
    from fastlayer.transfer.indexes import Change, Which

_VERBS = {
    "inspect": ("manifest:inspect", "Show the manifest or index of an image."),
    "create": ("manifest:create", "Make an index of images."),
    "add": ("manifest:add", "Add images to an index."),
    "annotate": ("manifest:annotate", "Change what an index says of an image."),
    "rm": ("manifest:remove", "Take images out of an index."),
    "push": ("manifest_push", "Push an index, with all its images, to a registry."),
}
command = declare.Group("manifest", "Look at manifests; make indexes of images and push them.", {"Verbs": _VERBS})

INSPECT = """\b
Examples:
  fastlayer manifest inspect alpine                     its index, at Docker Hub
  fastlayer manifest inspect --platform linux/arm64 --config alpine
  fastlayer manifest inspect --raw docker://registry.example.com/app:1 | sha256sum
  fastlayer manifest inspect oci:layout:1               also oci-archive: docker-archive: dir:
"""
CREATE = """\b
Examples:
  fastlayer manifest create registry.example.com/app:1 app:1-amd64 registry.example.com/app:1-arm64
  fastlayer manifest create --all mirror:1 docker://alpine:3.20
  fastlayer manifest push registry.example.com/app:1
"""
ADD = """\b
Examples:
  fastlayer manifest add registry.example.com/app:1 app:1-riscv64
  fastlayer manifest add --arch arm --variant v7 app:1 app:1-arm
"""
ANNOTATE = """\b
Examples:
  fastlayer manifest annotate --arch arm64 --variant v8 app:1 app:1-arm64
  fastlayer manifest annotate --annotation team=web app:1 3f2a9c0d1e5b
  fastlayer manifest annotate --index --annotation org.opencontainers.image.version=1 app:1
"""


# ---- inspect -------------------------------------------------------------------------------------------


@declare.command("inspect", epilog=INSPECT)
@declare.argument("image", metavar="NAME")
@declare.option("-v", "--verbose", is_flag=True, help="Each manifest of an index, too, with its descriptor.")
@declare.option("--raw", is_flag=True, help="The bytes as they are, whose sha256 is the digest.")
@declare.option("--config", is_flag=True, help="The configuration of the image, not its manifest.")
@stores.platform_option("The manifest of this image of an index (with --config: this machine's).")
@registries.registry_options
@stores.store_options
def inspect(**given: Any) -> int:
    """Show the manifest or index of an image as JSON. NAME is a place in skopeo's words.

    Without a transport it is an index of the store where that has one of this name, else an image of a registry.
    """
    from fastlayer.transfer.documents import look_at

    if given["verbose"] and (given["raw"] or given["config"] or given["platform"]):
        raise declare.LineError("--verbose shows everything: leave out --raw, --config and --platform")
    platform = stores.platform(given)
    with stores.store_if_any(given) as store:

        def work(documents: Documents) -> bytes:
            if given["verbose"]:
                return _pretty(_verbose(documents))
            data = documents.config(platform) if given["config"] else documents.raw(platform)
            return data if given["raw"] else _pretty(_object(documents, data))

        found = look_at(given["image"], work, registries.wishes(given), store=store, warn=output.warn_line)
    sys.stdout.buffer.write(found)
    sys.stdout.buffer.flush()
    return 0


def _object(documents: Documents, data: bytes) -> dict[str, Any]:
    from fastlayer.oci.jsontext import parse_object

    return parse_object(data, documents.name, len(data))


def _pretty(value: Any) -> bytes:
    """In ASCII, so nothing of it steers a terminal."""
    return json.dumps(value, indent=4).encode() + b"\n"


def _verbose(documents: Documents) -> Any:
    """Docker's form: an object, or one for each manifest of an index."""
    from fastlayer.transfer.documents import children

    entries = children(documents)
    if not entries:
        return _described(documents, documents.root, documents.data)
    return [_described(documents, entry) for entry in entries]


def _described(documents: Documents, entry: Descriptor, data: bytes | None = None) -> dict[str, Any]:
    from fastlayer.oci import mediatypes
    from fastlayer.oci.manifest import MAX_MANIFEST

    raw = documents.read(entry, MAX_MANIFEST) if data is None else data
    kind = "OCI" if entry.media_type.startswith("application/vnd.oci.") else "SchemaV2"
    key = "Index" if entry.media_type in mediatypes.INDEXES else f"{kind}Manifest"
    return {"Ref": f"{documents.name}@{entry.digest}", "Descriptor": entry.to_dict(), key: _object(documents, raw)}


# ---- indexes -------------------------------------------------------------------------------------------


def _which_options(function: Any) -> Any:
    function = stores.platform_option("Of an index that is given: this image (default: this machine's).")(function)
    return declare.option("--all", "all_", is_flag=True, help="Of an index that is given: all its images.")(function)


def _change_options(function: Any) -> Any:
    for option in (
        declare.option("--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Repeatable."),
        declare.option("--os-features", metavar="A,B", help="What it needs of its operating system."),
        declare.option("--os-version", metavar="TEXT", help="The version of its operating system."),
        declare.option("--variant", metavar="TEXT", help="Such as v7."),
        declare.option("--arch", metavar="TEXT", help="Such as arm64."),
        declare.option("--os", metavar="TEXT", help="Such as linux."),
    ):
        function = option(function)
    return function


@declare.command("create", epilog=CREATE)
@declare.argument("index")
@declare.argument("images", nargs=-1, metavar="[IMAGE...]")
@declare.option("-a", "--amend", is_flag=True, help="Add to the index if it is there.")
@declare.option("--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Of the index; repeatable.")
@_which_options
@registries.registry_options
@stores.store_options
def create(**given: Any) -> int:
    """Make INDEX, an image of the store, of IMAGEs of the store and of registries; print its digest.

    A name that the store has not, and docker://NAME, are of a registry. Those stay there until the index is pushed.
    """
    from fastlayer.transfer.indexes import create_index

    notes = options.pairs("--annotation", given["annotations"])
    with stores.open_store(given, create=True) as store:
        made = create_index(
            store,
            given["index"],
            given["images"],
            wishes=registries.wishes_for(given["index"], given),
            which=_which(given),
            amend=given["amend"],
            annotations=notes,
            warn=output.warn_line,
        )
    return _told(made)


@declare.command("add", epilog=ADD)
@declare.argument("index")
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_change_options
@_which_options
@registries.registry_options
@stores.store_options
def add(**given: Any) -> int:
    """Add IMAGEs to INDEX, as in `manifest create`; print its digest now."""
    from fastlayer.transfer.indexes import add_to_index

    change = _change(given)
    with stores.open_store(given) as store:
        made = add_to_index(
            store,
            given["index"],
            given["images"],
            wishes=registries.wishes_for(given["index"], given),
            which=_which(given),
            change=change,
            warn=output.warn_line,
        )
    return _told(made)


@declare.command("annotate", epilog=ANNOTATE)
@declare.argument("index")
@declare.argument("image", required=False)
@declare.option("--index", "of_index", is_flag=True, help="The annotations are of the index itself.")
@_change_options
@stores.store_options
def annotate(**given: Any) -> int:
    """Change what INDEX says of IMAGE: a digest, the beginning of one, or the name by which it was added."""
    from fastlayer.transfer.indexes import UNCHANGED, annotate_index
    from fastlayer.transfer.indexes import annotate as annotate_entry

    change = _change(given)
    if given["of_index"] == bool(given["image"]):
        raise declare.LineError("say what is annotated: IMAGE, or --index")
    if given["of_index"] and change._replace(annotations={}) != UNCHANGED:
        raise declare.LineError("an index is for no platform: give --annotation only")
    with stores.open_store(given) as store:
        if given["of_index"]:
            return _told(annotate_index(store, given["index"], change.annotations))
        return _told(annotate_entry(store, given["index"], given["image"], change))


@declare.command("rm")
@declare.argument("index")
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@stores.store_options
def remove(**given: Any) -> int:
    """Take IMAGEs out of INDEX. `fastlayer rmi INDEX` removes all of it."""
    from fastlayer.transfer.indexes import remove_from_index

    with stores.open_store(given) as store:
        return _told(remove_from_index(store, given["index"], given["images"]))


def _which(given: dict[str, Any]) -> Which:
    from fastlayer.transfer.indexes import Which

    if given["all_"] and given["platform"]:
        raise declare.LineError("--all and --platform exclude each other: leave one of them out")
    return Which(given["all_"], stores.platform(given))


def _change(given: dict[str, Any]) -> Change:
    from fastlayer.transfer.indexes import Change

    features = given["os_features"]
    return Change(
        given["os"],
        given["arch"],
        given["variant"],
        given["os_version"],
        None if features is None else tuple(filter(None, features.split(","))),
        options.pairs("--annotation", given["annotations"]),
    )


def _told(digest: Digest) -> int:
    print(digest)
    return 0
