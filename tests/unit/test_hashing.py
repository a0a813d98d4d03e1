"""SHA-256 of one stream and of two at once, and the threads that hash the streams of all jobs."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer import _backend
from fastlayer.errors import BackendError, UsageError
from fastlayer.layer import hashing as service
from fastlayer.layer.hashing import hashing

SIZES = [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000, 4096, 65537]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def data_of(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 100_003 + size).randbytes(size)


def wanted(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha(engine: _backend.Engine) -> Any:
    if not engine.sha256.AVAILABLE:
        pytest.skip("this processor has no SHA instructions")
    return engine.sha256


@pytest.mark.parametrize("size", SIZES)
def test_one_stream(engine: _backend.Engine, size: int) -> None:
    data, stream = data_of(size), sha(engine).Sha256()
    stream.update(data)
    assert stream.hexdigest() == wanted(data)
    stream.update(data)  # a digest is no end
    assert stream.hexdigest() == wanted(data + data)


@pytest.mark.parametrize("first", SIZES)
def test_two_streams_of_any_lengths(engine: _backend.Engine, first: int) -> None:
    """Also when both have begun a block already."""
    module = sha(engine)
    for second in SIZES:
        for held in (0, 1, 63):
            a, b = module.Sha256(), module.Sha256()
            a.update(bytes(held))
            module.update_both(a, data_of(first), b, data_of(second, 1))
            module.update_both(a, data_of(second, 2), b, data_of(first, 3))
            assert a.hexdigest() == wanted(bytes(held) + data_of(first) + data_of(second, 2))
            assert b.hexdigest() == wanted(data_of(second, 1) + data_of(first, 3))


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=20))
def test_two_streams_in_any_pieces(pieces: list[tuple[bytes, bytes]]) -> None:
    module = _backend.hashing()
    a, b = module.Sha256(), module.Sha256()
    for one, other in pieces:
        module.update_both(a, one, b, other)
    assert a.hexdigest() == wanted(b"".join(one for one, _ in pieces))
    assert b.hexdigest() == wanted(b"".join(other for _, other in pieces))


def test_the_same_stream_twice_is_refused(engine: _backend.Engine) -> None:
    module = sha(engine)
    stream = module.Sha256()
    with pytest.raises(UsageError, match="two streams"):
        module.update_both(stream, b"a", stream, b"b")


def test_without_the_instructions_hashlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer._native import sha256 as native

    monkeypatch.setenv("FASTLAYER_BACKEND", "native")
    monkeypatch.setattr(_backend, "_chosen", None)
    monkeypatch.setattr(native, "AVAILABLE", False)
    module = _backend.hashing()
    assert module.__name__ == "fastlayer._baseline.sha256"
    with hashing(1) as (stream,):
        stream.put(b"abc")
        assert stream.finish().encoded == wanted(b"abc")
    if "sha_ni" not in open("/proc/cpuinfo").read() and os.uname().machine == "x86_64":
        with pytest.raises(BackendError, match="hashlib"):
            native.Sha256()


# ---- the threads ---------------------------------------------------------------------------------


def test_streams_of_many_jobs_at_once() -> None:
    """Pieces of odd sizes from many threads: every digest is right and every buffer comes back, once."""

    def job(seed: int) -> None:
        source = random.Random(seed)
        data = [data_of(source.choice((0, 1, 700, 70_000, 300_000)), seed) for _ in range(40)]
        back: list[int] = []
        with hashing(2) as (one, other):
            for number, piece in enumerate(data):
                one.put(piece, lambda number=number: back.append(number))  # type: ignore[misc]
                if number % 2:
                    other.put(piece)
            digest, other_digest = one.finish(), other.finish()
        assert digest.encoded == wanted(b"".join(data))
        assert other_digest.encoded == wanted(b"".join(data[1::2]))
        assert sorted(back) == list(range(40))

    with ThreadPoolExecutor(12) as pool:
        assert len(list(pool.map(job, range(12)))) == 12  # raises what a job raised


def test_two_that_wait_are_hashed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    module, pairs = _backend.hashing(), []
    plain = module.update_both

    def counted(a: Any, data_a: Any, b: Any, data_b: Any) -> None:
        pairs.append((len(data_a), len(data_b)))
        plain(a, data_a, b, data_b)

    monkeypatch.setattr(service, "_LINGER", 5.0)
    monkeypatch.setattr(module, "update_both", counted)
    with hashing(2) as (one, other):
        other.put(b"-")
        other.put(b"")
        time.sleep(0.05)
        one.put(bytes(1000))
        other.put(bytes(300))
        assert (one.finish().encoded, other.finish().encoded) == (wanted(bytes(1000)), wanted(b"-" + bytes(300)))
    assert pairs and all(a == b for a, b in pairs)


def test_one_that_is_alone_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that has enough, or has ended."""
    monkeypatch.setattr(service, "_LINGER", 20.0)
    begin = time.monotonic()
    with hashing(2) as (one, other):
        one.put(b"a")
        while one.busy:
            assert time.monotonic() - begin < 10
            time.sleep(0.001)
        other.put(bytes(service._ENOUGH))
        other.finish()
        assert one.finish().encoded == wanted(b"a")
    assert time.monotonic() - begin < 10


def test_an_exception_forgets_what_waits() -> None:
    with pytest.raises(ZeroDivisionError), hashing(1) as (stream,):
        for _ in range(2000):
            stream.put(bytes(1 << 20))
        raise ZeroDivisionError
    assert not stream.waiting and not stream.busy


def test_in_a_child_of_fork() -> None:
    """The threads of the parent are not there; the child makes its own."""
    with hashing(1) as (stream,):
        stream.put(bytes(100))
        child = os.fork()
        if not child:
            code = 1
            try:
                with hashing(1) as (own,):
                    own.put(b"child")
                    code = int(own.finish().encoded != wanted(b"child"))
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert stream.finish().encoded == wanted(bytes(100))
