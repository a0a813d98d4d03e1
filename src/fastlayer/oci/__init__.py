"""Plain OCI values: digests, descriptors, media types, manifests, references, platforms. Knows nobody."""

from fastlayer.oci.chain import chain_id, chain_ids
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest

__all__ = ["Descriptor", "Digest", "chain_id", "chain_ids"]
