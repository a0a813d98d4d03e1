"""A pull without its comforts: an image from a registry into a store, in part where that can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastlayer.image.images import Images
from fastlayer.image.record import of_applied
from fastlayer.image.tee import Tee
from fastlayer.image.unpack import LayerSource, unpack
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.manifest import parse_manifest
from fastlayer.registry.client import Registry, Repository
from fastlayer.registry.http import Endpoint
from fastlayer.store.store import Store
from fastlayer.transfer.pulling.partial import PartialLayer, PartialStats, partial_layer
from tests.registry_server import RegistryServer


class Pulled(NamedTuple):
    """``stats``: of each layer that was pulled in part, else None; ``warnings``: all of them."""

    stats: list[PartialStats | None]
    warnings: list[str]


def pulled(store: Store, server: RegistryServer | str, name: str, tag: str) -> Pulled:
    url = server if isinstance(server, str) else server.url
    with Registry(Endpoint(url, insecure=True)) as registry, store.lease("pull") as lease:
        repository = registry.repository(name)
        manifest = parse_manifest(repository.manifest(tag).data)
        config = parse_config(repository.read_blob(manifest.config), tag)
        for part in (manifest.raw, config.raw):
            store.content.put(part, lease.id)
        warnings: list[str] = []
        sources: list[LayerSource] = []
        parts: list[PartialLayer | None] = []
        for layer, diff_id, chain in zip(manifest.layers, config.diff_ids, chain_ids(config.diff_ids), strict=True):
            full = LayerSource(diff_id, layer.digest, layer.size, _whole(store, lease, repository, layer))
            part = partial_layer(store, lease, repository, layer, diff_id, chain, full, warn=warnings.append)
            parts.append(part)
            sources.append(part.source if part else full)
        found = unpack(store, lease, sources)
        infos = [
            of_applied(applied, layer.media_type, present=store.content.has(layer.digest))
            for applied, layer in zip(found.layers, manifest.layers, strict=True)
            if applied is not None
        ]
        Images(store).put([f"localhost/{name}:{tag}"], manifest.descriptor, infos, lease=lease)
        for part in filter(None, parts):
            part.close()
        return Pulled([part.stats if part else None for part in parts], [*warnings, *found.warnings])


def _whole(store: Store, lease: Any, repository: Repository, layer: Descriptor) -> Any:
    @contextmanager
    def open_blob() -> Iterator[Tee]:
        with (
            repository.blob(layer.digest, size=layer.size) as stream,
            store.content.ingest(lease.id, digest=layer.digest, size=layer.size) as blob,
            Tee(stream, blob) as tee,
        ):
            yield tee
            blob.commit()

    return open_blob


def bytes_sent(server: RegistryServer, layer: Any) -> int:
    """Of a blob, by all answers so far."""
    return server.sent.get(str(layer.descriptor["digest"]), 0)
