"""Requests: the one place that knows the HTTP library (urllib3), imported when the first request is made.

Connections are kept and shared by threads, as many at once as a budget allows. Redirects are followed here, one by
one: the library would take credentials along to a place that is none of their business.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from fastlayer._values import NamedTuple
from fastlayer._version import __version__
from fastlayer.errors import RegistryError, UsageError, show_path
from fastlayer.registry.answers import Answer, Timeouts, given_up
from fastlayer.registry.failures import failure
from fastlayer.registry.lines import host_of, one_line, shown_url
from fastlayer.registry.origins import follow, origin_of, require_tls
from fastlayer.registry.proxies import proxy_for

if TYPE_CHECKING:
    import ssl

    from urllib3 import BaseHTTPResponse, PoolManager

USER_AGENT = f"fastlayer/{__version__}"
MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = frozenset({307, 308})
_BOUND = frozenset({"authorization", "cookie"})  # headers that are for one origin only
_PIECE = 256 << 10  # bytes of a body that have to be taken in time
_HOSTS = 8  # whose idle connections are kept


class Endpoint(NamedTuple):
    """A registry, and how to reach it.

    ``url``: ``https://HOST[:PORT][/PREFIX]``, ``/v2/`` comes behind that; ``insecure``: certificates are not looked at,
    and plain HTTP will do; ``ca_files``: PEM files of authorities to trust besides the system's; ``client_cert``: PEM
    files of a certificate and its key, shown to this endpoint only.
    """

    url: str
    insecure: bool = False
    ca_files: tuple[str, ...] = ()
    client_cert: tuple[str, str] | None = None

    @property
    def host(self) -> str:
        """``HOST[:PORT]``, as people write it."""
        return host_of(self.url)


class Body(NamedTuple):
    """What is sent. ``open`` gives its bytes, each time from the start, unless not ``again``: then once only;
    ``size``: in bytes, None when it is not known before the end."""

    open: Callable[[], Iterable[bytes | memoryview]]
    size: int | None
    again: bool = True


def body_of(data: bytes) -> Body:
    """Bytes that are all there."""
    return Body(lambda: (data,), len(data))


class Budget:
    """How many connections may be at work at once, of everybody who shares it.

    An answer holds one until it is closed or read to its end. Who sends what he receives at the same time needs two
    budgets: with one, all could wait for each other.
    """

    def __init__(self, connections: int = 16) -> None:
        if connections < 1:
            raise UsageError(f"{connections} connections: give at least 1")
        self.connections = connections
        self._free = threading.BoundedSemaphore(connections)

    def take(self) -> None:
        self._free.acquire()

    def give(self) -> None:
        self._free.release()


class Connections:
    """Requests to an endpoint and to where it sends us. For threads; ``close`` when nobody uses it any more."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeouts: Timeouts | None = None,
        budget: Budget | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        require_tls(endpoint.url, endpoint.insecure)
        self.endpoint = endpoint
        self.timeouts = timeouts or Timeouts()
        self._origin = origin_of(endpoint.url)
        self._budget = budget or Budget()
        self._environ = os.environ if environ is None else environ
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, bool, bool], PoolManager] = {}
        self._answers: set[Answer] = set()
        self._given_up = False

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are idle; those at work close when they are done."""
        with self._lock:
            managers, self._managers = list(self._managers.values()), {}
        for manager in managers:
            manager.clear()

    def give_up(self) -> None:
        """Ends all answers that others are reading, and refuses further requests: what is to be done when one of many
        transfers has failed for good. From whatever thread."""
        with self._lock:
            self._given_up = True
            answers = list(self._answers)
        for answer in answers:
            answer.give_up()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """The answer, of whatever status, after redirects; its body has not been read yet: close it.

        ``seconds``: to wait for the first byte of it (default: ``timeouts.read``). ``Authorization`` goes to the origin
        of ``url`` only. Raises ``RegistryError`` when there is none.
        """
        first = origin = origin_of(url)
        require_tls(url, self.endpoint.insecure)
        sent = dict(headers or {})
        visited = {url}
        while True:
            answer = self._send(method, url, sent, body, seconds or self.timeouts.read)
            location = answer.headers.get("location", "")
            if answer.status not in _REDIRECTS or not location:
                answer.foreign = origin != first
                return answer
            answer.close()
            url = self._redirected(method, answer, url, location, body, visited)
            if origin_of(url) != origin:
                origin = origin_of(url)
                sent = {name: value for name, value in sent.items() if name.lower() not in _BOUND}

    def _redirected(
        self, method: str, answer: Answer, url: str, location: str, body: Body | None, visited: set[str]
    ) -> str:
        """The next address. Raises ``RegistryError`` for one that is not to be followed."""
        target = follow(url, location)
        there = f"{shown_url(url)}: redirects to {shown_url(target)}"
        if target in visited:
            raise RegistryError(f"{shown_url(url)}: redirects in a circle: tell whoever runs the registry")
        if len(visited) > MAX_REDIRECTS:
            raise RegistryError(
                f"{shown_url(url)}: more than {MAX_REDIRECTS} redirects: tell whoever runs the registry"
            )
        if url.startswith("https:") and not target.startswith("https:") and not self.endpoint.insecure:
            raise RegistryError(f"{there}, which is not encrypted: tell whoever runs the registry")
        if method not in ("GET", "HEAD") and answer.status not in _KEEP_METHOD:
            raise RegistryError(f"{there} with status {answer.status}, which is no way to take a {method}")
        if body is not None and not body.again:
            raise RegistryError(f"{there} when the body was sent already: try again", transient=True)
        require_tls(target, self.endpoint.insecure)
        visited.add(target)
        return target

    # ---- one request ---------------------------------------------------------------------------------------

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, seconds: float) -> Answer:
        self._budget.take()
        try:
            if self._given_up:
                raise given_up(url)
            sending = _Sending(body) if body is not None else None
            raw = self._exchange(method, url, headers, sending, seconds)
            reusable = sending is None or sending.complete
        except BaseException:
            self._budget.give()
            raise
        answer = Answer(raw, url, timeouts=self.timeouts, release=lambda: self._forget(answer), reusable=reusable)
        with self._lock:
            self._answers.add(answer)
        if self._given_up:
            answer.close()
            raise given_up(url)
        return answer

    def _forget(self, answer: Answer) -> None:
        with self._lock:
            self._answers.discard(answer)
        self._budget.give()

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], sending: _Sending | None, seconds: float
    ) -> BaseHTTPResponse:
        """A connection that the server had closed when we took it up again is no reason to fail: a request without a
        body is sent a second time (RFC 9112, 9.3.1)."""
        proxy = proxy_for(url, self._environ)
        manager = self._manager(url, proxy)
        for last in (sending is not None, True):
            try:
                return self._ask(manager, method, url, headers, sending, seconds)
            except Exception as exc:  # urllib3's, http.client's and the system's
                if sending is not None and sending.error is not None:
                    raise sending.error from exc
                if last or not _dropped(exc):
                    raise failure(exc, url, seconds=self._limit(exc, seconds), proxy=proxy) from exc
        raise AssertionError("the second time is the last")

    def _ask(
        self,
        manager: PoolManager,
        method: str,
        url: str,
        headers: Mapping[str, str],
        sending: _Sending | None,
        seconds: float,
    ) -> BaseHTTPResponse:
        from urllib3 import Timeout

        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        if sending is not None and sending.size is not None:
            sent["Content-Length"] = str(sending.size)
        elif sending is None and method not in ("GET", "HEAD"):
            sent["Content-Length"] = "0"
        return manager.request(
            method,
            url,
            body=cast("Iterable[bytes] | None", sending),
            headers=sent,
            timeout=Timeout(connect=self.timeouts.connect, read=seconds),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def _limit(self, exc: BaseException, seconds: float) -> float:
        from urllib3.exceptions import ReadTimeoutError

        return seconds if isinstance(exc, ReadTimeoutError) else self.timeouts.connect

    # ---- connections ---------------------------------------------------------------------------------------

    def _manager(self, url: str, proxy: str) -> PoolManager:
        secure = "https:" in (url[:6].lower(), proxy[:6].lower())
        key = (proxy, origin_of(url) == self._origin, secure)
        with self._lock:
            if key not in self._managers:
                from fastlayer.registry.heads import in_time

                made = self._managers[key] = self._new_manager(*key)
                made.pool_classes_by_scheme = in_time(made.pool_classes_by_scheme)
            return self._managers[key]

    def _new_manager(self, proxy: str, own: bool, secure: bool) -> PoolManager:
        """``secure``: TLS may be needed, whose authorities take longer to read than a small answer."""
        import urllib3

        settings: dict[str, Any] = {"num_pools": _HOSTS, "maxsize": self._budget.connections}
        if secure:
            settings["ssl_context"] = self._tls(own)
        if self.endpoint.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        if not proxy:
            return urllib3.PoolManager(**settings)
        if proxy.lower().startswith("socks"):
            return _socks_manager(proxy, settings)
        try:
            address = urllib3.util.parse_url(proxy)
            login = urllib3.make_headers(proxy_basic_auth=_unquoted(address.auth)) if address.auth else None
            return urllib3.ProxyManager(address._replace(auth=None).url, proxy_headers=login, **settings)
        except (urllib3.exceptions.HTTPError, ValueError):
            raise UsageError(
                f"{shown_url(proxy)}: not the address of a proxy: correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
            ) from None  # what the library says has the password in it

    def _tls(self, own: bool) -> ssl.SSLContext:
        import ssl

        # nobody has to vouch where nobody is asked to, and reading the system's authorities takes long
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self.endpoint.insecure else ssl.create_default_context()
        at = ""
        try:
            for at in self.endpoint.ca_files:
                context.load_verify_locations(cafile=at)
            if own and self.endpoint.client_cert is not None:
                at, key = self.endpoint.client_cert
                context.load_cert_chain(at, key, password=_no_password)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            why = exc.strerror if isinstance(exc, FileNotFoundError | PermissionError) else one_line(str(exc))
            raise UsageError(
                f"{show_path(at)}: cannot be used for {self.endpoint.host}: {why}: give a PEM file"
            ) from exc
        if self.endpoint.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _no_password() -> str:
    raise ValueError("the key has a passphrase")


def _unquoted(login: str) -> str:
    from urllib.parse import unquote

    return unquote(login)


def _socks_manager(proxy: str, settings: dict[str, Any]) -> PoolManager:
    from importlib.util import find_spec

    if find_spec("socks") is None:
        raise UsageError(f"{shown_url(proxy)}: SOCKS proxies need PySocks: pip install pysocks")
    from urllib3.contrib.socks import SOCKSProxyManager

    try:
        return SOCKSProxyManager(proxy, **settings)
    except ValueError as exc:
        raise UsageError(f"{shown_url(proxy)}: {one_line(str(exc))}: correct ALL_PROXY") from None


def _dropped(exc: BaseException) -> bool:
    """Whether the connection ended before a single byte of an answer."""
    from urllib3.exceptions import ProtocolError

    return isinstance(exc, ProtocolError) and any(isinstance(part, ConnectionError) for part in exc.args)


class _Sending:
    """The pieces of a body on their way. ``error``: what its source raised; ``complete``: all has been sent."""

    def __init__(self, body: Body) -> None:
        self.size = body.size
        self.complete = False
        self.error: Exception | None = None
        self._body = body

    def __iter__(self) -> Iterator[memoryview]:
        self.complete = False
        try:
            yield from self._pieces()
        except Exception as exc:  # urllib3 would take an OSError of the source for one of the connection
            self.error = exc
            raise
        self.complete = True

    def _pieces(self) -> Iterator[memoryview]:
        sent = 0
        for data in self._body.open():
            view = memoryview(data).cast("B")
            sent += len(view)
            if self.size is not None and sent > self.size:
                break
            for at in range(0, len(view), _PIECE):
                yield view[at : at + _PIECE]
        if self.size is not None and sent != self.size:
            raise RegistryError(f"what is sent has not the {self.size} bytes that were announced: it has changed")
