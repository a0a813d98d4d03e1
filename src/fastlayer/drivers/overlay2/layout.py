"""The driver's directory, and what all snapshots in it have in common.

::

    <root>/layout.json      {"format": "overlay" | "overlay-userxattr", "metacopy": bool, "redirect_dir": bool}
    <root>/empty/           a lower directory for those that have none
    <root>/<number>/diff/   what the snapshot changes: upperdir, later a lowerdir (no view has one)
    <root>/<number>/work/   workdir, until it is sealed
    <root>/<number>/extracted a layer was put into it: looked through when it is sealed
    <root>/<number>/implied the layer said nothing of its root: it gets the parent's attributes when it is sealed
    <root>/<number>/boot    of a volatile one: the boot in which it was last made ready for mounting
    <root>/<number>/metacopy, redirects   its changes may have such marks

Where the marks of overlayfs are - ``trusted.*`` attributes, which only root of the initial user namespace may read, or
``user.*`` - is settled for the whole directory by the first who writes into it.

That ``metacopy`` or ``redirect_dir`` was on once is remembered for ever, for the directory and for each snapshot that
was written to so: with the options off the kernel refuses whatever has such marks (EPERM). A mount gets the options
that its own layers need, and no others.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import CorruptStoreError, DriverError, StorageError

Format = Literal["overlay", "overlay-userxattr"]
BOOT = "boot"  # the note of a volatile snapshot (``unsynced.py``)
_NAME = "layout.json"
_ALL_IDS = ["0", "0", "4294967295"]


class Marks(NamedTuple):
    """Marks in changes that the kernel follows only when it is told to: files whose data are in a lower layer, and
    directories (and, with the former, files) that were renamed."""

    metacopy: bool = False
    redirects: bool = False


NO_MARKS = Marks()


class Layout(NamedTuple):
    """What holds for the whole directory. ``metacopy``, ``redirect_dir``: there may be snapshots with such marks."""

    format: Format
    metacopy: bool = False
    redirect_dir: bool = False


def is_real_root() -> bool:
    """Root of the initial user namespace: who may use ``trusted.*`` attributes."""
    if os.geteuid() != 0:
        return False
    try:
        return Path("/proc/self/uid_map").read_text().split() == _ALL_IDS
    except OSError:
        return True  # no /proc: a guess that the first mount proves or refuses


def natural_format() -> Format:
    """What the calling process can use."""
    return "overlay" if is_real_root() else "overlay-userxattr"


def read(root: Path) -> Layout | None:
    """None before the first snapshot. Raises ``CorruptStoreError``, and ``DriverError`` for one we may not use."""
    path = root / _NAME
    try:
        value: Any = json.loads(path.read_bytes())
        layout = Layout(value["format"], bool(value["metacopy"]), bool(value["redirect_dir"]))
        if layout.format not in ("overlay", "overlay-userxattr"):
            raise ValueError(layout.format)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot read", os.fspath(path)) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise CorruptStoreError(f"{path}: is damaged: write the format of the directories below into it again") from exc
    if layout.format == "overlay" and not is_real_root():
        raise DriverError(
            f"{root}: was made by root, whose marks only root can read: run as root, or use another store"
        )
    return layout


def settle(root: Path, wanted: Layout) -> Layout:
    """What holds from now on: what is there already, and ``metacopy`` and ``redirect_dir`` if they are new."""
    (root / "empty").mkdir(mode=0o755, exist_ok=True)
    found = read(root)
    if found is None:
        _write(root, wanted, new=True)
    elif _joined(found, wanted) != found:
        with _alone(root):  # what another process adds at this moment must not get lost
            _write(root, _joined(read(root) or found, wanted), new=False)
    else:
        return found
    return settle(root, wanted)  # somebody may have been faster


def _joined(found: Layout, wanted: Layout) -> Layout:
    return Layout(found.format, found.metacopy or wanted.metacopy, found.redirect_dir or wanted.redirect_dir)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The kernel drops the lock when the process ends."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(root: Path, layout: Layout, *, new: bool) -> None:
    temporary = root / f".{_NAME}-{os.urandom(6).hex()}"
    try:
        with open(temporary, "w") as file:
            file.write(json.dumps(layout._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())  # once in a store's life; the marks it announces must not survive it
        if new:
            try:
                os.link(temporary, root / _NAME)
            except FileExistsError:
                pass
        else:
            os.rename(temporary, root / _NAME)
    finally:
        temporary.unlink(missing_ok=True)


def marks_in(places: Iterable[Path]) -> Marks:
    """What the changes of these snapshots may have, together. Notes without content: a crash keeps their order."""
    metacopy = redirects = False
    for place in places:
        metacopy = metacopy or (place / "metacopy").exists()
        redirects = redirects or (place / "redirects").exists()
    return Marks(metacopy, redirects)


def note_marks(place: Path, marks: Marks) -> None:
    """Remembers it for a snapshot."""
    for name, may_be_there in marks._asdict().items():
        if may_be_there:
            (place / name).touch()
