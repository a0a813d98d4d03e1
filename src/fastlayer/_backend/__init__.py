"""Chooses the engine, once: ``native`` (Cython over csrc) or ``baseline`` (plain Python).

``FASTLAYER_BACKEND=native|baseline`` is a demand: it is met or ``BackendError`` is raised, never
a silent fall-back. Without it the native engine is used and a missing one is an error, too: the
baseline is a specification and a yardstick, not a substitute.

What an engine has to be is in ``contract.py``, which only type checkers need, what crosses the boundary in
``values.py``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from fastlayer._backend.values import (
    CONTENT,
    DEVICE,
    LINK,
    MODE,
    MTIME,
    OWNER,
    TYPE,
    XATTR,
    Behind,
    Columns,
    Compare,
    CopyCounts,
    ExtractStats,
    NewRow,
    Row,
    RunMonitor,
    RunProgram,
    RunStep,
    XattrPolicy,
)
from fastlayer.errors import BackendError

if TYPE_CHECKING:
    from fastlayer._backend.contract import (
        ChangeTable,
        Chunker,
        Differ,
        Encoder,
        Engine,
        Extractor,
        Merger,
        MountApi,
        PathCopier,
        ReadMany,
        RunApi,
        Scanner,
        Sha256,
        TableBuilder,
        TarScanner,
        TreeCloner,
        TreeUsage,
        UpperDiffer,
    )

__all__ = [
    "CONTENT",
    "DEVICE",
    "LINK",
    "MODE",
    "MTIME",
    "OWNER",
    "TYPE",
    "XATTR",
    "Behind",
    "ChangeTable",
    "Chunker",
    "Columns",
    "Compare",
    "CopyCounts",
    "Differ",
    "Encoder",
    "Engine",
    "ExtractStats",
    "Extractor",
    "Merger",
    "MountApi",
    "NewRow",
    "PathCopier",
    "ReadMany",
    "Row",
    "RunApi",
    "RunMonitor",
    "RunProgram",
    "RunStep",
    "Scanner",
    "Sha256",
    "TableBuilder",
    "TarScanner",
    "TreeCloner",
    "TreeUsage",
    "UpperDiffer",
    "XattrPolicy",
    "engine",
    "hashing",
    "iter_rows",
]


class _Engine:
    def __init__(self, name: str, package: str) -> None:
        self.name = name
        self._package = package

    def __getattr__(self, module: str) -> Any:
        if module.startswith("_"):
            raise AttributeError(module)
        loaded = importlib.import_module(f"{self._package}.{module}")
        setattr(self, module, loaded)
        return loaded


_PACKAGES = {"native": "fastlayer._native", "baseline": "fastlayer._baseline"}
_chosen: _Engine | None = None


def _load(name: str) -> _Engine:
    if name not in _PACKAGES:
        raise BackendError(f"FASTLAYER_BACKEND={name!r} is unknown: use native or baseline")
    package = _PACKAGES[name]
    try:
        importlib.import_module(f"{package}.changes")
    except ImportError as exc:
        raise BackendError(f"the {name} backend cannot be loaded ({exc}): reinstall fastlayer") from exc
    return _Engine(name, package)


def engine() -> Engine:
    """The engine of this process, chosen at the first call."""
    global _chosen
    if _chosen is None:
        _chosen = _load(os.environ.get("FASTLAYER_BACKEND", "native"))
    return cast("Engine", _chosen)


def hashing() -> Any:
    """The module ``sha256`` of the engine; hashlib's where the processor has no instructions for it."""
    found = engine().sha256
    return found if found.AVAILABLE else importlib.import_module(f"{_PACKAGES['baseline']}.sha256")


def iter_rows(table: ChangeTable, batch: int = 1024) -> Iterator[Row]:
    """All rows of a table, fetched in batches."""
    for start in range(0, len(table), batch):
        yield from table.rows(start, min(start + batch, len(table)))


def __getattr__(name: str) -> Any:
    """The protocols, for whoever wants them at run time."""
    if name not in __all__:
        raise AttributeError(name)
    return getattr(importlib.import_module("fastlayer._backend.contract"), name)
