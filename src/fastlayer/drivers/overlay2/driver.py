"""The storage driver ``overlay2`` (the protocol and its rules: ``snapshot/driver.py``)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastlayer.drivers import folders
from fastlayer.drivers.attributes import drop_trusted
from fastlayer.drivers.overlay2 import layout, settings
from fastlayer.drivers.overlay2.lookup import decides, provider
from fastlayer.drivers.overlay2.whiteouts import drop_pointless
from fastlayer.drivers.paths import with_parents
from fastlayer.drivers.system import refusals
from fastlayer.errors import DriverError
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.overlay import MAX_LOWERS
from fastlayer.snapshot.driver import Kind, LayerTarget, Probe, Usage

if TYPE_CHECKING:
    from fastlayer.layer.diff import Changes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED_NS = 86_399 * 10**9  # the time of a root that no entry has spoken of yet; no layer's own, by all odds


class Overlay2:
    """Snapshots as overlayfs layers below ``root``; ``layout.py`` describes the directory, ``settings.py`` the options.

    In a user namespace (``unshare -Urm``) the marks are ``user.*`` attributes (``userxattr``).
    """

    name = "overlay2"
    independent = True

    def __init__(self, root: Path, options: Mapping[str, str] | None = None) -> None:
        self.root = Path(os.path.abspath(root))
        self.settings = settings.settings(options or {})

    @classmethod
    def probe(cls, root: Path) -> Probe:
        from fastlayer.drivers.overlay2.probe import probe

        return probe(root)

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
        wanted = self.settings
        known = layout.read(self.root)
        if known is None or (wanted.metacopy, wanted.redirect_dir) > (False, False):
            fresh = layout.Layout(
                layout.natural_format() if known is None else known.format,
                wanted.metacopy,
                wanted.redirect_dir or wanted.metacopy,  # a renamed file says where its data are by a redirect
            )
            settings.check(wanted, fresh)
            known = layout.settle(self.root, fresh)
        return known

    # ---- making ------------------------------------------------------------------------------

    def create(self, number: int, parents: Sequence[int], kind: Kind, *, size: int | None = None) -> None:
        if len(parents) >= MAX_LOWERS:
            raise DriverError(f"{len(parents)} layers: overlayfs stacks at most {MAX_LOWERS}: squash the image")
        with refusals("cannot make the snapshot"):
            self._layout()
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
                drop_pointless(diff, [Path(lower) for lower in self._lowers(parents)])
            if parents and implied.exists():
                copy_root(self._diff(parents[0]), diff)
            for note in (extracted, implied):
                note.unlink(missing_ok=True)
            from fastlayer.drivers import quota

            if project := quota.project(diff):
                quota.unlimit(diff, project)
            folders.remove(place, b"work")
            (place / "boot").unlink(missing_ok=True)

    def duplicate(self, number: int, parents: Sequence[int], source: int) -> None:
        from fastlayer.layer.clone import clone

        with refusals("cannot copy the snapshot"):
            os.mkdir(self._place(number), 0o700)
            stats = clone(self._diff(source), self._diff(number))
            drop_trusted(self._diff(number), keep=("trusted.overlay.",))
        lost = [warning for warning in stats.warnings if "socket" not in warning]
        if lost:
            raise DriverError(f"snapshot {source}: cannot be copied exactly: {'; '.join(lost)}")

    # ---- using -------------------------------------------------------------------------------

    def mounts(self, number: int, parents: Sequence[int], kind: Literal["active", "view", "committed"]) -> list[Mount]:
        found = self._layout()
        options = settings.mount_options(found, writable=kind == "active")
        id_map = self.settings.id_map
        if kind == "active":
            place = self._place(number)
            uppers = (f"upperdir={place}/diff", f"workdir={place}/work")
            if self.settings.volatile:
                self._make_ready(place)
                options = (*options, "volatile")
            return [Mount("overlay", "overlay", ("rw", *uppers, *options), self._lowers(parents), id_map)]
        lowers = self._lowers([number, *parents] if kind == "committed" else parents)
        if len(lowers) == 1:  # the kernel wants two; a bind mount would show whiteouts and marks
            lowers = (*lowers, os.fspath(self.root / "empty"))
        return [Mount("overlay", "overlay", ("ro", *options), lowers, id_map)]

    def _make_ready(self, place: Path) -> None:
        """The kernel refuses a directory that was mounted ``volatile`` before; in the same boot nothing was lost."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        note = place / "boot"
        with refusals("cannot prepare the mount"):
            last = note.read_text().strip() if note.exists() else None
            if last not in (None, boot):
                raise DriverError(
                    f"snapshot {place.name}: the machine went down while it was volatile, parts may be lost: remove it"
                )
            if last is None:
                note.write_text(boot + "\n")
            import shutil

            shutil.rmtree(place / "work" / "work" / "incompat", ignore_errors=True)

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
