"""The rules of `docker cp`: which name a copy gets.

=====================  ==============================  ====================================  ========================
SRC                    DEST is not there               DEST is a directory                   DEST is something else
=====================  ==============================  ====================================  ========================
a file                 gets that name; ``DEST/`` is    goes into it                          takes its place; outside,
                       refused                                                               refused if not a file
a directory            gets that name                  goes into it, and is merged with      refused
                                                       what has its name there
``DIR/.``              as a directory                  its content goes into it              refused
=====================  ==============================  ====================================  ========================

A link that is the last part of SRC is copied as a link, one that is the last part of DEST is followed.
(docs.docker.com/reference/cli/docker/container/cp)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastlayer.container.cp.behind import Sides
from fastlayer.container.cp.put import Owner, fill, own, put_file, put_tree
from fastlayer.container.cp.spot import Side, Spot, located, opened_directory
from fastlayer.errors import NotFoundError, OperandError, StorageError, UsageError
from fastlayer.layer.clone import lies_inside
from fastlayer.layer.progress import ProgressCallback


def copy(
    source: Side,
    dest: Side,
    *,
    follow: bool = False,
    owner: Owner | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[str, ...]:
    """Copies ``source`` to ``dest``; returns warnings.

    ``follow``: a link that SRC ends with is followed. ``owner``: whom everything that is copied belongs to; None: as it
    is. Raises ``NotFoundError``, ``OperandError``, ``StorageError``; then the names of DEST are what they were.
    """
    if not dest.path:
        raise UsageError(f"{dest.label}: the path is empty: name the place, `{dest.label}/` for the root")
    with _explained(dest), found(source, follow=follow) as what, located(dest, follow=True) as where:
        if not what.is_directory:
            return _copy_file(what, Sides(source, dest), where, owner)
        with tree_of(source, what) as tree, _directory_for(source, what, dest, where) as target:
            if lies_inside(target, tree):
                raise OperandError(f"{dest.shown}: lies inside {source.shown}, or is it")
            if _is_written_inside(tree, dest, target):
                raise OperandError(f"{source.shown}: holds the store, which gets the copy: copy what is beside")
            return put_tree(tree, target, owner, Sides(source, dest), progress)


def extract(
    archive: object, dest: Side, *, owner: Owner | None = None, progress: ProgressCallback | None = None
) -> tuple[str, ...]:
    """Puts what a tar (plain or compressed) holds into the directory ``dest``; returns warnings. Nothing is put there
    before all of it has been read. Raises ``LayerError`` for a damaged one."""
    from fastlayer.layer.apply import apply
    from fastlayer.store.store import may_make_devices, may_own_all

    def unpack(place: int) -> tuple[str, ...]:
        warnings = apply(
            [archive],  # type: ignore[list-item]
            place,
            ignore_chown=not may_own_all(),
            skip_devices=not may_make_devices(),
            progress=progress,
        ).warnings
        if owner is not None:
            own(place, owner)
        return warnings

    with _explained(dest), located(dest, follow=True) as where:
        if not where.is_directory:
            raise OperandError(f"{dest.shown}: an archive goes into a directory that exists")
        with where.directory() as target:
            return fill(target, unpack)


@contextmanager
def found(source: Side, *, follow: bool) -> Iterator[Spot]:
    """Where SRC is. Raises ``NotFoundError``, ``OperandError``."""
    if not source.path:
        raise UsageError(f"{source.label}: the path is empty: name what is to be copied")
    with located(source, follow=follow) as what:
        if what.status is None:
            raise NotFoundError(f"{source.shown}: no such file or directory")
        if source.says_directory and not what.is_directory:
            raise OperandError(f"{source.shown}: is not a directory")
        if stat.S_ISSOCK(what.status.st_mode):
            raise OperandError(f"{source.shown}: is a socket, which means nothing without the process that made it")
        yield what


@contextmanager
def tree_of(source: Side, what: Spot) -> Iterator[int]:
    """A descriptor of the directory that SRC is. Raises ``StorageError``."""
    with ExitStack() as stack:
        try:
            fd = stack.enter_context(what.directory())
        except OSError as exc:
            raise StorageError(exc.errno or 0, "open", source.label + os.fsdecode(source.path)) from exc
        yield fd


def _is_written_inside(tree: int, dest: Side, target: int) -> bool:
    """Whether what goes into ``target`` comes to lie in ``tree`` by way of an overlay, which shows it as elsewhere."""
    on_overlay = os.fstat(target).st_dev == os.fstat(dest.root).st_dev
    return on_overlay and any(lies_inside(written, tree) for written in dest.layers[:1])


def _copy_file(what: Spot, sides: Sides, where: Spot, owner: Owner | None) -> tuple[str, ...]:
    dest, name = sides.dest, what.name_in(sides.source)
    if where.is_directory:
        with where.directory() as target:
            there = _kind(target, name)
            if there is not None and stat.S_ISDIR(there):
                raise OperandError(f"{dest.shown}: has a directory of that name, which a file does not replace")
            put_file(what, target, name, owner, sides)
        return ()
    if dest.says_directory and where.status is not None:
        raise OperandError(f"{dest.shown}: is not a directory")
    if dest.says_directory:
        raise NotFoundError(f"{dest.shown}: no such directory: make it first, or leave out the slash")
    if not dest.label:
        _refuse_special(where, dest)
    put_file(what, where.parent, where.name, owner, sides)
    return ()


def _refuse_special(where: Spot, dest: Side) -> None:
    """``/dev/null`` and its like are the system's: nobody who names them means that a file takes their place."""
    if where.status is not None and not stat.S_ISREG(where.status.st_mode):
        raise OperandError(f"{dest.shown}: is neither a file nor a directory: give a name there, or `-` for a tar")


@contextmanager
def _directory_for(source: Side, what: Spot, dest: Side, where: Spot) -> Iterator[int]:
    """The directory that the content of a directory goes into, made if need be."""
    if where.status is None:
        with _new(where.parent, where.name) as fd:
            yield fd
        return
    if not where.is_directory:
        raise OperandError(f"{dest.shown}: is not a directory, which {source.shown} is")
    name = what.name_in(source)
    with where.directory() as target:
        if source.says_content or not name:
            yield target
            return
        there = _kind(target, name)
        if there is None:
            with _new(target, name) as fd:
                yield fd
        elif stat.S_ISDIR(there):
            with opened_directory(target, name) as fd:
                yield fd
        else:
            raise OperandError(f"{dest.shown}: has something of that name that is no directory: remove it first")


@contextmanager
def _new(parent: int, name: bytes) -> Iterator[int]:
    """A directory that stays if the block does."""
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        with opened_directory(parent, name) as fd:
            yield fd
    except BaseException:
        os.rmdir(name, dir_fd=parent)
        raise


def _kind(directory: int, name: bytes) -> int | None:
    try:
        return os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _explained(dest: Side) -> Iterator[None]:
    """What the system refuses is about the place that is written to."""
    try:
        yield
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(exc.errno or 0, "copy", dest.label + os.fsdecode(dest.path)) from exc
