"""pathlib without ``urllib.parse``, which it loads for what no verb of ours does: half of the time its import takes."""

from __future__ import annotations

import sys
import types


def import_pathlib() -> None:
    """Loads pathlib. Whoever imports ``urllib.parse`` afterwards gets the module."""
    name = "urllib.parse"
    if name in sys.modules or "pathlib" in sys.modules:
        return
    stand_in = types.ModuleType(name)
    stand_in.quote_from_bytes = _quote_from_bytes  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        import pathlib  # noqa: F401
    finally:
        del sys.modules[name]


def _quote_from_bytes(data: bytes, safe: str = "/") -> str:
    from urllib.parse import quote_from_bytes

    return quote_from_bytes(data, safe)
