"""Putting hand-made layers onto a directory, and looking at what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.corpus.tarparts import END


def apply(engine: Any, target: Path, *layers: bytes, **options: Any) -> list[Any]:
    """Applies layers (without their end blocks) and returns their statistics. Owners are left where not root."""
    options.setdefault("ignore_chown", os.geteuid() != 0)
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    extractor = engine.extract.Extractor(fd, **options)
    try:
        stats = []
        for layer in layers:
            extractor.begin_layer()
            extractor.feed(layer + END)
            stats.append(extractor.end_layer())
        return stats
    except BaseException:
        extractor.abort()
        raise
    finally:
        os.close(fd)


def listing(target: Path) -> list[str]:
    """All paths below, sorted."""
    return sorted(os.path.relpath(os.path.join(at, n), target) for at, ds, fs in os.walk(target) for n in ds + fs)
