"""Overlay mounts by whatever this kernel has for them.

====================  =============================================================================
``descriptors``       Linux 6.13: ``fsconfig`` takes each layer as a descriptor
``names``             Linux 6.8: each layer as a name of at most 255 bytes (``lowerdir+``)
``page``              older: all options in one page of mount(2); names relative to where they meet
====================  =============================================================================

Kernel: Documentation/filesystems/overlayfs.rst, "Multiple lower layers".
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Literal

from fastlayer import _backend
from fastlayer.errors import DriverError, StorageError
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.options import Plan

Means = Literal["descriptors", "names", "page"]
MAX_LOWERS = 500  # OVL_MAX_STACK

_MAX_STRING = 255  # of one fsconfig parameter
_MAX_PAGE = 4095  # of the options of mount(2)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_UPPERS = (b"upperdir", b"workdir")
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8

_found: Means | None = None  # by the first call of this process

Parameter = tuple[bytes, bytes | int | None]


def means() -> Means:
    """What this kernel has. Raises ``StorageError`` (ENODEV) when it has no overlayfs at all."""
    global _found
    if _found is None:
        _found = _probe()
    return _found


def _probe() -> Means:
    api = _backend.engine().mountapi
    try:
        context = api.open_fs(b"overlay")
    except StorageError as exc:
        if exc.errno == errno.ENOSYS:
            return "page"
        raise
    try:
        if _takes(context, b"fastlayer", b"1"):  # before 6.5 anything is taken, and refused only in the end
            return "page"
        root = os.open("/", _DIRECTORY)
        try:
            if _takes(context, b"lowerdir+", root):
                return "descriptors"
        finally:
            os.close(root)
        return "names" if _takes(context, b"lowerdir+", b"/") else "page"
    finally:
        os.close(context)


def _takes(context: int, key: bytes, value: bytes | int) -> bool:
    try:
        _backend.engine().mountapi.set_parameters(context, [(key, value)])
    except StorageError:
        return False
    return True


def make(mount: Mount, plan: Plan) -> int:
    """The overlay as a detached mount, by the first two means."""
    with _layers(mount, plan) as (lowers, parameters):
        if not mount.id_map:
            return _make(lowers, parameters, plan.attributes)
        from fastlayer.mounts.idmap import as_mapped_root

        return as_mapped_root(mount.id_map, lambda: _make(lowers, parameters, plan.attributes))


def _make(lowers: Sequence[bytes | int], others: Sequence[Parameter], attributes: int) -> int:
    api = _backend.engine().mountapi
    context = api.open_fs(b"overlay")
    try:
        api.set_parameters(context, [(b"source", b"overlay")])
        with closing(_parameters(lowers, others)) as parameters:
            api.set_parameters(context, parameters)
        return int(api.create_mount(context, attributes))
    finally:
        os.close(context)


def _parameters(lowers: Sequence[bytes | int], others: Sequence[Parameter]) -> Generator[Parameter, None, None]:
    """One after the other, so that no more than one layer is open at a time."""
    for lower in lowers:
        yield from _layer(b"lowerdir+", lower)
    for key, value in others:
        if key in _UPPERS and value is not None:
            yield from _layer(key, value)
        else:
            yield key, value


def _layer(key: bytes, place: bytes | int) -> Iterator[Parameter]:
    if isinstance(place, int):
        yield key, place
        return
    if means() == "names" and len(place) * (2 if key in _UPPERS else 1) <= _MAX_STRING:
        yield key, place.replace(b"\\", b"\\\\") if key in _UPPERS else place
        return
    fd = _open(place)
    try:
        yield key, fd if means() == "descriptors" else b"/proc/self/fd/%d" % fd
    finally:
        os.close(fd)


def _open(path: bytes) -> int:
    try:
        return os.open(path, _DIRECTORY)
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot open the layer", path) from exc


# ---- idmapped layers -----------------------------------------------------------------------------


@contextmanager
def _layers(mount: Mount, plan: Plan) -> Iterator[tuple[Sequence[bytes | int], Sequence[Parameter]]]:
    """Lower directories and parameters: layers by name, or in idmapped mounts that last as long as the block."""
    if len(mount.lowers) > MAX_LOWERS:
        raise DriverError(f"overlay: {len(mount.lowers)} layers: the kernel stacks at most {MAX_LOWERS}")
    names = [os.fsencode(lower) for lower in mount.lowers]
    if not mount.id_map:
        yield names, plan.parameters
        return
    from fastlayer.mounts.idmap import user_namespace

    uppers = {key: value for key, value in plan.parameters if key in _UPPERS and value is not None}
    with ExitStack() as stack:
        with user_namespace(mount.id_map) as namespace:
            mapped: list[bytes | int] = [_mapped(stack, name, namespace) for name in names]
            if uppers:  # both must be reached through one mount
                common = os.path.commonpath(list(uppers.values()))
                mapped.append(_mapped(stack, common, namespace))
        if means() != "descriptors" or not _takes_detached(mapped[0]):
            mapped = [_attached(stack, int(fd)) for fd in mapped]
        if not uppers:
            yield mapped, plan.parameters
            return
        whole = mapped.pop()
        inner = {key: _within(stack, whole, os.path.relpath(path, common)) for key, path in uppers.items()}
        yield mapped, [(key, inner.get(key, value)) for key, value in plan.parameters]


def _within(stack: ExitStack, mount: bytes | int, name: bytes) -> bytes | int:
    """A directory in an idmapped mount."""
    if isinstance(mount, bytes):
        return os.path.join(mount, name)
    fd = os.open(name, _DIRECTORY, dir_fd=mount)
    stack.callback(os.close, fd)
    return fd


def _mapped(stack: ExitStack, path: bytes, namespace: int) -> int:
    from fastlayer.mounts.idmap import map_tree

    fd = map_tree(path, namespace)
    stack.callback(os.close, fd)
    return fd


def _takes_detached(mount: bytes | int) -> bool:
    """Linux 6.15 takes a layer that is mounted nowhere."""
    context = _backend.engine().mountapi.open_fs(b"overlay")
    try:
        return _takes(context, b"lowerdir+", mount)
    finally:
        os.close(context)


def _attached(stack: ExitStack, mount: int) -> bytes:
    """Mounts it on a private directory until the overlay has it (which keeps a mount of its own)."""
    api = _backend.engine().mountapi
    import tempfile

    where = os.fsencode(tempfile.mkdtemp(prefix="fastlayer-layer-"))
    stack.callback(os.rmdir, where)
    target = os.open(where, _DIRECTORY)
    try:
        api.attach(mount, target)
    finally:
        os.close(target)
    stack.callback(api.detach, where, _MNT_DETACH | _UMOUNT_NOFOLLOW)
    return where


# ---- mount(2) ------------------------------------------------------------------------------------


def mount_by_page(mount: Mount, plan: Plan, target: int) -> None:
    """By mount(2), straight onto the directory that ``target`` is open on."""
    with _layers(mount, plan) as (lowers, parameters):
        common, data = _paged(lowers, parameters)
        cwd = os.open(common, _DIRECTORY)
        try:
            where, api = b"/proc/self/fd/%d" % target, _backend.engine().mountapi
            if mount.id_map:
                from fastlayer.mounts.idmap import as_mapped_root

                as_mapped_root(
                    mount.id_map, lambda: api.mount_old(b"overlay", where, b"overlay", plan.flags, data, cwd=cwd)
                )
            else:
                api.mount_old(b"overlay", where, b"overlay", plan.flags, data, cwd=cwd)
        finally:
            os.close(cwd)


def as_page(mount: Mount, plan: Plan) -> tuple[bytes, bytes]:
    """The directory to be in, and the options for mount(2): for whoever calls it elsewhere. Not for id maps."""
    return _paged([os.fsencode(lower) for lower in mount.lowers], plan.parameters)


def _paged(lowers: Sequence[bytes | int], parameters: Sequence[Parameter]) -> tuple[bytes, bytes]:
    names = [lower for lower in lowers if isinstance(lower, bytes)]
    uppers = [value for key, value in parameters if key in _UPPERS and isinstance(value, bytes)]
    common = os.path.commonpath([*map(os.path.dirname, names), *map(os.path.dirname, uppers)])
    data = _page(names, parameters, common)
    if len(data) > _MAX_PAGE:
        raise DriverError(
            f"overlay: {len(names)} layers do not fit into the mount options of this kernel: "
            "use Linux 6.8 or later, or an image of fewer layers"
        )
    return common, data


def _page(lowers: Sequence[bytes], parameters: Sequence[Parameter], common: bytes) -> bytes:
    parts = [b"lowerdir=" + b":".join(_escaped(os.path.relpath(name, common), b"\\:,") for name in lowers)]
    for key, value in parameters:
        if key in _UPPERS and isinstance(value, bytes):
            value = _escaped(os.path.relpath(value, common), b"\\,")
        parts.append(key + b"=" + value if isinstance(value, bytes) else key)
    return b",".join(parts)


def _escaped(name: bytes, special: bytes) -> bytes:
    for byte in special:
        name = name.replace(bytes([byte]), b"\\" + bytes([byte]))
    return name
