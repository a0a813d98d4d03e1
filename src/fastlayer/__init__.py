"""fastlayer: container image layers at native speed.

``diff`` turns the difference of two trees into an OCI layer, ``apply`` puts layers onto a tree, ``index`` remembers
what a tree looks like, ``clone`` and ``copy_up`` copy trees exactly, ``chunks`` cuts data where its content says.
``open_store`` opens a store of images, ``mount`` shows one of its images as a directory, ``build`` makes one of a
Dockerfile, ``run`` and ``create`` make containers of them; ``volumes`` are data that outlives containers. ``login`` and
``logout`` are for registries.
Every name below is imported when it is first used, so ``import fastlayer`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastlayer._version import __version__

if TYPE_CHECKING:
    from fastlayer.builder.build import build
    from fastlayer.builder.result import BuildResult
    from fastlayer.container.api import Container, Result, create, run
    from fastlayer.container.mounting import mount
    from fastlayer.errors import (
        AlreadyExistsError,
        BackendError,
        BuildError,
        CorruptStoreError,
        DigestMismatchError,
        DockerfileError,
        DriverError,
        FastlayerError,
        FileChangedError,
        IndexFormatError,
        InUseError,
        LayerError,
        LayerFormatError,
        LimitError,
        ManifestError,
        NoSpaceError,
        NotFoundError,
        OperandError,
        ReferenceFormatError,
        RegistryDeniedError,
        RegistryError,
        RegistryMissingError,
        RunError,
        StorageError,
        StoreError,
        UnsafeEntryError,
        UsageError,
    )
    from fastlayer.layer.apply import AppliedLayer, ApplyStats, apply
    from fastlayer.layer.chunks import chunks
    from fastlayer.layer.clone import CloneStats, clone, copy_up
    from fastlayer.layer.diff import Change, ChangeKind, Changes, diff, diff_upper
    from fastlayer.layer.index import TreeIndex, index
    from fastlayer.layer.limits import Limits
    from fastlayer.layer.progress import Progress
    from fastlayer.layer.stat import DiffStat
    from fastlayer.layer.writer import Layer
    from fastlayer.oci.descriptor import Descriptor
    from fastlayer.oci.digest import Digest
    from fastlayer.registry.credential import Credential
    from fastlayer.registry.login import LoggedIn, login, logout
    from fastlayer.registry.looking import delete_image, find_referrers, find_repositories, find_tags
    from fastlayer.registry.opening import Wishes
    from fastlayer.store.store import Store, open_store
    from fastlayer.transfer.copy import Copied, CopyOptions, copy
    from fastlayer.transfer.documents import read_manifest
    from fastlayer.transfer.events import BlobProgress
    from fastlayer.transfer.index_push import push_index
    from fastlayer.transfer.indexes import add_to_index, create_index
    from fastlayer.transfer.pull import Pulled, PullOptions, pull
    from fastlayer.transfer.push import Pushed, PushOptions, push
    from fastlayer.volume.volumes import volumes

_HOME = {
    "builder.build": "build",
    "builder.result": "BuildResult",
    "container.api": "Container Result create run",
    "container.mounting": "mount",
    "errors": (
        "AlreadyExistsError BackendError BuildError CorruptStoreError DigestMismatchError DockerfileError DriverError "
        "FastlayerError FileChangedError InUseError IndexFormatError LayerError LayerFormatError LimitError "
        "ManifestError NoSpaceError NotFoundError OperandError ReferenceFormatError RegistryDeniedError RegistryError "
        "RegistryMissingError RunError StorageError StoreError UnsafeEntryError UsageError"
    ),
    "layer.apply": "AppliedLayer ApplyStats apply",
    "layer.chunks": "chunks",
    "layer.clone": "CloneStats clone copy_up",
    "layer.diff": "Change ChangeKind Changes diff diff_upper",
    "layer.index": "TreeIndex index",
    "layer.limits": "Limits",
    "layer.progress": "Progress",
    "layer.stat": "DiffStat",
    "layer.writer": "Layer",
    "oci.descriptor": "Descriptor",
    "oci.digest": "Digest",
    "registry.credential": "Credential",
    "registry.login": "LoggedIn login logout",
    "registry.looking": "delete_image find_referrers find_repositories find_tags",
    "registry.opening": "Wishes",
    "store.store": "Store open_store",
    "transfer.copy": "Copied CopyOptions copy",
    "transfer.documents": "read_manifest",
    "transfer.events": "BlobProgress",
    "transfer.index_push": "push_index",
    "transfer.indexes": "add_to_index create_index",
    "transfer.pull": "PullOptions Pulled pull",
    "transfer.push": "PushOptions Pushed push",
    "volume.volumes": "volumes",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "AlreadyExistsError",
    "AppliedLayer",
    "ApplyStats",
    "BackendError",
    "BlobProgress",
    "BuildError",
    "BuildResult",
    "Change",
    "ChangeKind",
    "Changes",
    "CloneStats",
    "Container",
    "Copied",
    "CopyOptions",
    "CorruptStoreError",
    "Credential",
    "Descriptor",
    "DiffStat",
    "Digest",
    "DigestMismatchError",
    "DockerfileError",
    "DriverError",
    "FastlayerError",
    "FileChangedError",
    "InUseError",
    "IndexFormatError",
    "Layer",
    "LayerError",
    "LayerFormatError",
    "LimitError",
    "Limits",
    "LoggedIn",
    "ManifestError",
    "NoSpaceError",
    "NotFoundError",
    "OperandError",
    "Progress",
    "PullOptions",
    "Pulled",
    "PushOptions",
    "Pushed",
    "ReferenceFormatError",
    "RegistryDeniedError",
    "RegistryError",
    "RegistryMissingError",
    "Result",
    "RunError",
    "StorageError",
    "Store",
    "StoreError",
    "TreeIndex",
    "UnsafeEntryError",
    "UsageError",
    "Wishes",
    "__version__",
    "add_to_index",
    "apply",
    "build",
    "chunks",
    "clone",
    "copy",
    "copy_up",
    "create",
    "create_index",
    "delete_image",
    "diff",
    "diff_upper",
    "find_referrers",
    "find_repositories",
    "find_tags",
    "index",
    "login",
    "logout",
    "mount",
    "open_store",
    "pull",
    "push",
    "push_index",
    "read_manifest",
    "run",
    "volumes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fastlayer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fastlayer.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
