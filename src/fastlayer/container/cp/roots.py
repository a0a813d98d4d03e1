"""The two sides of a copy: roots of writable layers and that outside; and copies that a program asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.container.cp.spot import Side

if TYPE_CHECKING:
    from fastlayer.container.cp.put import Owner
    from fastlayer.container.writable import Writable
    from fastlayer.store.store import Store


class Roots:
    """Descriptors of roots, one for each layer with those of the directories that its overlay shows, and one of the
    file system outside; open as long as ``stack`` is."""

    def __init__(self, stack: ExitStack, store: Store) -> None:
        self._stack = stack
        self._store = store
        self._outside = -1
        self._known: dict[str, tuple[int, tuple[int, ...]]] = {}

    def outside(self, path: bytes) -> Side:
        """A path of the file system outside."""
        if self._outside < 0:
            self._outside = self._stack.enter_context(_outside())
        return Side(self._outside, path if path.startswith(b"/") else os.getcwdb() + b"/" + path, "")

    def inside(self, layer: Writable, path: bytes) -> Side:
        """A path in a layer. Raises what ``opened`` does."""
        from fastlayer.container.cp.mounts import mounts_of
        from fastlayer.container.opened import layers_of, opened

        if layer.name not in self._known:
            root = self._stack.enter_context(opened(self._store, layer))
            self._known[layer.name] = root, self._stack.enter_context(layers_of(self._store, layer))
        root, layers = self._known[layer.name]
        return Side(root, path, f"{layer.name}:", layers, mounts_of(self._store, self._stack, layer))


@contextmanager
def _outside() -> Iterator[int]:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def put(store: Store, layer: Writable, source: Any, path: bytes, *, follow: bool = False) -> tuple[str, ...]:
    """Copies what is outside, or the content of a tar that a binary file or descriptor gives, into a layer; returns
    warnings. Raises as ``copying.copy`` and ``copying.extract``."""
    from fastlayer.container.cp import copying

    with ExitStack() as stack:
        roots = Roots(stack, store)
        dest = roots.inside(layer, path)
        store.take_back_room()
        if _is_path(source):
            return copying.copy(roots.outside(os.fsencode(source)), dest, follow=follow)
        return copying.extract(source, dest)


def get(
    store: Store, layer: Writable, path: bytes, dest: Any, *, follow: bool = False, owner: Owner | None = None
) -> tuple[str, ...]:
    """Copies out of a layer; to a binary file or descriptor as a tar. Raises as ``copying.copy``, ``archive.write``."""
    from fastlayer.container.cp import archive, copying

    with ExitStack() as stack:
        roots = Roots(stack, store)
        source = roots.inside(layer, path)
        if _is_path(dest):
            return copying.copy(source, roots.outside(os.fsencode(dest)), follow=follow, owner=owner)
        return archive.write(source, dest, follow=follow)


def own_files() -> Owner | None:
    """Whose files are that root copies out: root's; others make none but their own."""
    return None if os.geteuid() != 0 else (os.geteuid(), os.getegid())


def _is_path(value: Any) -> bool:
    return isinstance(value, str | bytes | os.PathLike)
