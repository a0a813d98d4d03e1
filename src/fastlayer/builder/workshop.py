"""What all steps of one build share: the store, a lease, the cache, the way to run commands."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fastlayer.builder.cache import Cache, Inputs, Step
from fastlayer.errors import FastlayerError
from fastlayer.store.collect import work_place

if TYPE_CHECKING:
    from fastlayer.builder.context.context import Context
    from fastlayer.builder.effects import Given
    from fastlayer.builder.explain import Details
    from fastlayer.builder.options import Options
    from fastlayer.builder.progress import Journal
    from fastlayer.builder.sharing.imports import Imports
    from fastlayer.builder.state import State
    from fastlayer.image.images import Image, LayerInfo
    from fastlayer.metadata.leases import Lease
    from fastlayer.running.isolation import Isolation
    from fastlayer.snapshot.snapshotter import Snapshotter
    from fastlayer.store.store import Store

T = TypeVar("T")


class Stopped(FastlayerError):
    """Another part of the build failed, or Ctrl-C: work that is under way ends."""


class Workshop:
    """A context manager: what steps opened for each other ends with it. Used by the threads of all stages."""

    def __init__(
        self, store: Store, options: Options, given: Given, journal: Journal, context: Context, imports: Imports
    ) -> None:
        self.store = store
        self.context = context
        self.options = options
        self.given = given
        self.imports = imports
        self.cache = Cache(store, imports)
        self.journal = journal
        self.stop = threading.Event()
        self.warnings: list[str] = []
        self.late: list[str] = []  # warnings that come after the image is complete
        self.steps: list[tuple[Step, bool]] = []  # and whether the cache had it
        self.bases: dict[str, str] = {}  # names of images that were looked up, and what they named
        self.repeatable = True  # whether all that was looked at is in the store and the context
        self.used: list[Step] = []  # besides: of what was looked up for the image as a whole
        self.taken: list[tuple[Step, str, Inputs]] = []  # from other caches, with their instructions
        self.elsewhere: set[str] = set()  # keys of those whose layers did not come into the store
        self.mounts: set[str] = set()  # ids of cache mounts that steps had
        self._ends = ExitStack()
        self._lock = threading.RLock()
        self._shared: dict[str, object] = {}
        self._unpacking = threading.Lock()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def looked_up(self, name: str, image: Image) -> None:
        """Notes what a name of the store meant."""
        from fastlayer.image.images import full_name_if_any

        full = full_name_if_any(name)
        self.bases[full] = str(image.target.digest)
        self.repeatable &= full in image.names

    def found(self, step: Step) -> None:
        """Counts a step that the cache had."""
        self.steps.append((step, True))

    def took(self, step: Step, what: str, inputs: Inputs) -> None:
        """Notes a step that is of another cache."""
        if step.imported:
            self.taken.append((step, what, inputs))

    def made(self, step: Step) -> None:
        """Counts a step that was done now."""
        self.steps.append((step, False))

    def moment(self, created_ns: int) -> str:
        """For ``created`` fields (RFC 3339), or what SOURCE_DATE_EPOCH says."""
        epoch = self.options.epoch
        return timestamp(created_ns if epoch is None else epoch * 10**9)

    def check(self) -> None:
        """Raises ``Stopped`` when the build is over."""
        if self.stop.is_set():
            raise Stopped("the build was stopped")

    def once(self, name: str, make: Callable[[ExitStack], T]) -> T:
        """What is made by whoever needs it first; what it puts on the stack ends with the build."""
        with self._lock:
            if name not in self._shared:
                self._shared[name] = make(self._ends)
            return self._shared[name]  # type: ignore[return-value]

    def will_have(self, mount: str) -> None:
        """A step is going to have this cache mount, which may be in another cache."""
        self.mounts.add(mount)
        if any(wanted.mounts for wanted in self.options.cache_from):
            from fastlayer.builder.sharing.mounts import bring

            bring(self, mount)

    def named_context(self, name: str) -> Context | None:
        """The directory that ``--build-context name=`` gives; None: there is none of that name, or it is an image."""
        from fastlayer.builder.context.context import open_context
        from fastlayer.builder.context.sources import context_name

        given = self.options.contexts.get(context_name(name))
        if given is None or given.kind in ("image", "layout", "stage"):
            return None
        root = self.store.root
        return self.once(
            f"context {name}",
            lambda ends: ends.enter_context(open_context(given, named=True, store=root, git=self.options.git)),
        )

    def content_difference(self, old: Details, new: Details) -> str:
        """What differs first between what two steps copied, in words."""
        from fastlayer.builder.steps.contents import difference

        return difference(self.store.database, old, new, self.imports.node)

    @property
    def lease(self) -> Lease:
        """Keeps what the build makes until an image or the cache has it. A build that finds everything has none."""
        return self.once("lease", lambda ends: ends.enter_context(self.store.lease("build")))

    @property
    def snapshotter(self) -> Snapshotter:
        with self._lock:
            return self.store.snapshotter

    @property
    def isolation(self) -> Isolation:
        """How commands are run. Raises ``RunError`` where none can be, ``DriverError`` when the driver does not fit."""
        return self.once("isolation", lambda _: self._choose_isolation())

    def _choose_isolation(self) -> Isolation:
        from fastlayer.builder.fitting import check_fit
        from fastlayer.running.isolation import choose

        found = choose(self.options.isolation)
        check_fit(self.store, found)
        return found

    def directory(self) -> Path:
        """A new directory that ends with the build; only its owner can look into it."""
        root = self.once("directory", self._make_directory)
        place = root / os.urandom(6).hex()
        place.mkdir(mode=0o700)
        return place

    def _make_directory(self, ends: ExitStack) -> Path:
        """Named after the lease: when its holder was killed the next collection clears it away."""
        from fastlayer.layer.target import remove_tree

        place = work_place(self.store.root) / self.lease.id
        place.mkdir(parents=True, mode=0o700)
        ends.callback(remove_tree, place)
        return place

    def new_key(self) -> str:
        """A name for a snapshot under work."""
        return f"build-{self.lease.id}-{os.urandom(6).hex()}"

    def ensure(self, state: State) -> str | None:
        """The snapshot of all layers of a state, made now if the driver in use has not got it; its name.

        Raises ``CacheGoneError`` when a layer is in another cache, and cannot be had from it.
        """
        from fastlayer.image.unpack import layer_sources, unpack
        from fastlayer.store.collect import claim_blobs, claim_snapshots

        if state.chain is None:
            return None
        with self._unpacking:
            claim_blobs(self.store, self.lease, (layer.digest for layer in state.layers))  # and with them, who they are
            if not claim_snapshots(self.store, self.lease, self.snapshotter.driver.name, [state.chain]):
                self.bring(state.layers)
                sources = layer_sources(self.store, state.layers)
                self.warnings += unpack(self.store, self.lease, sources, jobs=self.options.jobs).warnings
        return state.chain

    def bring(self, layers: Sequence[LayerInfo]) -> None:
        """The layers of a stack that only other caches have come into the store. Raises ``CacheGoneError``."""
        if self.imports:
            from fastlayer.builder.sharing.taking import bring

            bring(self, layers)

    def put_on(self, state: State, step: Step) -> None:
        """A layer that was made on another stack comes onto this one, as a snapshot of the driver in use."""
        from fastlayer.builder.repeats import keep_moved
        from fastlayer.image.unpack import layer_sources, unpack, unstacked
        from fastlayer.oci.chain import chain_ids

        if step.imported:
            return  # its files come when somebody needs them
        assert step.layer is not None and step.chain is not None
        with self._unpacking:
            sources = [*layer_sources(self.store, state.layers), unstacked(self.store, step.layer, step.chain)]
            self.warnings += unpack(self.store, self.lease, sources, jobs=self.options.jobs).warnings
            here = chain_ids([*state.diff_ids, step.layer.diff_id])[-1]
            keep_moved(self, step.layer, step.chain, str(here))

    @contextmanager
    def tree(self, state: State) -> Iterator[Path]:
        """The files of a state as a directory, to be read only, where nobody else sees it."""
        from fastlayer.mounts.mounting import as_directory

        chain = self.ensure(state)
        if chain is None:
            empty = self.directory()
            empty.chmod(0o755)  # what it is in keeps others out
            yield empty
            return
        key = self.new_key()
        snapshotter = self.snapshotter
        snapshotter.view(key, chain, lease=self.lease)
        try:
            with as_directory(snapshotter.ready(key)) as path:
                yield path
        finally:
            snapshotter.remove(key)


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 with all digits, in UTC."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + (f".{rest:09d}Z" if rest else "Z")
