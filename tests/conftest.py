"""Shared fixtures. Every test that can runs on both backends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fastlayer import _backend

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices, owners, trusted xattrs")


@pytest.fixture(params=["native", "baseline"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_backend.Engine]:
    """Each backend in turn, also made the engine of the process."""
    chosen = _backend._load(request.param)
    monkeypatch.setattr(_backend, "_chosen", chosen)
    yield chosen
    assert _backend.engine().name == request.param
