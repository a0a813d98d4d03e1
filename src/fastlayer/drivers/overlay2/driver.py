"""The storage driver ``overlay2`` (the protocol and its rules: ``snapshot/driver.py``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastlayer.drivers import folders
from fastlayer.drivers.attributes import drop_trusted
from fastlayer.drivers.overlay2 import layout, settings
from fastlayer.drivers.paths import with_parents
from fastlayer.drivers.system import refusals
from fastlayer.errors import DriverError
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.overlay import MAX_LOWERS
from fastlayer.snapshot.driver import NO_OPTIONS, Kind, LayerTarget, Options, Probe, State, Usage

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED_NS = 86_399 * 10**9  # the time of a root that no entry has spoken of yet; no layer's own, by all odds


class Overlay2:
    """Snapshots as overlayfs layers below ``root``: ``layout.py`` describes it, ``settings.py`` their options.

    In a user namespace (``unshare -Urm``) the marks are ``user.*`` attributes (``userxattr``).
    """

    name = "overlay2"
    independent = True
    directories = False

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))

    @classmethod
    def probe(cls, root: Path) -> Probe:
        from fastlayer.drivers.overlay2.probe import probe

        return probe(root)

    @classmethod
    def working_options(cls, root: Path) -> tuple[str, ...]:
        from fastlayer.drivers.overlay2.probe import working_options

        return working_options(root)

    # ---- places ------------------------------------------------------------------------------

    def _place(self, number: int) -> Path:
        return self.root / str(number)

    def _diff(self, number: int) -> Path:
        return self.root / str(number) / "diff"

    def _lowers(self, parents: Sequence[int]) -> tuple[str, ...]:
        """Top first; the empty directory where there is none."""
        base = os.fspath(self.root)
        return tuple(f"{base}/{number}/diff" for number in parents) or (f"{base}/empty",)

    def _layout(self) -> layout.Layout:
        """As it is, or as the first snapshot will make it."""
        return layout.read(self.root) or layout.Layout(layout.natural_format())

    def _marks(self, known: layout.Layout, numbers: Sequence[int]) -> layout.Marks:
        if not (known.metacopy or known.redirect_dir):
            return layout.NO_MARKS
        return layout.marks_in(self._place(number) for number in numbers)

    # ---- making ------------------------------------------------------------------------------

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        if len(parents) >= MAX_LOWERS:
            raise DriverError(f"{len(parents)} layers: overlayfs stacks at most {MAX_LOWERS}: squash the image")
        with refusals("cannot make the snapshot"):
            if layout.read(self.root) is None:
                layout.settle(self.root, self._layout())
            place = self._place(number)
            os.mkdir(place, 0o700)
            if kind == "view":
                return
            diff, work = place / "diff", place / "work"
            os.mkdir(diff, 0o755)
            os.mkdir(work, 0o700)
            os.chmod(diff, 0o755)
            os.utime(diff, (0, 0))  # on every machine and at any time the same
            if size is not None:
                from fastlayer.drivers import quota

                quota.limit((diff, work), size)
            if parents:
                copy_root(self._diff(parents[0]), diff)

    @contextmanager
    def layer_target(self, number: int, parents: Sequence[int]) -> Iterator[LayerTarget]:
        diff, form = self._diff(number), self._layout().format
        with refusals("cannot prepare the layer"):
            (self._place(number) / "extracted").touch()
        if parents:
            yield LayerTarget(diff, form)
            return
        with refusals("cannot mark the layer"):
            os.utime(diff, ns=(_IMPLIED_NS, _IMPLIED_NS))
        yield LayerTarget(diff, form)
        with refusals("cannot mark the layer"):  # only an entry for the root sets its time
            if diff.stat().st_mtime_ns // 10**9 == _IMPLIED_NS // 10**9:
                os.utime(diff, (0, 0))
                (self._place(number) / "implied").touch()

    def seal(self, number: int, parents: Sequence[int]) -> None:
        place, diff = self._place(number), self._diff(number)
        extracted, implied = place / "extracted", place / "implied"
        with refusals("cannot seal the snapshot"):
            if extracted.exists():
                from fastlayer.drivers.overlay2.whiteouts import drop_pointless

                drop_pointless(diff, [Path(lower) for lower in self._lowers(parents)])
            if parents and implied.exists():
                copy_root(self._diff(parents[0]), diff)
            for note in (extracted, implied):
                note.unlink(missing_ok=True)
            from fastlayer.drivers import quota

            if project := quota.project(diff):
                quota.unlimit(diff, project)
            folders.remove(place, b"work")
            if (place / layout.BOOT).exists():
                from fastlayer.drivers.overlay2 import unsynced

                unsynced.forget(place)

    def duplicate(self, number: int, parents: Sequence[int], source: int, *, live: bool = False) -> int:
        with refusals("cannot copy the snapshot"):
            os.mkdir(self._place(number), 0o700)
            changed = self._copy(number, source, live=live)
            drop_trusted(self._diff(number), keep=("trusted.overlay.",))
        return changed

    def fork(
        self, number: int, parents: Sequence[int], source: int, *, size: int | None = None, live: bool = False
    ) -> int:
        self.create(number, parents, "active", size=size)
        with refusals("cannot copy the snapshot"):
            return self._copy(number, source, live=live)

    def _copy(self, number: int, source: int, *, live: bool) -> int:
        from fastlayer.layer.clone import clone

        layout.note_marks(self._place(number), self._marks(self._layout(), [source]))
        stats = clone(self._diff(source), self._diff(number), live=live)
        lost = [warning for warning in stats.warnings if "socket" not in warning]
        if lost:
            raise DriverError(f"snapshot {source}: cannot be copied exactly: {'; '.join(lost)}")
        return stats.changed

    # ---- using -------------------------------------------------------------------------------

    def check_options(self, options: Options, kind: Kind) -> None:
        chosen = settings.settings(options)
        if kind == "view":
            settings.check_view(options)
        settings.check(chosen, self._layout())

    def mounts(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> list[Mount]:
        known, chosen = self._layout(), settings.settings(options)
        there = self._marks(known, [number, *parents])
        if kind == "active":
            place = self._place(number)
            words = settings.mount_options(known.format, there, settings.may_make(chosen, there))
            uppers = (f"upperdir={place}/diff", f"workdir={place}/work", *words)
            last = ("volatile",) if chosen.volatile else ()
            return [Mount("overlay", "overlay", ("rw", *uppers, *last), self._lowers(parents), chosen.id_map)]
        lowers = self._lowers([number, *parents] if kind == "committed" else parents)
        if len(lowers) == 1:  # the kernel wants two; a bind mount would show whiteouts and marks
            lowers = (*lowers, os.fspath(self.root / "empty"))
        words = settings.mount_options(known.format, there)
        return [Mount("overlay", "overlay", ("ro", *words), lowers, chosen.id_map)]

    def make_ready(
        self,
        number: int,
        parents: Sequence[int],
        kind: State,
        options: Options = NO_OPTIONS,
    ) -> None:
        """Remembers which marks will be made, before there are any, and that nothing is synced from now on."""
        if kind != "active":
            return
        place, known, chosen = self._place(number), self._layout(), settings.settings(options)
        made = settings.may_make(chosen, self._marks(known, [number, *parents]))
        with refusals("cannot prepare the mount"):
            if made != layout.NO_MARKS:
                layout.settle(self.root, layout.Layout(known.format, made.metacopy, made.redirects))
                layout.note_marks(place, made)
            if chosen.volatile:
                from fastlayer.drivers.overlay2 import unsynced

                unsynced.begin(place)

    def sync(self, number: int) -> None:
        from fastlayer.drivers.overlay2 import unsynced

        with refusals("cannot sync the snapshot"):
            unsynced.settle(self._place(number))

    def changes(self, number: int, parents: Sequence[int]) -> Changes:
        from fastlayer.layer.diff import diff_upper

        with refusals("cannot read the changes"):
            diff = self._diff(number)
            upper = diff if diff.exists() else self.root / "empty"  # a view changes nothing
            lowers = list(self._lowers(parents)) if upper is diff else [os.fspath(upper)]
            return diff_upper(upper, lowers, userxattr=self._layout().format == "overlay-userxattr")

    def usage(self, number: int, parents: Sequence[int]) -> Usage:
        from fastlayer.drivers.usage import tree_usage

        with refusals("cannot measure the snapshot"):
            try:
                return tree_usage(self._diff(number))
            except FileNotFoundError:
                if self._place(number).is_dir():
                    return Usage(0, 0)  # a view
                raise

    def own_tree(self, number: int) -> Path | None:
        diff = self._diff(number)
        return diff if diff.is_dir() else None

    def copy_up(self, number: int, parents: Sequence[int], paths: Sequence[bytes]) -> int:
        from fastlayer.drivers.overlay2.lookup import decides, provider
        from fastlayer.layer.clone import copy_up

        lowers = [Path(lower) for lower in self._lowers(parents)]
        diff, work, shared = self._diff(number), self._place(number) / "work", 0
        with refusals("copy-up"):
            for path in paths:
                for name in with_parents(path):
                    if not decides(diff, name):
                        stats = copy_up(provider(lowers, name), diff, name, workdir=work)
                        shared += stats.shared_bytes
        return shared

    # ---- removing ----------------------------------------------------------------------------

    def remove(self, number: int) -> None:
        from fastlayer.drivers import quota

        with refusals("cannot remove the snapshot"):
            project = quota.project(self._diff(number))
            folders.remove(self.root, b"%d" % number)
            if project:
                quota.unlimit(self.root, project)

    def set_aside(self, number: int) -> Path | None:
        place = self._place(number)
        with refusals("cannot move the snapshot"):
            return folders.set_aside(self.root, place) if folders.is_filled(place / "diff") else None

    def numbers(self) -> set[int]:
        with refusals("cannot list the snapshots"):
            return folders.numbers(self.root)


def copy_root(source: Path, target: Path) -> None:
    """Owner, mode, extended attributes and times of a directory, without overlayfs' own marks."""
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, status.st_mode & 0o7777)
    for name in os.listxattr(source):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as exc:
                if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP):  # labels, in a user namespace
                    raise
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
