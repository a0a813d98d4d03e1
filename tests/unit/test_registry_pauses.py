"""Which failures are worth another try, and when."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlayer.registry.pauses import Pauses, Policy, is_passing, is_worth_a_try, next_pause, retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507, 520, 599])
def test_worth_a_try(status: int) -> None:
    assert is_worth_a_try(status)


@pytest.mark.parametrize("status", [200, 301, 307, 400, 401, 403, 404, 405, 416, 501, 505, 600, 0])
def test_not_worth_a_try(status: int) -> None:
    assert not is_worth_a_try(status)


RETRY_AFTER: dict[str, float | None] = {
    "0": 0.0,
    " 120 ": 120.0,
    "Sun, 06 Nov 1994 08:50:37 GMT": 60.0,
    "Sun, 06 Nov 1994 08:48:37 GMT": 0.0,
    "Sunday, 06-Nov-94 08:50:37 GMT": 60.0,
    "9" * 50: 999_999_999.0,
    "": None,
    "-1": None,
    "1.5": None,
    "²": None,
    "soon": None,
    "Sun, 99 Nov 1994 08:50:37 GMT": None,
    "Sun, 06 Nov 99999999999 08:50:37 GMT": None,
    "x" * 100_000: None,
}


@pytest.mark.parametrize("text", RETRY_AFTER)
def test_retry_after(text: str) -> None:
    assert retry_after(text, NOW) == RETRY_AFTER[text]


@given(st.text(max_size=80))
def test_retry_after_of_any_text(text: str) -> None:
    found = retry_after(text, NOW)
    assert found is None or found >= 0


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


class WrappedError(Exception):
    def __init__(self, reason: object) -> None:
        super().__init__("url: failed")
        self.reason = reason


class ReadTimeoutError(Exception):
    pass


PASSING = [
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BrokenPipeError(),
    ConnectionAbortedError(),
    TimeoutError("timed out"),
    OSError(errno.EHOSTUNREACH, "no route"),
    http.client.RemoteDisconnected(),
    http.client.IncompleteRead(b"x", 5),
    ssl.SSLEOFError(8, "EOF"),
    socket.gaierror(socket.EAI_AGAIN, "later"),
    caused(RuntimeError("x"), ConnectionResetError()),
    WrappedError(ConnectionResetError()),
    Exception("Connection broken", http.client.IncompleteRead(b"", 1)),
    ReadTimeoutError(),
]
STAYING = [
    ValueError("x"),
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    socket.gaierror(socket.EAI_NONAME, "unknown"),
    ssl.SSLCertVerificationError(1, "certificate verify failed"),
    WrappedError(ssl.SSLCertVerificationError(1, "certificate verify failed")),
    OSError(errno.ENOSPC, "full"),
    KeyboardInterrupt(),
    WrappedError("a text"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_passing_errors(error: BaseException) -> None:
    assert is_passing(error)


@pytest.mark.parametrize("error", STAYING, ids=lambda error: type(error).__name__)
def test_errors_that_stay(error: BaseException) -> None:
    assert not is_passing(error)


def test_causes_that_go_round_come_to_an_end() -> None:
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert not is_passing(one)


def test_pauses_double_up_to_the_longest_and_vary() -> None:
    policy = Policy(tries=10, first=1.0, longest=5.0)
    assert [next_pause(policy, n, 0.0, None, 1.0) for n in (1, 2, 3, 4, 9)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [next_pause(policy, n, 0.0, None, 0.0) for n in (1, 2, 3, 4, 9)] == [0.5, 1.0, 2.0, 2.5, 2.5]
    assert next_pause(policy, 10, 0.0, None, 0.0) is None
    assert next_pause(policy._replace(tries=10**6), 10**5, 0.0, None, 1.0) == 5.0


def test_what_is_asked_for_is_the_least_or_the_end() -> None:
    policy = Policy(first=1.0, asked=60.0, total=100.0)
    assert next_pause(policy, 1, 0.0, 10.0, 0.0) == 10.0
    assert next_pause(policy, 1, 0.0, 10.0, 0.5) == 10.5
    assert next_pause(policy, 1, 0.0, 0.0, 1.0) == 1.0
    assert next_pause(policy, 1, 0.0, 61.0, 0.0) is None
    assert next_pause(policy, 1, 95.0, 10.0, 0.0) is None


@given(st.integers(1, 50), st.floats(0, 1e6), st.none() | st.floats(0, 1e9), st.floats(0, 1, exclude_max=True))
def test_every_pause_is_within_the_bounds(failures: int, elapsed: float, asked: float | None, chance: float) -> None:
    policy = Policy()
    wait = next_pause(policy, failures, elapsed, asked, chance)
    if wait is not None:
        assert 0 < wait <= policy.asked + policy.first
        assert elapsed + wait <= policy.total
        assert asked is None or wait >= asked


def test_a_piece_of_work() -> None:
    seconds = [0.0]
    pauses = Pauses(Policy(tries=3, first=1.0), clock=lambda: seconds[0], chance=lambda: 0.0, now=lambda: NOW)
    assert pauses.after_status(404) is None and pauses.failures == 0
    assert pauses.after_status(503) == 0.5
    assert pauses.after_error(ConnectionResetError()) == 1.0
    assert pauses.after_error(ValueError()) is None
    assert pauses.after_status(429, "5") is None  # the third failure
    pauses.progress()
    assert pauses.after_status(429, "5") == 5.0
    assert pauses.after_status(429, "Sun, 06 Nov 1994 08:50:37 GMT") == 60.0
    pauses.progress()
    assert pauses.after_status(500) == 0.5
    seconds[0] = 700.0
    assert pauses.after_status(500) is None
