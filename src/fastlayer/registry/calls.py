"""Calls of a registry: requests with a login, again where that helps, and an error for every answer not hoped for."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping
from typing import TypeVar

from fastlayer.errors import ReferenceFormatError, RegistryError
from fastlayer.oci.reference import parse_reference
from fastlayer.registry.answers import Answer
from fastlayer.registry.http import Body, Connections
from fastlayer.registry.origins import follow, origin_of
from fastlayer.registry.problems import MAX_ERROR, problem, warnings_of
from fastlayer.registry.scopes import repository_scope
from fastlayer.registry.tokens import Tokens

T = TypeVar("T")
_LOGINS = 2  # times that another login is tried for one request: for scopes that nobody had asked for, and afresh
_WARNINGS = 100  # of a registry that are passed on
# (attempt from 0, status or 0 when there was no answer, headers) -> seconds to wait, None to give up
Pause = Callable[[int, int, Mapping[str, str]], float | None]


def no_pause(attempt: int, status: int, headers: Mapping[str, str]) -> float | None:
    """Nothing is tried again."""


def is_page(answer: Answer) -> bool:
    """A page for people. Quay calls some of what it says HTML, too, but says that it is a registry."""
    good = 200 <= answer.status < 300 and not answer.foreign
    return good and answer.media_type == "text/html" and "docker-distribution-api-version" not in answer.headers


class Calls:
    """What the calls of one registry have in common. For threads."""

    def __init__(
        self,
        connections: Connections,
        tokens: Tokens,
        *,
        pause: Pause = no_pause,
        sleep: Callable[[float], object] = time.sleep,
        warn: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.connections = connections
        self.tokens = tokens
        self.base = connections.endpoint.url.rstrip("/") + "/v2/"
        self._pause = pause
        self._sleep = sleep
        self._warn = warn
        self._warned: set[str] = set()
        self._origin = origin_of(self.base)

    @property
    def registry(self) -> str:
        """``HOST[:PORT]`` as people write it."""
        return self.tokens.registry

    def call(
        self,
        method: str,
        url: str,
        doing: str,
        expected: Container[int],
        *,
        scopes: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        seconds: float | None = None,
        keep: int = 0,
        repeat: bool = True,
        pages: bool = False,
    ) -> Answer:
        """The answer, of a status that is ``expected``; close it. ``doing``: for people, such as ``manifest of a:b``.

        ``pages``: also an HTML page, which no registry sends, but portals do, whatever they are asked. ``keep``: read
        its body, of at most so many bytes, into memory. What fails for the moment is tried again as the pauses say,
        unless not to be repeated or sent once only. Raises ``RegistryError``.
        """
        wanted = tuple(scopes)
        repeat = repeat and (body is None or body.again)

        def once() -> Answer:
            answer = self._let_in(method, url, wanted, headers or {}, body, seconds)
            self._pass_on(answer)
            if answer.status in expected and (pages or not is_page(answer)):
                if keep:
                    answer.keep(keep)
                return answer
            raise problem(answer, doing, self.registry, self.tokens.login)

        return self.patiently(once) if repeat else once()

    def _pass_on(self, answer: Answer) -> None:
        """Warnings of the registry, each once."""
        if answer.foreign or "warning" not in answer.headers or len(self._warned) > _WARNINGS:
            return
        for text in warnings_of(answer.headers["warning"]):
            if text not in self._warned:
                self._warned.add(text)
                self._warn(f"{self.registry}: {text}")

    def patiently(self, work: Callable[[], T]) -> T:
        """What ``work`` returns, done again as the pauses say as long as its error is a passing one."""
        attempt = 0
        while True:
            try:
                return work()
            except RegistryError as exc:
                self.wait(attempt, exc)
            attempt += 1

    def wait(self, attempt: int, error: RegistryError) -> None:
        """Waits before another try; raises ``error`` when there is to be none."""
        seconds = self._pause(attempt, error.status, error.headers) if error.transient else None
        if seconds is None:
            raise error
        self._sleep(seconds)

    def _let_in(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        body: Body | None,
        seconds: float | None,
    ) -> Answer:
        """Credentials are for the registry's own origin, whatever address it gave us."""
        own = origin_of(url) == self._origin
        used = self.tokens.authorization(scopes) if own else ""
        for last in (*[False] * _LOGINS, True):
            sent = {**headers, "Authorization": used} if used else headers
            answer = self.connections.request(method, url, headers=sent, body=body, seconds=seconds)
            if last or answer.status != 401 or answer.foreign or not own or not (body is None or body.again):
                return answer
            answer.keep(MAX_ERROR, cut=True)  # its connection may be the one that a token needs
            header = answer.headers.get("www-authenticate", "")
            again = self.tokens.challenged(header, scopes, used) if header else ""
            if not again:
                return answer
            used = again
        raise AssertionError("the last try returns")


class RepositoryCalls:
    """The calls of one repository: addresses below its own, and tokens for it."""

    def __init__(self, calls: Calls, name: str) -> None:
        if parse_reference(f"registry.invalid/{name}").path != name:
            raise ReferenceFormatError(f"{name!a}: not the name of a repository: leave out tag and digest")
        self.calls = calls
        self.name = name

    def url(self, rest: str) -> str:
        """``https://HOST/v2/NAME/REST``."""
        return f"{self.calls.base}{self.name}/{rest}"

    def at(self, answer: Answer, location: str) -> str:
        """The address that a header of an answer names."""
        return follow(answer.url, location)

    def call(
        self,
        method: str,
        url: str,
        doing: str,
        expected: Container[int],
        *,
        actions: tuple[str, ...] = ("pull",),
        others: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        seconds: float | None = None,
        keep: int = 0,
        repeat: bool = True,
        pages: bool = False,
    ) -> Answer:
        """As ``Calls.call``. ``url``: whole, or what comes behind the name; ``actions`` on this repository; ``others``:
        repositories that are read too."""
        scopes = (repository_scope(self.name, *actions), *(repository_scope(other, "pull") for other in others))
        return self.calls.call(
            method,
            url if "://" in url else self.url(url),
            f"{self.name}: {doing}",
            expected,
            scopes=scopes,
            headers=headers,
            body=body,
            seconds=seconds,
            keep=keep,
            repeat=repeat,
            pages=pages,
        )
