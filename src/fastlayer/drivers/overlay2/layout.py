"""The driver's directory, and what all snapshots in it have in common.

::

    <root>/layout.json      {"format": "overlay" | "overlay-userxattr", "metacopy": bool, "redirect_dir": bool}
    <root>/empty/           a lower directory for those that have none
    <root>/<number>/diff/   what the snapshot changes: upperdir, later a lowerdir (no view has one)
    <root>/<number>/work/   workdir, until it is sealed
    <root>/<number>/extracted a layer was put into it: looked through when it is sealed
    <root>/<number>/implied the layer said nothing of its root: it gets the parent's attributes when it is sealed
    <root>/<number>/boot    of a volatile one: the boot in which it was last made ready for mounting

Where the marks of overlayfs are - ``trusted.*`` attributes, which only root of the initial user namespace may read, or
``user.*`` - is settled for the whole directory by the first who writes into it. That ``metacopy`` or ``redirect_dir``
was on once is remembered for ever: the kernel does not follow such marks when the options are off.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastlayer.errors import CorruptStoreError, DriverError, StorageError

Format = Literal["overlay", "overlay-userxattr"]
_NAME = "layout.json"
_ALL_IDS = ["0", "0", "4294967295"]


class Layout(NamedTuple):
    """What mounts of this directory need."""

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
    if found is not None:
        wanted = Layout(found.format, found.metacopy or wanted.metacopy, found.redirect_dir or wanted.redirect_dir)
        if wanted == found:
            return found
    _write(root, wanted, new=found is None)
    if found is None:
        return settle(root, wanted)  # somebody may have been faster
    return wanted


def _write(root: Path, layout: Layout, *, new: bool) -> None:
    temporary = root / f".{_NAME}-{os.urandom(6).hex()}"
    try:
        temporary.write_text(json.dumps(layout._asdict()) + "\n")
        if new:
            try:
                os.link(temporary, root / _NAME)
            except FileExistsError:
                pass
        else:
            os.rename(temporary, root / _NAME)
    finally:
        temporary.unlink(missing_ok=True)
