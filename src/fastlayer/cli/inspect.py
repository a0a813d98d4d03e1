"""``fastlayer inspect``: everything that is known of a thing, as a JSON array."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fastlayer.cli import stores

if TYPE_CHECKING:
    from fastlayer.image.images import Image, Images
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store


@click.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@stores.platform_option
@stores.store_options
def command(**given: Any) -> int:
    """Show images, or writable layers, as a JSON array with an object for each NAME."""
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    found = []
    with stores.open_store(given) as store:
        for name in given["names"]:
            try:
                found.append(_inspect(store, name, stores.platform(given)))
            except FastlayerError as exc:
                failed.append(exc)
    print(json.dumps(found, indent=4))
    return stores.all_failed(failed)


def _inspect(store: Store, name: str, platform: Platform | None) -> dict[str, Any]:
    from fastlayer.container import writable
    from fastlayer.errors import NotFoundError
    from fastlayer.image.images import Images

    images = Images(store)
    try:
        return _image(images, images.find(name, platform))
    except NotFoundError:
        try:
            layer = writable.find(store, name)
        except NotFoundError:
            pass
        else:
            return _writable(store, layer)
        raise


def _image(images: Images, image: Image) -> dict[str, Any]:
    """Docker's names where Docker has the thing."""
    config = images.config(image)
    return {
        "Id": image.id,
        "RepoTags": [":".join(stores.familiar(name)) for name in image.names],
        "RepoDigests": sorted({f"{stores.familiar(name)[0]}@{image.target.digest}" for name in image.names}),
        "Digest": image.target.digest,
        "MediaType": image.target.media_type,
        "Manifest": image.manifest,
        "Created": config.created,
        "Author": config.author,
        "Os": config.platform.os,
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Config": config.run.to_dict(),
        "Size": image.size,
        "ChainId": image.chain_id,
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Layers": [
            {
                "Digest": layer.digest,
                "DiffId": layer.diff_id,
                "MediaType": layer.media_type,
                "Size": layer.size,
                "TarSize": layer.tar_size,
                "FileBytes": layer.payload,
                "Present": layer.present,
            }
            for layer in image.layers
        ],
        "GraphDriver": _snapshots(images.store, image),
    }


def _snapshots(store: Store, image: Image) -> dict[str, Any]:
    if image.chain_id is None:
        return {}
    for driver in store.drivers_in_use():
        snapshotter = store.snapshotter_of(driver)
        if snapshotter.exists(image.chain_id):
            return {
                "Name": driver,
                "Snapshot": image.chain_id,
                "Mounts": [mount.to_dict() for mount in snapshotter.mounts(image.chain_id)],
            }
    return {}


def _writable(store: Store, layer: Any) -> dict[str, Any]:
    from fastlayer.container import writable
    from fastlayer.container.mounted import all_mounts

    snapshotter = writable.snapshotter_of(store, layer)
    return {
        "Name": layer.name,
        "Image": layer.image,
        "Manifest": layer.manifest,
        "CreatedNs": layer.created_ns,
        "StorageOptions": writable.storage_options(store, layer),
        "MountedAt": [found.target for found in all_mounts(store) if found.writable == layer.name],
        "GraphDriver": {
            "Name": layer.driver,
            "Snapshot": layer.key,
            "Mounts": [mount.to_dict() for mount in snapshotter.mounts(layer.key)],
        },
    }
