"""``fastlayer rmi``: names go, and with the last name what only this image used. ``--remote``: in a registry."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import output, registries, stores
from fastlayer.cli.line import declare

EPILOG = """\b
Examples:
  fastlayer rmi debian:12               the name; the layers go when no other image has them
  fastlayer rmi -f 3f2a9c0d1e5b         all names of an image
  fastlayer rmi --remote registry.example.com/app:1     from the registry, with all its tags there
"""
_STORE = ("force", "no_prune", "root", "driver")


@declare.command("rmi", epilog=EPILOG)
@declare.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@declare.option("-f", "--force", is_flag=True, help="Also with several names, or when writable layers are made of it.")
@declare.option("--no-prune", is_flag=True, help="Keep the layers until `fastlayer image prune`.")
@declare.option("--remote", is_flag=True, help="From the registry that the name says, not from the store.")
@registries.registry_options
@stores.store_options
def command(**given: Any) -> int:
    """Remove IMAGEs by name or id; with --remote, by name and tag or digest, from their registries."""
    _check(given)
    return _remove_remote(given) if given["remote"] else _remove(given)


def _check(given: dict[str, Any]) -> None:
    """Options of the other kind would do nothing."""
    remote = given["remote"]
    for name in _STORE if remote else registries.NAMES:
        if given[name] not in (None, False):
            word = "--" + name.replace("_", "-")
            advice = "leave one of them out" if remote else "give --remote, too, or leave it out"
            raise declare.LineError(
                f"{word} {'and --remote exclude each other' if remote else 'is for registries'}: {advice}"
            )


def _remove(given: dict[str, Any]) -> int:
    from fastlayer.container.mounted import all_mounts
    from fastlayer.errors import FastlayerError
    from fastlayer.image.images import Images
    from fastlayer.store.collect import collect

    failed: list[FastlayerError] = []
    with stores.open_as_root(given) as store:
        for name in given["images"]:
            try:
                for gone in Images(store).untag(name, force=given["force"]):
                    print(f"Untagged: {stores.shown(gone)}")
            except FastlayerError as exc:
                failed.append(exc)
        if not given["no_prune"]:
            all_mounts(store)  # forgets those that are gone, and what only they kept
            collected = collect(store)
            failed += collected.failed
            for digest in collected.blobs:
                print(f"Deleted: {digest}")
    return stores.all_failed(failed)


def _remove_remote(given: dict[str, Any]) -> int:
    from fastlayer.errors import FastlayerError
    from fastlayer.oci.reference import parse_reference
    from fastlayer.registry.looking import delete_image

    failed: list[FastlayerError] = []
    wishes = registries.wishes_for(given["images"][0], given)
    for text in given["images"]:
        try:
            reference = parse_reference(text.removeprefix("docker://"))
            digest = delete_image(reference, wishes, output.warn_line)
            print(f"Deleted: {reference.familiar_name}@{digest}")
        except FastlayerError as exc:
            failed.append(exc)
    return stores.all_failed(failed)
