"""Answers with random damage: whatever comes, there is a result or one line of error, and no connection is lost."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import islice

import pytest

from fastlayer.errors import FastlayerError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import digest_of
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.client import Registry
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Budget, Endpoint

BLOB = b"x" * 50
DIGEST = digest_of(BLOB)
JANE = Credential("jane", "s3cret-pa55")
TIMES = Timeouts(connect=1.0, read=0.2, finish=0.2)
HEAD = f'Docker-Content-Digest: {DIGEST}\r\nETag: "x"\r\nRange: 0-7\r\nLocation: /v2/a/blobs/uploads/1?x=y\r\n'
BODY = '{"manifests": [], "tags": ["a","b"]}'
LIST = f'Content-Length: {len(BODY)}\r\nLink: </v2/a/tags/list?last=x>; rel="next"\r\nWarning: 299 - "hi"\r\n'
CHALLENGE = 'Bearer realm="http://127.0.0.1:PORT/token",service="x"'
ANSWERS = (
    f"200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\n{LIST}{HEAD}\r\n{BODY}",
    f"401 Unauthorized\r\nWWW-Authenticate: {CHALLENGE}\r\nContent-Length: 3\r\n\r\nabc",
    f"202 Accepted\r\nOCI-Chunk-Min-Length: 5\r\nContent-Length: 0\r\n{HEAD}\r\n",
    '200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"token":"abcdefghij"}\r\n0\r\n\r\n',
    "307 Moved\r\nLocation: http://127.0.0.1:PORT/v2/b\r\nContent-Length: 0\r\n\r\n",
    f"206 Partial\r\nContent-Range: bytes 5-49/50\r\nContent-Length: 45\r\n\r\n{'x' * 45}",
)
ODD = (b"\r\n", b"\r\n\r\n", b"9" * 30, b"-1", b'"', b"\0", b"0-0", b"%", b"\xff")


def damaged(rng: random.Random, text: str, port: int) -> bytes:
    data = bytearray(b"HTTP/1.1 " + text.replace("PORT", str(port)).encode())
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(data))
        change = rng.randrange(3)
        if change == 0:
            data[at] = rng.randrange(256)
        elif change == 1:
            del data[at : at + rng.randrange(1, 9)]
        else:
            data[at:at] = rng.choice(ODD)
    return bytes(data)


def serve(listener: socket.socket, rng: random.Random) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.settimeout(0.05)
                client.recv(1 << 16)
                client.sendall(damaged(rng, rng.choice(ANSWERS), listener.getsockname()[1]))


def calls(registry: Registry, rng: random.Random) -> Iterator[Callable[[], object]]:
    a = registry.repository("a")
    chunk = rng.choice((0, 9))
    yield from (
        registry.ping,
        lambda: list(islice(a.tags(), 50)),
        lambda: a.manifest("x"),
        lambda: a.head_manifest("x"),
        lambda: a.put_manifest(b"{}", "application/x", "x"),
        lambda: a.referrers(DIGEST),
        lambda: b"".join(a.blob(DIGEST, offset=5)),
        lambda: a.read_blob(Descriptor("x", DIGEST, len(BLOB))),
        lambda: a.push_blob(DIGEST, len(BLOB), lambda at: (BLOB[at:],), chunk=chunk),
        lambda: a.push_bytes(BLOB),
        lambda: a.mount_blob(DIGEST, "c"),
        lambda: a.start_upload().refresh(),
    )


@pytest.mark.parametrize("seed", range(60))
def test_whatever_comes(seed: int) -> None:
    rng = random.Random(seed)
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        threading.Thread(target=serve, args=(listener, rng), daemon=True).start()
        budget = Budget(1)
        with Registry(
            Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}"),
            credentials=lambda: JANE,
            pause=lambda attempt, status, headers: 0.0 if attempt < 2 else None,
            timeouts=TIMES,
            budget=budget,
        ) as registry:
            for call in calls(registry, rng):
                with suppress(FastlayerError):
                    check(call)
                assert budget._free.acquire(timeout=0)
                budget.give()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts


def check(call: Callable[[], object]) -> None:
    try:
        call()
    except FastlayerError as exc:
        text = str(exc)
        assert "\n" not in text and "s3cret" not in text and len(text) < 1500
        raise
