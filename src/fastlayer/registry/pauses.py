"""Whether a request that failed is worth another try, and when.

RFC 9110: 10.2.3 Retry-After, 15.5.9 (408), 15.6 (5xx); RFC 6585: 4 (429). The waits grow twofold and are shortened by
chance, so that many who failed together do not come back together.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator

from fastlayer._values import NamedTuple

_TOO_MANY = 429
_TIMED_OUT = 408
_NEVER = (501, 505)  # not implemented, HTTP version not supported: the same tomorrow
_PASSING = (
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
)
_BY_NAME = {  # exceptions of HTTP libraries that are no OSError
    "IncompleteRead",
    "ReadTimeoutError",
    "ConnectTimeoutError",
    "SSLEOFError",
    "ReadTimeout",
    "ConnectTimeout",
    "RemoteProtocolError",
}
_EAI_AGAIN = -3  # getaddrinfo(3): a name server did not answer in time
_DEEPEST = 16  # causes of causes
_MAX_DIGITS = 9


class Policy(NamedTuple):
    """How patient to be. Seconds; ``tries`` counts the first one too."""

    tries: int = 6
    first: float = 0.5
    longest: float = 30.0
    asked: float = 120.0  # the longest Retry-After that is waited for
    total: float = 600.0  # from the first failure to the last try


class Pauses:
    """The failures of one piece of work. ``clock`` gives seconds, ``chance`` numbers from 0 to below 1."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy or Policy()
        self._clock, self._chance, self._now = clock, chance, now
        self._failures = 0
        self._began = 0.0

    @property
    def failures(self) -> int:
        """In a row, since the last progress."""
        return self._failures

    def progress(self) -> None:
        """Something was had, bytes for one: patience starts anew."""
        self._failures = 0

    def after_status(self, status: int, asked: str = "") -> float | None:
        """Seconds to wait after an answer, None to give up; ``asked``: its Retry-After."""
        if not is_worth_a_try(status):
            return None
        return self._next(retry_after(asked, self._now()) if asked else None)

    def after_error(self, error: BaseException) -> float | None:
        """Seconds to wait after an exception, None to give up."""
        return self._next(None) if is_passing(error) else None

    def _next(self, asked: float | None) -> float | None:
        if not self._failures:
            self._began = self._clock()
        self._failures += 1
        return next_pause(self._policy, self._failures, self._clock() - self._began, asked, self._chance())


def next_pause(policy: Policy, failures: int, elapsed: float, asked: float | None, chance: float) -> float | None:
    """Seconds to wait after that many failures, None to give up.

    A registry that asks for more patience than there is gets no try sooner than it wants: that is giving up.
    """
    if failures >= policy.tries:
        return None
    doubled = policy.first * 2.0 ** min(failures - 1, 64)
    wait = min(doubled, policy.longest) * (0.5 + chance / 2)
    if asked is not None:
        if asked > policy.asked:
            return None
        wait = max(wait, asked + policy.first * chance)
    return wait if elapsed + wait <= policy.total else None


def retry_after(text: str, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, from ``now`` (seconds since 1970) on; None when it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS] if len(text) <= _MAX_DIGITS else "9" * _MAX_DIGITS)
    from email.utils import parsedate_to_datetime  # takes long to load, and is seldom needed

    try:
        moment = parsedate_to_datetime(text[:64])
        return max(0.0, moment.timestamp() - now) if moment.tzinfo else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def is_worth_a_try(status: int) -> bool:
    """Whether a registry that answered so may answer otherwise soon."""
    return status in (_TOO_MANY, _TIMED_OUT) or (500 <= status <= 599 and status not in _NEVER)


def is_passing(error: BaseException) -> bool:
    """Whether an exception, or one that it is about, is a connection's end that another try may not meet.

    Not a certificate that is refused, a name that is unknown, a connection that nobody accepts.
    """
    for one in _causes(error):
        if type(one).__name__ == "SSLCertVerificationError":
            return False
        if isinstance(one, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
            return True
        if type(one).__name__ in _BY_NAME:
            return True
        if isinstance(one, OSError) and (one.errno in _PASSING or _is_name_server(one)):
            return True
    return False


def _is_name_server(error: OSError) -> bool:
    return type(error).__name__ == "gaierror" and error.errno == _EAI_AGAIN


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and those within it: causes, arguments and ``reason``, where urllib3 keeps them."""
    left, seen = [error], set[int]()
    while left and len(seen) < _DEEPEST:
        one = left.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        left += [thing for thing in inner if isinstance(thing, BaseException)]
