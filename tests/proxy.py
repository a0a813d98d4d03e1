"""What stands between a client and its registry, and does it harm: a TCP proxy, and one that understands plain HTTP.

``Proxy`` passes bytes on, of TLS as of anything else. It counts them, makes the way longer (``delay``) and narrower
(``rate``), and cuts connections at a byte: with a reset, an end, or a stall. ``HttpFaults`` gives other answers than
the registry's, or changes these. To count what goes over the wire and to spoil answers, put the one before the other:

    with HttpFaults(registry.port) as faults, Proxy(faults.port) as proxy:
        proxy.cut(4000)
        faults.answer("GET .*manifests", 429, headers={"Retry-After": "1"})

Nothing here waits for a time to pass but ``delay`` and ``rate``; ``wait`` waits for bytes. ``ProxyProcess`` is the
first of them in a process of its own, for benchmarks: ``python -m tests.proxy PORT --delay 0.02 --rate 20000000``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import json
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Literal, NamedTuple

Side = Literal["up", "down", "any"]  # from the client, to the client, all of it in the order in which it comes
How = Literal["reset", "close", "stall"]
_PIECE = 256 << 10  # bytes that are passed on at once
_SLICES = 50  # a second, of a rate
_WAITING = 512  # pieces on a long way
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed is reset
_LONGEST = 60.0  # seconds that a test waits for something that has to come


class _Cut:
    """A connection is cut when ``at`` more bytes have passed; ``times`` in all, counted anew each time."""

    def __init__(self, at: int, side: Side, how: How, times: int) -> None:
        self.at, self.side, self.how, self.times = at, side, how, times
        self.seen = 0

    def concerns(self, side: Side) -> bool:
        return self.times > 0 and self.side in ("any", side)


class Proxy:
    """Between clients, which connect to ``port`` of this machine, and a server at ``target``.

    ``up`` and ``down``: bytes that were passed on from clients and to them; ``connections``: that were made, ``broken``
    that were cut. ``delay``: seconds that a round trip takes longer; ``rate``: bytes a second of each connection, 0 for
    any, each way.
    """

    def __init__(self, target: int, *, delay: float = 0.0, rate: float = 0.0, host: str = "127.0.0.1") -> None:
        self.delay, self.rate = delay, rate
        self.up = self.down = self.connections = self.broken = self.stalled = 0
        self.accepting = True  # whether who comes is let in; else he is reset
        self._target = (host, target)
        self._changed = threading.Condition()
        self._cuts: list[_Cut] = []
        self._links: set[_Link] = set()
        self._listener = socket.create_server((host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"localhost:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    # ---- for tests ---------------------------------------------------------------------------------------------

    def cut(self, at: int, side: Side = "down", how: How = "reset", times: int = 1) -> None:
        """Cuts the connection over which the byte ``at`` from now on would pass, which is not passed on."""
        with self._changed:
            self._cuts.append(_Cut(at, side, how, times))

    def clear(self) -> None:
        """No cuts any more; what is stalled goes on."""
        with self._changed:
            self._cuts.clear()
            self.stalled = 0
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        """Until bytes that pass, or cuts, make the condition true."""
        with self._changed:
            assert self._changed.wait_for(condition, _LONGEST), "it did not come to that"

    @contextlib.contextmanager
    def counted(self) -> Iterator[Callable[[], tuple[int, int]]]:
        """Gives a function that says how many bytes went up and came down since."""
        up, down = self.up, self.down
        yield lambda: (self.up - up, self.down - down)

    def drop_all(self) -> None:
        """Resets all connections."""
        for link in list(self._links):
            link.end("reset")

    # ---- bytes -------------------------------------------------------------------------------------------------

    def take(self, side: Side, size: int) -> tuple[int, How | None]:
        """How many of the bytes may pass, and what happens then."""
        with self._changed:
            allowed, how = size, None
            for cut in self._cuts:
                if cut.concerns(side) and cut.at - cut.seen < allowed:
                    allowed, how = cut.at - cut.seen, cut.how
            for cut in self._cuts:
                if cut.concerns(side):
                    cut.seen += allowed
                    if how is not None and cut.seen >= cut.at:
                        cut.times, cut.seen = cut.times - 1, 0
            return allowed, how

    def passed(self, side: Side, size: int) -> None:
        with self._changed:
            if side == "up":
                self.up += size
            else:
                self.down += size
            self._changed.notify_all()

    def broke(self) -> None:
        with self._changed:
            self.broken += 1
            self._changed.notify_all()

    def stall(self) -> None:
        """Returns when nothing is stalled any more."""
        with self._changed:
            self.stalled += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.stalled == 0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if not self.accepting:
                    _close(client, reset=True)
                    continue
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    _close(client, reset=True)
                    continue
                link = _Link(self, client, server)
                self._links.add(link)
                link.start()

    def ended(self, link: _Link) -> None:
        self._links.discard(link)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.clear()
        for link in list(self._links):
            link.end("close")

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Link:
    """A connection of a client, and ours to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._lock = threading.Lock()
        self._open = 2  # directions
        self._over = False
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)  # what is counted is not far from what is read

    def start(self) -> None:
        pairs: tuple[tuple[Side, socket.socket, socket.socket], ...] = (
            ("up", self._client, self._server),
            ("down", self._server, self._client),
        )
        for side, source, target in pairs:
            threading.Thread(target=self._pump, args=(side, source, target), daemon=True).start()

    def _pump(self, side: Side, source: socket.socket, target: socket.socket) -> None:
        try:
            pieces = _late(self._pieces(source), self._proxy.delay / 2) if self._proxy.delay else self._pieces(source)
            free = 0.0
            for piece in pieces:
                if self._proxy.rate:
                    now = time.monotonic()
                    free = max(free, now) + len(piece) / self._proxy.rate
                    time.sleep(free - now)
                if not self._pass(side, piece, target):
                    return
            with self._lock:
                if not self._over:  # who wakes up of a reset passes on no end
                    target.shutdown(socket.SHUT_WR)
        except OSError:
            self.end("close")
        finally:
            self._done()

    def _pieces(self, source: socket.socket) -> Iterator[bytes]:
        size = min(_PIECE, max(1, int(self._proxy.rate / _SLICES))) if self._proxy.rate else _PIECE
        while data := source.recv(size):
            yield data

    def _pass(self, side: Side, piece: bytes, target: socket.socket) -> bool:
        """Whether the connection goes on."""
        while piece:
            allowed, how = self._proxy.take(side, len(piece))
            if allowed:
                target.sendall(piece[:allowed])
                self._proxy.passed(side, allowed)
            piece = piece[allowed:]
            if how == "stall":
                self._proxy.stall()
            elif how is not None:
                self._proxy.broke()
                self.end(how)
                return False
        return True

    def _done(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
        self.end("close")
        self._proxy.ended(self)

    def end(self, how: How) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        for one in (self._client, self._server):
            _close(one, reset=how == "reset")


def _close(one: socket.socket, *, reset: bool) -> None:
    """A reset needs that nobody is reading: whoever is, wakes up of it first, which nobody sees outside."""
    with contextlib.suppress(OSError):
        if reset:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            one.shutdown(socket.SHUT_RD)
        else:
            one.shutdown(socket.SHUT_RDWR)
    one.close()


def _late(pieces: Iterator[bytes], seconds: float) -> Iterator[bytes]:
    """The same, each so many seconds after it came; the way holds many at once."""
    waiting: queue.Queue[tuple[float, bytes]] = queue.Queue(_WAITING)

    def read() -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                waiting.put((time.monotonic() + seconds, piece))
        waiting.put((time.monotonic() + seconds, b""))

    threading.Thread(target=read, daemon=True).start()
    while True:
        due, piece = waiting.get()
        time.sleep(max(0.0, due - time.monotonic()))
        if not piece:
            return
        yield piece


# ---- plain HTTP --------------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What becomes of an answer of the registry. ``flip``: the byte of its body that is another; ``cut``: bytes of its
    body after which the connection ends; ``length``: that Content-Length says; ``headers``: that it has instead, None
    for none of that name; ``body``, ``status``: that it has instead."""

    flip: int | None = None
    cut: int | None = None
    length: int | None = None
    headers: Mapping[str, str | None] = {}
    body: bytes | None = None
    status: int | None = None


class Answer(NamedTuple):
    """What is answered without asking the registry."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class _Rule:
    def __init__(self, pattern: str, times: int, skip: int, what: Answer | Change) -> None:
        self.pattern = re.compile(pattern)
        self.left, self.skip, self.what = times, skip, what

    def hits(self, text: str) -> bool:
        if self.left <= 0 or not self.pattern.search(text):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.left -= 1
        return True


class HttpFaults:
    """An HTTP server at ``port`` that asks the one at ``target``, but for what the rules say of ``METHOD PATH``.

    ``requests``: what came in, as ``METHOD PATH``; ``statuses``: what is answered to what, in that order.
    """

    def __init__(self, target: int) -> None:
        self.requests: list[str] = []
        self.statuses: list[tuple[str, int]] = []
        self.rules: list[_Rule] = []
        self.lock = threading.Lock()
        faults = self

        class Handler(_Handler):
            to, owner = target, faults

        self._http = _Http(("127.0.0.1", 0), Handler)
        self.port: int = self._http.server_address[1]
        self.host = f"localhost:{self.port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(
        self,
        pattern: str,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        times: int = 1 << 30,
        skip: int = 0,
    ) -> None:
        """Answers requests that match, the first ``times`` after ``skip`` of them."""
        self.rules.append(_Rule(pattern, times, skip, Answer(status, headers or {}, body)))

    def change(self, pattern: str, change: Change, *, times: int = 1 << 30, skip: int = 0) -> None:
        """Changes answers to requests that match, likewise."""
        self.rules.append(_Rule(pattern, times, skip, change))

    def redirect_in_circles(self, pattern: str) -> None:
        """From one address to the next, and back."""
        self.answer(pattern, 307, headers={"Location": "/v2/round/"})
        self.answer("/v2/round/", 307, headers={"Location": "/v2/and-round/"})
        self.answer("/v2/and-round/", 307, headers={"Location": "/v2/round/"})

    def clear(self) -> None:
        with self.lock:
            self.rules.clear()
            self.requests.clear()
            self.statuses.clear()

    def calls(self, pattern: str = "") -> list[str]:
        return [text for text in self.requests if re.search(pattern, text)]

    def rule(self, text: str) -> Answer | Change | None:
        with self.lock:
            self.requests.append(text)
            return next((rule.what for rule in self.rules if rule.hits(text)), None)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> HttpFaults:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    to: int
    owner: HttpFaults
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        found = self.owner.rule(f"{self.command} {self.path}")
        if isinstance(found, Answer):
            for _ in self._body():
                pass
            self._send(found.status, [("Content-Type", "application/json"), *found.headers.items()], found.body)
        else:
            self._pass_on(found or Change())

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (data := self.rfile.read(min(left, 1 << 16))):
            left -= len(data)
            yield data

    def _pass_on(self, change: Change) -> None:
        server = http.client.HTTPConnection("127.0.0.1", self.to)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "connection":
                    server.putheader(name, value)
            chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
            server.endheaders(self._body(), encode_chunked=chunked)
            with server.getresponse() as answer:
                self._relay(answer, change)
        finally:
            server.close()

    def _relay(self, answer: http.client.HTTPResponse, change: Change) -> None:
        body = answer.read() if change.body is None else change.body
        if change.flip is not None and body:
            at = change.flip % len(body)
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        replaced = {name.lower() for name in change.headers} | {"connection", "transfer-encoding"}
        headers = [pair for pair in answer.getheaders() if pair[0].lower() not in replaced]
        headers += [(name, value) for name, value in change.headers.items() if value is not None]
        self._send(change.status or answer.status, headers, body, length=change.length, cut=change.cut)

    def _send(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        *,
        length: int | None = None,
        cut: int | None = None,
    ) -> None:
        with self.owner.lock:
            self.owner.statuses.append((f"{self.command} {self.path}", status))
        head = self.command == "HEAD"
        known = next((value for name, value in headers if name.lower() == "content-length"), None)
        size = str(length if length is not None else known if head and known is not None else len(body))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", size)
        self.end_headers()
        if not head and status != 204:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None or length is not None:  # there is no going on after that
            self.wfile.flush()
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


# ---- a process of its own ----------------------------------------------------------------------------------


class Counts(NamedTuple):
    up: int
    down: int
    connections: int


class ProxyProcess:
    """A ``Proxy`` that takes no time of ours."""

    def __init__(self, target: int, *, delay: float = 0.0, rate: float = 0.0) -> None:
        words = [sys.executable, "-m", "tests.proxy", str(target), "--delay", str(delay), "--rate", str(rate)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._line())
        self.host = f"localhost:{self.port}"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def counts(self) -> Counts:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Counts(**json.loads(self._line()))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def __enter__(self) -> ProxyProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main(words: list[str], stdin: IO[str], stdout: IO[str]) -> None:
    """Prints its port; then its counts, an object for each line that comes; ends when no more come."""
    parser = argparse.ArgumentParser(prog="python -m tests.proxy")
    parser.add_argument("target", type=int)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args(words)
    with Proxy(given.target, delay=given.delay, rate=given.rate) as proxy:
        print(proxy.port, file=stdout, flush=True)
        for _ in stdin:
            print(json.dumps(Counts(proxy.up, proxy.down, proxy.connections)._asdict()), file=stdout, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:], sys.stdin, sys.stdout)
