"""The sum that tar-split keeps of files: kernels, engines, many pieces at once; and SHA-256 of many pieces."""

from __future__ import annotations

import hashlib
import random
from array import array

import pytest

from fastlayer import _backend
from fastlayer._native import crc64 as native
from fastlayer.errors import BackendError, UsageError

DATA = random.Random(3).randbytes(5003)
BOUNDS = array("Q", [0, 0, 0, 1, 1, 64, 3, 131, 7, 5003, 5003, 5003, 100, 4000])
PIECES = [DATA[start:stop] for start, stop in zip(BOUNDS[::2], BOUNDS[1::2], strict=True)]


def test_known_values(engine: _backend.Engine) -> None:
    """Go's crc64.ISO of the check string; of nothing."""
    assert engine.crc64.update(0, b"123456789") == 0xB90956C775A41001
    assert engine.crc64.update(0, b"") == 0


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 65, 1000])
def test_kernels_agree(size: int) -> None:
    from fastlayer._baseline import crc64 as baseline

    found = {native.update(5, DATA[:size], kernel) for kernel in native.KERNELS}
    assert found == {baseline.update(5, DATA[:size])}


def test_it_goes_on_where_it_stopped(engine: _backend.Engine) -> None:
    whole = engine.crc64.update(0, DATA)
    for at in (0, 1, 8, 13, 5003):
        assert engine.crc64.update(engine.crc64.update(0, DATA[:at]), DATA[at:]) == whole


def test_many_pieces(engine: _backend.Engine) -> None:
    assert engine.crc64.many(DATA, BOUNDS) == [engine.crc64.update(0, piece) for piece in PIECES]
    assert engine.crc64.many(memoryview(b""), array("Q")) == []
    assert _backend.hashing().digests(DATA, BOUNDS) == b"".join(hashlib.sha256(piece).digest() for piece in PIECES)
    assert _backend.hashing().digests(DATA, array("Q")) == b""


@pytest.mark.parametrize("bounds", [(0, 5004), (3, 2), (1 << 63, (1 << 63) + 1)])
def test_pieces_outside_are_refused(engine: _backend.Engine, bounds: tuple[int, int]) -> None:
    for function in (engine.crc64.many, _backend.hashing().digests):
        with pytest.raises(UsageError, match="outside"):
            function(DATA, array("Q", [0, 1, *bounds]))


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(BackendError, match="use one of bitwise, words"):
        native.update(0, b"", "fast")
