"""Carries out ``--output``, whatever its type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastlayer._values import NamedTuple
from fastlayer.builder.outputs.notes import Built, check_file
from fastlayer.builder.outputs.options import Export
from fastlayer.errors import UsageError
from fastlayer.image.images import Image, Images
from fastlayer.image.record import new_name

if TYPE_CHECKING:
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.registry.opening import Wishes
    from fastlayer.store.store import Store
    from fastlayer.transfer.events import Observer


class Result(NamedTuple):
    """``built``: what scripts are told; ``warnings``: one line each."""

    built: Built
    warnings: tuple[str, ...] = ()


def write_output(
    store: Store,
    image: Image,
    export: Export,
    *,
    names: Sequence[str] = (),
    stdout: Any = None,
    source_date_epoch: int | None = None,
    base_layers: int = 0,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
    wishes: Wishes | None = None,
    observe: Observer | None = None,
) -> Result:
    """Writes an image of the store as ``export`` says; ``image`` and ``cacheonly`` are in the store already.

    ``names``: what the image is called where it goes, unless ``export`` has names; ``stdout``: a binary file or
    descriptor; ``base_layers``: how many layers are not of this build, which ``rewrite-timestamp`` leaves alone;
    ``wishes``, ``observe``: of who pushes. Raises ``UsageError``, ``ReferenceFormatError``, ``OperandError``,
    ``StorageError``, ``CorruptStoreError``, ``NotFoundError``, ``RegistryError``; nothing half-written keeps a name.
    """
    check_export(export, source_date_epoch, to_stdout=stdout is not None)
    called = tuple(dict.fromkeys(filter(None, map(new_name, export.names or names))))
    built = Built(Images(store).manifest(image).descriptor, image.id, called, image.platform)
    if export.push:
        return _pushed(store, built, export, PushWishes(wishes, observe, jobs))
    if export.type in ("image", "cacheonly"):
        return Result(built)
    target = stdout if export.to_stdout else export.dest
    if export.type in ("local", "tar"):
        from fastlayer.builder.outputs import trees

        if export.type == "local":
            return Result(built, trees.write_tree(store, image, export.dest, progress=progress))
        warnings = trees.write_tar(store, image, target, epoch=source_date_epoch, jobs=jobs, progress=progress)
        return Result(built, warnings)
    from fastlayer.builder.outputs.images import write_image

    manifest = write_image(
        store,
        image,
        export,
        called,
        stdout=stdout,
        epoch=source_date_epoch,
        base_layers=base_layers,
        jobs=jobs,
        progress=progress,
    )
    return Result(Built(manifest.descriptor, manifest.config.digest, called, image.platform))


class PushWishes(NamedTuple):
    """How it is pushed, by who asks for it."""

    wishes: Wishes | None
    observe: Observer | None
    jobs: int | None


def _pushed(store: Store, built: Built, export: Export, how: PushWishes) -> Result:
    """To where its names say. What is there is described: its layers are compressed."""
    from fastlayer.builder.repositories import wishes_of
    from fastlayer.transfer.events import silent
    from fastlayer.transfer.push import PushOptions, push

    options = PushOptions(
        compression=export.compression or "gzip",
        level=export.level,
        force=export.force,
        manifest_format="v2s2" if export.docker_types else "",
        jobs=how.jobs,
        wishes=wishes_of(how.wishes, export.insecure),
    )
    done = [push(store, name, None, options, observe=how.observe or silent) for name in built.names]
    warnings = dict.fromkeys(warning for one in done for warning in one.warnings)
    return Result(built._replace(manifest=done[-1].descriptor) if done else built, tuple(warnings))


def check_export(export: Export, source_date_epoch: int | None, *, to_stdout: bool) -> None:
    """What can be said before anything is built. Raises ``UsageError``, ``OperandError``."""
    if export.to_stdout and not to_stdout:
        raise UsageError(f"type={export.type} is not for a terminal: redirect stdout, or say dest=FILE")
    if export.is_file:
        check_file(export.dest)
    if export.rewrite_timestamp and source_date_epoch is None:
        raise UsageError("rewrite-timestamp: to which time? Set SOURCE_DATE_EPOCH, in seconds since 1970")
    if export.type != "image":
        return
    if (export.compression and not export.push) or export.annotations or export.rewrite_timestamp:
        raise UsageError(
            "type=image keeps its layers as they are: compression, annotations and rewrite-timestamp are for type=oci "
            "and type=docker, and compression for what is pushed"
        )
