"""Media types (image-spec media-types.md) and the Docker names that mean the same."""

from __future__ import annotations

LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({INDEX, DOCKER_INDEX})
CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})
SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_LAYER_OF = {"none": LAYER, "gzip": LAYER_GZIP, "zstd": LAYER_ZSTD}
_COMPRESSION_OF = {
    LAYER: "none",
    LAYER_GZIP: "gzip",
    LAYER_ZSTD: "zstd",
    DOCKER_LAYER: "none",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
}


def layer_media_type(compression: str) -> str:
    """The OCI media type of a layer compressed with ``none``, ``gzip`` or ``zstd``.

    A file compressed otherwise is no layer of an image; its media type is the one of freedesktop's shared-mime-info.
    """
    return _LAYER_OF.get(compression) or f"application/x-{compression}"


def layer_compression(media_type: str) -> str | None:
    """``none``, ``gzip`` or ``zstd`` for a layer media type, None for anything else."""
    return _COMPRESSION_OF.get(media_type)


def distributable(media_type: str) -> str:
    """That of the same layer where its bytes go with the image: what a new image has it as (image-spec layer.md: the
    non-distributable ones are not to be used any more)."""
    for foreign, own in zip(_FOREIGN, (LAYER, DOCKER_LAYER), strict=True):
        if media_type.startswith(foreign):
            return own + media_type.removeprefix(foreign)
    return media_type


def is_foreign(media_type: str) -> bool:
    """A layer whose bytes are not with the image but at a vendor's address (image-spec layer.md, non-distributable)."""
    return media_type.startswith(_FOREIGN)
