"""``export``: the tree of a writable layer as one tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.container.opened import opened

if TYPE_CHECKING:
    from fastlayer.container.writable import Writable
    from fastlayer.layer import types
    from fastlayer.layer.progress import ProgressCallback
    from fastlayer.store.store import Store


def export(
    store: Store,
    layer: Writable,
    output: types.Output,
    *,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[str, ...]:
    """Writes it to a path (compressed as its extension says, complete or not at all), descriptor or binary file.

    Returns warnings. Raises ``FileChangedError`` for a file that changes meanwhile, ``StorageError``, and what
    ``opened`` raises.
    """
    from fastlayer.layer.diff import diff

    with opened(store, layer, bare=True) as tree, diff(None, tree, jobs=jobs) as changes:
        return (*changes.write(output, jobs=jobs, progress=progress).warnings, *changes.warnings)
