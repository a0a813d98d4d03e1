"""An image from a source to a destination: blobs at the same time, then configurations, then manifests, the named last.

What is at the destination does not move. A layer goes as it is, or in another form: then its blob is made while it
goes, its manifest is written anew, and everything above that. Nothing that a name leads to is ever incomplete:
manifests go when all below them is there, and the name comes with the last of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from fastlayer._values import NamedTuple
from fastlayer.errors import LimitError, ManifestError, NotFoundError, UsageError
from fastlayer.layer.chunked.places import ABOUT_CHUNKED
from fastlayer.layer.pipeline import map_ordered
from fastlayer.oci import jsontext, mediatypes
from fastlayer.oci.chain import chain_ids
from fastlayer.oci.config import MAX_CONFIG, parse_config
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.image_index import ImageIndex, parse_index, walk
from fastlayer.oci.manifest import Manifest, parse_manifest
from fastlayer.registry.blobs import short
from fastlayer.registry.uploads import How
from fastlayer.transfer.ends.protocols import Destination, LayerOf, Source, Write
from fastlayer.transfer.events import Doing, Observer, silent
from fastlayer.transfer.forms import MAKERS, Form
from fastlayer.transfer.rewriting import (
    ManifestFormat,
    is_docker,
    rewritten_index,
    rewritten_manifest,
    wants,
)
from fastlayer.transfer.tracking import Teller, Track

_MAX_DOCUMENTS = 64 << 20  # bytes of all manifests and indexes below a name
_DOING: dict[How, Doing] = {How.PRESENT: "present", How.MOUNTED: "mounted", How.UPLOADED: "done"}
_UNASKED = ("gzip", "none")  # what a push, or a copy, does without being asked


class Wanted(NamedTuple):
    """What the destination is to get. ``form``: of layers that are not compressed, None for as they are; with ``force``
    of all. ``format``: of manifests, empty for their own; ``preserve``: raises where a digest would become another."""

    form: Form | None = None
    force: bool = False
    format: ManifestFormat = ""
    preserve: bool = False


AS_IT_IS = Wanted()


class Moved(NamedTuple):
    """What has been moved. ``root``: as it is at the destination; ``sent``: bytes of blobs; the others count blobs."""

    root: Descriptor
    sent: int
    uploaded: int
    mounted: int
    present: int
    warnings: tuple[str, ...] = ()


class _Task(NamedTuple):
    """A blob to be moved; ``form``: that it is to have, None for its own."""

    layer: LayerOf
    form: Form | None = None

    @property
    def key(self) -> tuple[Digest, Form | None]:
        return self.layer.blob.digest, self.form


def move(
    source: Source,
    destination: Destination,
    root: Descriptor,
    wanted: Wanted = AS_IT_IS,
    *,
    observe: Observer = silent,
    named: bool = True,
) -> Moved:
    """Moves all below ``root``, and it, which gets the name of the destination if it is to be ``named``.

    Raises ``FastlayerError``: then no name leads to what has been moved.
    """
    return _Move(source, destination, wanted, observe).run(root, named=named)


class _Move:
    def __init__(self, source: Source, destination: Destination, wanted: Wanted, observe: Observer) -> None:
        self._source = source
        self._destination = destination
        self._wanted = wanted
        self._teller = Teller(observe)
        self._making = threading.BoundedSemaphore(MAKERS)
        self._count = threading.Lock()
        self._sent = 0
        self._warnings: list[str] = []
        self._hows = dict.fromkeys(How, 0)
        self._documents: dict[Digest, Manifest | ImageIndex] = {}
        self._configs: dict[Digest, bytes] = {}
        self._diff_ids_now: dict[tuple[Digest, Form | None], Digest] = {}  # of tars that were made anew
        self._blobs: dict[tuple[Digest, Form | None], Descriptor] = {}  # what they became
        self._settled: dict[Digest, Descriptor] = {}  # manifests that are there
        self._format: ManifestFormat = wanted.format

    def run(self, root: Descriptor, *, named: bool) -> Moved:
        self._read(root)
        tasks = self._tasks()
        self._require_preserved(tasks)
        try:
            self._move_blobs(tasks)
            self._move_blobs(self._config_tasks())
            found = self._settle(root, named=named)
        except BaseException:
            self._teller.stop()
            self._source.give_up()
            self._destination.give_up()
            raise
        counts = (self._hows[How.UPLOADED], self._hows[How.MOUNTED], self._hows[How.PRESENT])
        return Moved(found, self._sent, *counts, tuple(self._warnings))

    # ---- what there is to do --------------------------------------------------------------------------------

    def _read(self, root: Descriptor) -> None:
        def missing(child: Descriptor) -> bool:
            return child.digest != root.digest and not self._source.has_manifest(child)

        total = 0
        for node in walk(root, lambda found, limit: self._source.read(found, limit), missing):
            if node.document is not None:
                self._documents[node.descriptor.digest] = node.document
                total += len(node.document.raw)
                if total > _MAX_DOCUMENTS:
                    raise LimitError(f"{self._source.name}: has manifests of more than {_MAX_DOCUMENTS >> 20} MiB")
            elif not self._destination.has_manifest(node.descriptor):
                raise NotFoundError(
                    f"{self._source.name}: {node.descriptor.digest} ({node.descriptor.platform or 'a part of it'}) is"
                    " not there: choose a platform that is with --platform, or get the whole image first"
                )
        zstd = self._wanted.form is not None and self._wanted.form.codec == "zstd"
        if zstd and not self._format and any(map(is_docker, self._documents.values())):
            self._format = "oci"  # Docker's manifests know no zstd

    def _tasks(self) -> list[_Task]:
        """The layers, each once."""
        return list({task.key: task for found in self._manifests() for task in self._of_manifest(found)}.values())

    def _manifests(self) -> Iterator[Manifest]:
        return (document for document in self._documents.values() if isinstance(document, Manifest))

    def _of_manifest(self, manifest: Manifest) -> list[_Task]:
        """Its layers, but for those that are at a vendor's."""
        diff_ids = self._diff_ids(manifest)
        stacks: list[Digest] = chain_ids(diff_ids)
        tasks = []
        for number, blob in enumerate(manifest.layers):
            if mediatypes.is_foreign(blob.media_type):
                continue
            known = (diff_ids[number], stacks[number]) if diff_ids else (None, None)
            layer = LayerOf(_bare(blob), *known)
            tasks.append(_Task(layer, self._form(layer, blob.annotations)))
        return tasks

    def _diff_ids(self, manifest: Manifest) -> list[Digest]:
        """None where they do not fit the layers: that is no image to be unpacked, whatever it says it is."""
        if not manifest.is_image:
            return []
        data = self._configs.get(manifest.config.digest) or self._source.read(manifest.config, MAX_CONFIG)
        self._configs[manifest.config.digest] = data
        try:
            diff_ids = list(parse_config(data, str(manifest.config.digest)).diff_ids)
        except ManifestError:
            return []
        return diff_ids if len(diff_ids) == len(manifest.layers) else []

    def _form(self, layer: LayerOf, annotations: Mapping[str, str]) -> Form | None:
        """The form that a layer goes in; None: its own."""
        own, form = mediatypes.layer_compression(layer.blob.media_type), self._wanted.form
        if form is None or layer.diff_id is None or own is None:
            return None
        chunked = any(key.startswith(ABOUT_CHUNKED) for key in annotations)
        if own == form.codec and (chunked or own == form.compression):
            return None
        if own == "none" or self._wanted.force:
            return form
        if form.compression not in _UNASKED:
            self._warnings.append(f"layers that are {own} already stay so: --force-compression makes them anew")
        return None

    def _config_tasks(self) -> list[_Task]:
        done = {digest for digest, _ in self._blobs}
        configs = {found.digest: found for found in map(self._config, self._manifests()) if found.digest not in done}
        return [_Task(LayerOf(_bare(config))) for config in configs.values()]

    def _config(self, manifest: Manifest) -> Descriptor:
        """The configuration of a manifest whose layers are there: it says what their tars are now."""
        tasks = self._of_manifest(manifest)
        others = {task.layer.diff_id: self._diff_ids_now.get(task.key, task.layer.diff_id) for task in tasks}
        if all(old == new for old, new in others.items()):
            return manifest.config
        now = [others.get(diff_id, diff_id) for diff_id in self._diff_ids(manifest)]
        value = jsontext.parse_object(self._configs[manifest.config.digest], str(manifest.config.digest), MAX_CONFIG)
        data = jsontext.write({**value, "rootfs": {**value["rootfs"], "diff_ids": now}})
        self._configs[digest_of(data)] = data
        return manifest.config._replace(digest=digest_of(data), size=len(data))

    def _require_preserved(self, tasks: Iterable[_Task]) -> None:
        others = any(task.form for task in tasks) or any(
            wants(found, self._format) for found in self._documents.values()
        )
        if self._wanted.preserve and others:
            raise UsageError(
                f"{self._source.name}: would get another digest by what is asked for: leave out --preserve-digests, or"
                " the compression and the manifest format"
            )

    # ---- blobs ----------------------------------------------------------------------------------------------

    def _move_blobs(self, tasks: list[_Task]) -> None:
        results = map_ordered(self._move_blob, tasks, min(self._destination.workers, len(tasks)))
        for task, blob in zip(tasks, results, strict=True):
            self._blobs[task.layer.blob.digest, task.form] = blob

    def _move_blob(self, task: _Task) -> Descriptor:
        blob, form = task.layer.blob, task.form
        write = self._source.writer(task.layer, form)
        if write is not None:
            return self._make(task, write)
        track = Track(self._teller, blob.digest, blob.size, short(blob.digest))
        went = track.begin("sending")
        how = self._destination.put(task.layer, self._data(blob), went)
        self._ended(track, how, blob)
        return blob

    def _data(self, blob: Descriptor) -> Callable[[int], Iterator[bytes | memoryview]]:
        if blob.digest in self._configs:
            return lambda offset: iter((memoryview(self._configs[blob.digest])[offset:],))
        return lambda offset: self._source.open(blob, offset)

    def _make(self, task: _Task, write: Write) -> Descriptor:
        """A layer that has to be made, unless what it comes to is known and there."""
        layer, form = task
        known = None if form is None else self._source.known_form(layer, form)
        blob = layer.blob if form is None else known and known.descriptor
        track = Track(self._teller, None, None, short(layer.diff_id or layer.blob.digest))
        if blob is not None and self._destination.has(blob):
            self._ended(track, How.PRESENT, blob)
        elif blob is not None and self._destination.mount(blob):
            self._ended(track, How.MOUNTED, blob)
        else:
            with self._making:
                known = self._destination.put_made(layer, write, track.begin("compressing"))
            self._warnings += known.warnings
            if form is not None:
                self._source.note_form(layer, form, known)
            blob = known.descriptor
            self._ended(track, How.UPLOADED, blob)
        if known is not None and form is not None:
            self._diff_ids_now[task.key] = known.diff_id
        return blob

    def _ended(self, track: Track, how: How, blob: Descriptor) -> None:
        with self._count:
            self._hows[how] += 1
            self._sent += blob.size if how is How.UPLOADED else 0
        track.end(_DOING[how], blob.digest, blob.size)

    # ---- manifests ------------------------------------------------------------------------------------------

    def _settle(self, root: Descriptor, *, named: bool = False) -> Descriptor:
        """A manifest or index, when all below it is there; what it is now."""
        document = self._documents.get(root.digest)
        if document is None or root.digest in self._settled:
            return self._settled.get(root.digest, root)
        data = self._index(document) if isinstance(document, ImageIndex) else self._manifest(document)
        found = root._replace(annotations={}, platform=None, extra={})
        if data != document.raw:
            found = (parse_index if isinstance(document, ImageIndex) else parse_manifest)(data).descriptor
        if named:
            self._destination.commit(found, data, subject_of(document))
        else:
            self._destination.put_manifest(found, data, subject_of(document))
        self._settled[root.digest] = found
        return found

    def _manifest(self, manifest: Manifest) -> bytes:
        tasks = {task.layer.blob.digest: self._blobs[task.key] for task in self._of_manifest(manifest)}
        layers = [_become(layer, tasks.get(layer.digest)) for layer in manifest.layers]
        if layers == list(manifest.layers) and not wants(manifest, self._format):
            return manifest.raw
        return rewritten_manifest(manifest, self._config(manifest), layers, self._format, self._source.name)

    def _index(self, index: ImageIndex) -> bytes:
        children = {child.digest: self._settle(child) for child in index.manifests}
        if all(digest == child.digest for digest, child in children.items()) and not wants(index, self._format):
            return index.raw
        return rewritten_index(index, children, self._format, self._source.name)


def _bare(blob: Descriptor) -> Descriptor:
    return Descriptor(blob.media_type, blob.digest, blob.size)


def subject_of(document: Manifest | ImageIndex) -> Digest | None:
    """What a manifest refers to (image-spec manifest.md, ``subject``)."""
    subject = document.value.get("subject")
    try:
        return Digest(str(subject["digest"])) if isinstance(subject, dict) else None
    except (KeyError, ValueError):
        return None


def _become(layer: Descriptor, found: Descriptor | None) -> Descriptor:
    """A layer of a manifest as it is now. Annotations say what a layer is, or how its old blob was made: those go."""
    if found is None or found.digest == layer.digest:
        return layer
    kept = {key: value for key, value in layer.annotations.items() if not key.startswith(ABOUT_CHUNKED)}
    return layer._replace(
        media_type=found.media_type,
        digest=found.digest,
        size=found.size,
        annotations={**kept, **found.annotations},
        extra={key: value for key, value in layer.extra.items() if key not in ("data", "urls")},
    )
