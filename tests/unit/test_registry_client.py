"""The client against a registry of the tests' own: manifests, blobs, uploads, lists, and everything that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from fastlayer.errors import (
    DigestMismatchError,
    FastlayerError,
    LimitError,
    ManifestError,
    NotFoundError,
    ReferenceFormatError,
    RegistryDeniedError,
    RegistryError,
    RegistryMissingError,
    UsageError,
)
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.blobs import Range, parse_range
from fastlayer.registry.client import Registry, Repository, first_that_answers
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Body, Budget, Endpoint, body_of
from fastlayer.registry.listing import next_link
from fastlayer.registry.uploads import How, upload_range
from tests.registry_server import RegistryServer, error

BLOB = bytes(range(256)) * 400
NOTHING = Digest("sha256:" + "0" * 64)
OTHER = ": see what this login may do, or log in as somebody else: fastlayer login {host}"
PAGE = ": an HTML page, which no registry sends: see its address, and what is in between: try again later"
MANIFEST = {"schemaVersion": 2, "mediaType": mediatypes.MANIFEST, "layers": []}


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


class Patience:
    """Pauses of no time, as many as one likes; what was waited for."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.seen: list[tuple[int, int]] = []
        self.headers: list[Mapping[str, str]] = []

    def __call__(self, attempt: int, status: int, headers: Mapping[str, str]) -> float | None:
        self.seen.append((attempt, status))
        self.headers.append(headers)
        return 0.0 if attempt < self.tries else None


@pytest.fixture
def patience() -> Patience:
    return Patience(4)


@pytest.fixture
def registry(server: RegistryServer, patience: Patience) -> Iterator[Registry]:
    timeouts = Timeouts(connect=2.0, read=2.0, finish=2.0)
    with Registry(Endpoint(server.url), pause=patience, budget=Budget(1), timeouts=timeouts) as found:
        yield found


@pytest.fixture
def repository(registry: Registry) -> Repository:
    return registry.repository("a/b")


def refused(work: Callable[[], object], kind: type[FastlayerError] = RegistryError) -> str:
    with pytest.raises(kind) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900
    return text


def source_of(data: bytes) -> Callable[[int], Iterator[bytes]]:
    def source(offset: int) -> Iterator[bytes]:
        for at in range(offset, len(data), 1000):
            yield data[at : at + 1000]

    return source


# ---- manifests -----------------------------------------------------------------------------------------------


def test_manifests(server: RegistryServer, repository: Repository) -> None:
    data = json.dumps(MANIFEST).encode()
    pushed = repository.put_manifest(data, mediatypes.MANIFEST, "v1")
    assert pushed.digest == digest_of(data) and not pushed.subject_known
    found = repository.manifest("v1")
    assert (found.data, found.media_type, found.digest) == (data, mediatypes.MANIFEST, pushed.digest)
    assert repository.manifest(pushed.digest) == found
    assert repository.head_manifest("v1") == found.descriptor == repository.head_manifest(pushed.digest)
    accept = server.last("GET").headers["Accept"]
    assert all(kind in accept for kind in mediatypes.MANIFESTS | mediatypes.INDEXES)
    assert len(repr(found)) < 200
    repository.delete_manifest("v1")
    assert repository.head_manifest("v1") is None
    assert repository.head_manifest(pushed.digest)
    repository.put_manifest(data, mediatypes.MANIFEST)
    assert server.last("PUT").path.endswith(pushed.digest)


def test_a_manifest_that_is_not_there(repository: Repository) -> None:
    text = refused(lambda: repository.manifest("v9"), RegistryMissingError)
    assert text.endswith("a/b: manifest of v9: status 404: MANIFEST_UNKNOWN: manifest unknown: see how it is called")
    with pytest.raises(NotFoundError) as caught:
        repository.manifest("v9")
    assert isinstance(caught.value, RegistryError)
    assert (caught.value.code, caught.value.status, caught.value.transient) == ("MANIFEST_UNKNOWN", 404, False)


def test_manifests_of_another_digest(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_manifest("a/b", "v1", MANIFEST)
    server.fail("GET .*manifests", extra={"Docker-Content-Digest": str(NOTHING)})
    assert "what came is sha256:" in refused(lambda: repository.manifest("v1"), DigestMismatchError)
    server.faults.clear()
    server.fail("GET .*manifests", spoil=True, drop=("Docker-Content-Digest",))
    refused(lambda: repository.manifest(digest), FastlayerError)
    server.manifests["a/b", str(NOTHING)] = (b"{}", mediatypes.MANIFEST)
    server.faults.clear()
    server.fail("GET .*manifests", drop=("Docker-Content-Digest",))
    refused(lambda: repository.manifest(NOTHING), DigestMismatchError)
    server.fail("HEAD .*manifests", extra={"Docker-Content-Digest": str(digest)})
    refused(lambda: repository.head_manifest(NOTHING), DigestMismatchError)
    server.fail("PUT .*manifests", extra={"Docker-Content-Digest": str(NOTHING)})
    refused(lambda: repository.put_manifest(b"{}", mediatypes.MANIFEST, "v1"), DigestMismatchError)
    refused(lambda: repository.put_manifest(b"{}", mediatypes.MANIFEST, NOTHING), DigestMismatchError)


def test_digests_of_other_algorithms(server: RegistryServer, repository: Repository) -> None:
    import hashlib

    digest = Digest("sha512:" + hashlib.sha512(b"{}").hexdigest())
    server.manifests["a/b", str(digest)] = (b"{}", mediatypes.MANIFEST)
    assert repository.manifest(digest).digest == digest
    assert repository.head_manifest(digest) == Descriptor(mediatypes.MANIFEST, digest, 2)
    bad = Digest("blake3:" + "0" * 64)
    server.manifests["a/b", str(bad)] = (b"{}", mediatypes.MANIFEST)
    assert "cannot be computed" in refused(lambda: repository.manifest(bad), DigestMismatchError)


def test_heads_that_say_too_little(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_manifest("a/b", "v1", MANIFEST)
    server.fail("HEAD", drop=("Docker-Content-Digest", "Content-Type"))
    found = repository.head_manifest("v1")
    assert found is not None and found.digest == digest and found.media_type == mediatypes.MANIFEST


@pytest.mark.parametrize(
    "value,sent,expected",
    [
        (MANIFEST, mediatypes.MANIFEST + "; charset=utf-8", mediatypes.MANIFEST),
        (MANIFEST, "application/json", mediatypes.MANIFEST),
        (MANIFEST, mediatypes.INDEX, None),
        ({"layers": []}, mediatypes.DOCKER_MANIFEST, mediatypes.DOCKER_MANIFEST),
        ({"layers": []}, "text/plain", mediatypes.MANIFEST),
        ({"manifests": []}, "application/octet-stream", mediatypes.INDEX),
        ({"fsLayers": []}, "application/json", min(mediatypes.SCHEMA_1)),
        ({"layers": []}, "application/vnd.unknown+json", "application/vnd.unknown+json"),
    ],
)
def test_media_types(
    server: RegistryServer, repository: Repository, value: dict[str, object], sent: str, expected: str | None
) -> None:
    server.add_manifest("a/b", "v1", value, sent)
    if expected is None:
        assert "refused" in refused(lambda: repository.manifest("v1"), ManifestError)
    else:
        assert repository.manifest("v1").media_type == expected


def test_manifests_that_are_none(server: RegistryServer, repository: Repository) -> None:
    server.fail("GET", 1, status=200, body=b"<html>log in first", headers={"Content-Type": "text/html"})
    assert "an HTML page, which no registry sends" in refused(lambda: repository.manifest("v1"))
    server.fail("GET", 1, status=200, body=b"")
    assert "not valid JSON" in refused(lambda: repository.manifest("v1"), ManifestError)
    server.fail("GET", 1, status=200, body=b"[" * 9999)
    refused(lambda: repository.manifest("v1"), ManifestError)
    server.fail("GET", 1, status=200, body=b" " * (5 << 20))
    assert "more than 4194304 bytes" in refused(lambda: repository.manifest("v1"))
    assert "registries take" in refused(lambda: repository.put_manifest(b" " * (5 << 20), mediatypes.MANIFEST, "v1"))


@pytest.mark.parametrize("reference", ["", "a/b", "sha256:12", "..", "a b", "x" * 129, "md5:" + "0" * 32])
def test_references_that_are_none(server: RegistryServer, repository: Repository, reference: str) -> None:
    refused(lambda: repository.manifest(reference), ReferenceFormatError)
    assert not server.seen


@pytest.mark.parametrize("name", ["", "A", "a//b", "a:b", "a/../b", "a?b", "a@" + NOTHING, "a" * 256])
def test_names_that_are_none(registry: Registry, name: str) -> None:
    refused(lambda: registry.repository(name), ReferenceFormatError)


# ---- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status,body,media_type,expected",
    [
        (401, error("UNAUTHORIZED", "log in"), "", "status 401: UNAUTHORIZED: log in: fastlayer login {host}"),
        (403, error("DENIED", "not yours"), "", "status 403: DENIED: not yours" + OTHER),
        (403, b"", "", "status 403 (forbids it)" + OTHER),
        (404, b"not found\n", "text/plain", "status 404 (has no such thing): not found: see how it is called"),
        (400, error("NAME_INVALID", "bad", {"a": 1}), "", "status 400: NAME_INVALID: bad"),
        (400, error("X", "", "more of it"), "", "status 400: X: more of it"),
        (400, json.dumps({"errors": [{"code": c} for c in "ABCDE"]}).encode(), "", "status 400: A; B; C"),
        (400, b'{"errors": "no"}', "", "status 400"),
        (400, b'{"errors": [7, null]}', "", "status 400"),
        (400, b'{"error": "scope", "error_description": "none such"}', "", "status 400: scope: none such"),
        (400, b'{"message": "plain\\u0007 \\nwords"}', "", "status 400: plain words"),
        (502, b"<HTML><body>Bad Gateway", "text/html", "status 502" + PAGE),
        (500, b"\xff\xfe\x00", "", "status 500: \ufffd\ufffd: try again later"),
        (503, b"x" * (1 << 20), "text/plain", "status 503: " + "x" * 300 + "...: try again later"),
        (429, error("TOOMANYREQUESTS", "limit"), "", "status 429: TOOMANYREQUESTS: limit: try again later"),
        (304, b"", "", "status 304: see whether it is a registry"),
    ],
)  # fmt: skip
def test_what_registries_say(server: RegistryServer, status: int, body: bytes, media_type: str, expected: str) -> None:
    server.fail("/v2/", status=status, body=body, headers={"Content-Type": media_type} if media_type else {})
    with Registry(Endpoint(server.url)) as registry:
        text = refused(lambda: registry.repository("a").manifest("v1"))
    assert text == f"{server.host}: a: manifest of v1: {expected.format(host=server.host)}"


def test_the_login_is_for_the_name_that_people_know(server: RegistryServer) -> None:
    server.fail("/v2/", status=401)
    with Registry(Endpoint(server.url), name="docker.io") as registry:
        assert refused(registry.ping, RegistryDeniedError).endswith("fastlayer login docker.io")


def test_what_passes_is_tried_again(server: RegistryServer, repository: Repository, patience: Patience) -> None:
    server.add_manifest("a/b", "v1", MANIFEST)
    server.fail("GET", 1, status=429, headers={"Retry-After": "7"})
    server.fail("GET", 1, status=503)
    server.fail("GET", 1, cut=0)
    assert repository.manifest("v1").media_type == mediatypes.MANIFEST
    assert patience.seen == [(0, 429), (1, 503), (2, 0)] and patience.headers[0] == {"retry-after": "7"}


def test_warnings_are_passed_on_once(server: RegistryServer) -> None:
    server.add_manifest("a", "v1", MANIFEST)
    warning = '299 - "Your \\"token\\" ends soon", 299 - "x\ty", 199 - "no"'
    server.fail("GET", extra={"Warning": warning})
    lines: list[str] = []
    with Registry(Endpoint(server.url), warn=lines.append) as registry:
        for _ in range(3):
            registry.repository("a").manifest("v1")
    assert lines == [f'{server.host}: Your "token" ends soon', f"{server.host}: x y"]


@pytest.mark.parametrize("auth", ["basic", "token"])
@pytest.mark.parametrize("where", ["warning", "error", "type", "key", "redirect"])
def test_what_is_sent_does_not_come_back(server: RegistryServer, auth: str, where: str) -> None:
    """A registry says what it was told: neither the password nor a token is in a line."""
    server.add_manifest("a", "v1", MANIFEST)
    server.auth = auth
    lines: list[str] = []
    jane = Credential("jane", "s3cret-pa55")
    token = ""
    with suppress(FastlayerError), Registry(Endpoint(server.url), credentials=lambda: jane, warn=lines.append) as one:
        one.repository("a").manifest("v1")
        header = server.last("GET /v2/a/manifests").headers["Authorization"]
        said, token = f"{header} s3cret-pa55", header.split()[1].rstrip("=")
        answers: dict[str, dict[str, Any]] = {
            "warning": {"extra": {"Warning": f'299 - "you said {said}"'}},
            "error": {"status": 400, "body": error("UNKNOWN", said)},
            "type": {"status": 200, "headers": {"Content-Type": said}, "body": json.dumps(MANIFEST).encode()},
            "key": {"status": 200, "body": b'{"%b":1,"%b":2}' % (said.encode(), said.encode())},
            "redirect": {"status": 307, "headers": {"Location": f"http://127.0.0.1:1/{token}"}},
        }
        server.fail("GET /v2/a/manifests", **answers[where])
        try:
            one.repository("a").manifest("v1")
        except FastlayerError as exc:
            lines.append(exc)  # type: ignore[arg-type]  # what it says when it has come out
            raise
    assert token and lines
    assert not [line for line in map(str, lines) if token in line or "s3cret" in line]
    assert any("***" in line for line in map(str, lines)) or where == "redirect"


def test_storms_end(server: RegistryServer, repository: Repository, patience: Patience) -> None:
    server.fail("/v2/", status=429, headers={"Retry-After": "30"})
    assert "try again in 30 s" in refused(lambda: repository.manifest("v1"))
    assert [status for _, status in patience.seen] == [429] * 5
    patience.seen.clear()
    server.faults.clear()
    server.fail("/v2/", status=404)
    refused(lambda: repository.manifest("v1"))
    assert patience.seen == []


# ---- blobs ---------------------------------------------------------------------------------------------------


def test_bodies_that_are_cut_are_read_again(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", b"config")
    server.add_manifest("a/b", "v1", MANIFEST)
    for read in (
        lambda: list(repository.tags()),
        lambda: repository.referrers(NOTHING),
        lambda: repository.read_blob(Descriptor("x", digest, 6)),
    ):
        server.fail("GET", 2, cut=1)
        read()


def test_blobs(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    assert repository.blob_size(digest) == len(BLOB) and repository.blob_size(NOTHING) is None
    with repository.blob(digest, size=len(BLOB)) as stream:
        assert (stream.offset, stream.length, stream.total, stream.etag) == (0, len(BLOB), len(BLOB), f'"{digest}"')
        assert b"".join(stream) == BLOB
    assert repository.read_blob(Descriptor("x", digest, len(BLOB))) == BLOB
    repository.delete_blob(digest)
    assert "BLOB_UNKNOWN" in refused(lambda: repository.blob(digest), RegistryMissingError)


def test_a_blob_goes_on_where_it_was_left(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    server.fail("GET", 1, cut=5000)
    got = b""
    with pytest.raises(RegistryError) as caught, repository.blob(digest, size=len(BLOB)) as stream:
        for data in stream:
            got += data
    assert caught.value.transient and got == BLOB[:5000]
    with repository.blob(digest, offset=5000, size=len(BLOB), etag=stream.etag) as rest:
        assert (rest.offset, rest.length, rest.total) == (5000, len(BLOB) - 5000, len(BLOB))
        assert got + b"".join(rest) == BLOB
    seen = server.last("GET").headers
    assert (seen["Range"], seen["If-Range"]) == ("bytes=5000-", stream.etag)
    with repository.blob(digest, offset=10, end=20, etag='W/"weak"') as part:
        assert b"".join(part) == BLOB[10:20]
    assert "If-Range" not in server.last("GET").headers


def test_servers_without_ranges_give_all(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    server.ranges = False
    with repository.blob(digest, offset=5000, end=6000, size=len(BLOB)) as stream:
        assert stream.offset == 0 and b"".join(stream) == BLOB
    server.ranges = True
    with repository.blob(digest, offset=5000, etag='"another"') as stream:
        assert stream.offset == 0 and b"".join(stream) == BLOB


def test_blobs_of_another_size(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    wrong = len(BLOB) + 1
    assert "not the 102401 of its descriptor" in refused(
        lambda: repository.blob(digest, size=wrong), DigestMismatchError
    )
    refused(lambda: repository.blob(digest, offset=5, size=wrong), DigestMismatchError)
    refused(lambda: repository.read_blob(Descriptor("x", digest, wrong)), DigestMismatchError)
    refused(lambda: repository.read_blob(Descriptor("x", digest, 5 << 20)), LimitError)
    server.fail("GET", spoil=True)
    refused(lambda: repository.read_blob(Descriptor("x", digest, len(BLOB))), DigestMismatchError)
    server.faults.clear()
    for header in ("bytes 6-9/102400", "bytes 5-9/9", "bytes */102400", "lines 1-2/3", ""):
        server.faults.clear()
        server.fail("GET", extra={"Content-Range": header})
        refused(lambda: repository.blob(digest, offset=5), RegistryError)
    server.faults.clear()
    server.fail("GET", status=206, body=b"x", headers={"Content-Range": "bytes 0-0/102400"})
    assert "asked for bytes from 0 on" in refused(lambda: repository.blob(digest, size=len(BLOB)))
    server.faults.clear()
    server.fail("GET", extra={"Content-Encoding": "gzip"})
    assert "nobody asked for" in refused(lambda: repository.blob(digest))
    assert repository.calls.calls.connections._budget._free.acquire(timeout=0)


def test_without_a_length_the_descriptor_counts(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    plain = {"drop": ("Content-Length",), "extra": {"Connection": "close"}}
    server.fail("GET", 1, cut=1 << 30, **plain)
    assert b"".join(repository.blob(digest, size=len(BLOB))) == BLOB
    server.fail("GET", 1, cut=50, **plain)
    assert "cut off after 50 of 102400" in refused(lambda: b"".join(repository.blob(digest, size=len(BLOB))))
    server.fail("GET", 1, cut=1 << 30, **plain)
    assert "more than the 9 bytes" in refused(lambda: b"".join(repository.blob(digest, size=9)))


def test_ranges_beyond_the_end(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("a/b", BLOB)
    assert "status 416" in refused(lambda: repository.blob(digest, offset=len(BLOB)))
    for bad in ({"offset": -1}, {"offset": 5, "end": 5}, {"offset": 5, "size": 5}):
        refused(lambda bad=bad: repository.blob(digest, **bad), UsageError)  # type: ignore[misc]


def test_blobs_elsewhere(server: RegistryServer, repository: Repository) -> None:
    with RegistryServer() as store:
        digest = server.add_blob("a/b", BLOB)
        store.add_blob("a/b", BLOB)
        server.blobs_at = store.url
        with repository.blob(digest, offset=7, size=len(BLOB)) as stream:
            assert b"".join(stream) == BLOB[7:] and stream.url.startswith(store.url)
        before = len(server.seen)
        with repository.blob(digest, address=stream.url) as again:  # as foreign layers, too
            assert b"".join(again) == BLOB
        assert len(server.seen) == before


# ---- uploads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, 1, 30_000, len(BLOB), 1 << 30])
def test_a_blob_is_pushed_once(server: RegistryServer, repository: Repository, chunk: int) -> None:
    data = BLOB if chunk != 1 else BLOB[:5]
    digest = digest_of(data)
    for expected in (How.UPLOADED, How.PRESENT):
        assert repository.push_blob(digest, len(data), source_of(data), chunk=chunk) is expected
    assert server.blobs["a/b", digest] == data and not server.uploads
    assert len(server.calls("PATCH")) == (0 if not chunk else -(-len(data) // chunk))
    assert len(server.calls("PUT")) == 1 and "_state=" in server.calls("PUT")[0]


@pytest.mark.parametrize("chunk", [0, 10])
def test_an_empty_blob(server: RegistryServer, repository: Repository, chunk: int) -> None:
    repository.push_blob(digest_of(b""), 0, source_of(b""), chunk=chunk)
    assert server.blobs["a/b", digest_of(b"")] == b""


def test_chunks_are_as_large_as_the_registry_wants(server: RegistryServer, repository: Repository) -> None:
    server.smallest = 40_000
    repository.push_blob(digest_of(BLOB), len(BLOB), source_of(BLOB), chunk=1000)
    assert [len(one.body) for one in server.seen if one.method == "PATCH"] == [40_000, 40_000, 22_400]


@pytest.mark.parametrize("eaten", [0, 1, 12_345, 30_000])
def test_a_chunk_that_fails_goes_on_from_where_the_registry_is(
    server: RegistryServer, repository: Repository, patience: Patience, eaten: int
) -> None:
    server.fail("PATCH", 2, eat=eaten)
    repository.push_blob(digest_of(BLOB), len(BLOB), source_of(BLOB), chunk=30_000)
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB
    assert len(patience.seen) == 2 and len(server.calls("GET .*uploads")) == 2
    if eaten > 1:  # 0-0 means 1 byte, or none: then it begins anew
        sent = sum(len(one.body) for one in server.seen if one.method == "PATCH")
        assert sent == len(BLOB) - 2 * eaten and len(server.calls("POST")) == 1


@pytest.mark.parametrize("chunk", [0, 30_000])
@pytest.mark.parametrize("what", [{"status": 503}, {"status": 500}, {"eat": 100}, {"eat": 0}])
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
def test_pushes_survive(
    server: RegistryServer, repository: Repository, method: str, what: dict[str, int], chunk: int
) -> None:
    server.fail(method, 2, **what)
    repository.push_blob(digest_of(BLOB), len(BLOB), source_of(BLOB), chunk=chunk)
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB


def test_a_lost_answer_is_not_a_lost_blob(server: RegistryServer, repository: Repository) -> None:
    for chunk in (0, 30_000):
        server.blobs.clear()
        server.seen.clear()
        server.fail("PUT", 1, drop=("Content-Length",), extra={"Content-Length": "9"}, cut=0, reset=True)
        repository.push_blob(digest_of(BLOB), len(BLOB), source_of(BLOB), chunk=chunk)
        assert len(server.calls("PUT")) == 1


def test_an_upload_that_was_forgotten_begins_anew(server: RegistryServer, repository: Repository) -> None:
    def source(offset: int) -> Iterator[bytes]:
        if offset == 60_000 and len(server.calls("POST")) == 1:
            server.uploads.clear()
        return source_of(BLOB)(offset)

    repository.push_blob(digest_of(BLOB), len(BLOB), source, chunk=30_000)
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB and len(server.calls("POST")) == 2


def test_registries_that_always_forget(server: RegistryServer, repository: Repository) -> None:
    for what in ({"status": 404}, {"status": 502}, {"status": 416}):
        server.seen.clear()
        server.faults.clear()

        def source(offset: int, what: dict[str, int] = what) -> Iterator[bytes]:
            if offset:
                server.uploads.clear()
                server.fail("PATCH", 1, **what)
            return source_of(BLOB)(offset)

        push = lambda source=source: repository.push_blob(digest_of(BLOB), len(BLOB), source, chunk=30_000)  # noqa: E731
        refused(push)
        assert 2 <= len(server.calls("POST")) <= 6


def test_who_is_out_of_step_asks(server: RegistryServer, repository: Repository) -> None:
    def source(offset: int) -> Iterator[bytes]:
        if offset == 60_000 and not server.calls("GET .*uploads"):
            next(iter(server.uploads.values()))[40_000:] = b""
        return source_of(BLOB)(offset)

    repository.push_blob(digest_of(BLOB), len(BLOB), source, chunk=30_000)
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB and len(server.calls("POST")) == 1
    server.fail("PATCH", status=416)
    refused(lambda: repository.push_blob(digest_of(b"x"), 1, source_of(b"x"), chunk=30_000))


def test_pushes_that_fail_are_cancelled(server: RegistryServer, repository: Repository) -> None:
    text = refused(lambda: repository.push_blob(NOTHING, len(BLOB), source_of(BLOB)))
    assert "DIGEST_INVALID: provided digest did not match uploaded content" in text

    def broken(offset: int) -> Iterator[bytes]:
        yield BLOB[:7]
        raise FileNotFoundError(2, "gone")

    for chunk in (0, 1000):
        with pytest.raises(FileNotFoundError):
            repository.push_blob(digest_of(BLOB), len(BLOB), broken, chunk=chunk)
        assert not server.uploads
    server.fail("PATCH", status=403, body=error("DENIED", "quota"))
    refused(lambda: repository.push_blob(NOTHING, len(BLOB), source_of(BLOB), chunk=9), RegistryDeniedError)
    assert not server.uploads


def test_a_stream_of_unknown_size(server: RegistryServer, repository: Repository) -> None:
    upload = repository.start_upload()
    upload.stream(Body(lambda: iter([BLOB[:5], BLOB[5:]]), None, again=False))
    assert upload.offset == len(BLOB)
    upload.finish(digest_of(BLOB))
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB
    assert "Content-Range" not in server.last("PATCH").headers


def test_an_upload_of_another_process(server: RegistryServer, repository: Repository, registry: Registry) -> None:
    upload = repository.start_upload()
    upload.send(body_of(BLOB[:9000]))
    again = registry.repository("a/b").resume_upload(upload.url)
    assert again.offset == 9000
    again.send(body_of(BLOB[9000:]))
    again.finish(digest_of(BLOB))
    assert server.blobs["a/b", digest_of(BLOB)] == BLOB
    refused(lambda: repository.resume_upload(upload.url), RegistryMissingError)
    repository.start_upload().cancel()
    assert not server.uploads
    upload.cancel()


def test_small_blobs(server: RegistryServer, repository: Repository) -> None:
    for single in (True, False):
        server.single_post = single
        assert repository.push_bytes(b"config %d" % single) == digest_of(b"config %d" % single)
    assert len(server.calls("PUT")) == 1
    server.single_post = True
    server.fail("POST", extra={"Docker-Content-Digest": str(NOTHING)})
    refused(lambda: repository.push_bytes(b"x"), DigestMismatchError)


def test_mounts(server: RegistryServer, repository: Repository) -> None:
    digest = server.add_blob("base", BLOB)
    push = lambda **more: repository.push_blob(digest, len(BLOB), source_of(BLOB), **more)  # noqa: E731
    assert push(mounts=("nothing", "base")) is How.UPLOADED  # the first upload is taken
    del server.blobs["a/b", digest]
    assert push(mounts=("base",)) is How.MOUNTED and not server.uploads
    del server.blobs["a/b", digest]
    server.mounts = False
    assert push(mounts=("base",)) is How.UPLOADED and not server.uploads
    del server.blobs["a/b", digest]
    server.fail("POST.*mount", status=403)
    assert push(mounts=("secret",)) is How.UPLOADED
    assert f"mount={digest}&from=base" in server.calls("POST")[1]


def test_uploads_that_are_none(server: RegistryServer, repository: Repository) -> None:
    server.fail("POST", 1, drop=("Location",))
    assert "does not say where" in refused(repository.start_upload)
    server.fail("POST", 1, status=200, body=b"<html>")
    assert "status 200" in refused(repository.start_upload)
    upload = repository.start_upload()
    server.fail("PATCH", 1, extra={"Range": "0-99"})
    assert "the registry says 100" in refused(lambda: upload.send(body_of(b"abc")))
    assert [upload_range(text) for text in ("0-9", "bytes=0-9", "0-0", "", "5-9", "0--1")] == [10, 10, 1] + [None] * 3


# ---- lists ---------------------------------------------------------------------------------------------------


def test_tags_in_pages(server: RegistryServer, repository: Repository, registry: Registry) -> None:
    for number in range(25):
        server.add_manifest("a/b", f"v{number:02}", MANIFEST)
    server.page = 10
    everything = [f"v{number:02}" for number in range(25)]
    assert list(repository.tags()) == everything and len(server.calls("tags")) == 3
    assert list(repository.tags(page=4, last="v20")) == everything[21:]
    assert list(registry.catalog()) == ["a/b"]
    assert "NAME_UNKNOWN" in refused(lambda: list(registry.repository("none").tags()))


@pytest.mark.parametrize(
    "what",
    [
        {"extra": {"Link": '<tags/list>; rel="next"'}},
        {"extra": {"Link": '</v2/a/b/tags/list?n=1000>; rel="next"'}},
        {"extra": {"Link": '<http://127.0.0.1:1/v2/>; rel="next"'}},
        {"status": 200, "body": b'{"tags": "all"}'},
        {"status": 200, "body": b'{"tags": [1]}'},
    ],
)
def test_lists_that_are_none(server: RegistryServer, repository: Repository, what: dict[str, object]) -> None:
    server.add_manifest("a/b", "v1", MANIFEST)
    server.fail("tags", **what)
    refused(lambda: list(repository.tags()))


def test_empty_lists(server: RegistryServer, repository: Repository) -> None:
    server.fail("tags", status=200, body=b'{"name": "a/b", "tags": null}')
    assert list(repository.tags()) == []


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", ""),
        ('</v2/a>; rel="next"', "/v2/a"),
        ("</v2/a>;rel=next", "/v2/a"),
        ('</x>; rel="prev", </y?a=1,2>; title="a, b"; rel="next"', "/y?a=1,2"),
        ('</x>; rel="last next"', "/x"),
        ("</x>", ""),
        ("garbage <", ""),
        ('<a>; rel="next', ""),
    ],
)
def test_links(text: str, expected: str) -> None:
    assert next_link(text) == expected
    for long in ("<a>; " * 20_000 + "x", "<a>;b" + " " * 60_000 + "x", "<a>" + ";b" * 30_000 + '"', "<" * 60_000):
        next_link(long)


@pytest.mark.parametrize("api", [True, False])
def test_referrers(server: RegistryServer, repository: Repository, api: bool) -> None:
    server.referrers_api = api
    subject = Descriptor(mediatypes.MANIFEST, server.add_manifest("a/b", "v1", MANIFEST), len(json.dumps(MANIFEST)))
    assert repository.referrers(subject.digest) == []
    for kind in ("sig", "sbom"):
        value: dict[str, Any] = {**MANIFEST, "artifactType": kind, "subject": subject.to_dict()}
        if kind == "sbom" and not api:  # an image manifest may say it by its configuration
            config = {"mediaType": value.pop("artifactType"), "digest": str(NOTHING), "size": 2}
            value |= {"config": config, "annotations": {"of": "it"}}
        data = json.dumps(value).encode()
        pushed = repository.put_manifest(data, mediatypes.MANIFEST)
        assert pushed.subject_known is api
        if not api:
            mine = Descriptor(mediatypes.MANIFEST, pushed.digest, len(data))
            repository.tag_referrer(subject.digest, mine, data)
            repository.tag_referrer(subject.digest, mine, data)
    assert [one.extra["artifactType"] for one in repository.referrers(subject.digest)] == ["sig", "sbom"]
    (sbom,) = repository.referrers(subject.digest, "sbom")
    assert sbom.extra["artifactType"] == "sbom" and sbom.annotations == ({} if api else {"of": "it"})


def test_referrers_that_are_none(server: RegistryServer, repository: Repository) -> None:
    for body in (b'{"manifests": [7]}', b'{"manifests": [{}]}', b'{"manifests": 7}'):
        server.fail("referrers", 1, status=200, body=body, headers={"Content-Type": mediatypes.INDEX})
        refused(lambda: repository.referrers(NOTHING))
    server.fail("referrers", status=200, body=b"<html>", headers={"Content-Type": "text/html"})
    assert repository.referrers(NOTHING) == []


# ---- the registry itself -------------------------------------------------------------------------------------


def test_the_first_endpoint_that_answers(server: RegistryServer) -> None:
    tls, dead = Endpoint(server.url.replace("http", "https")), Endpoint("http://127.0.0.1:1")
    assert first_that_answers([tls, dead, Endpoint(server.url)]) == Endpoint(server.url)
    server.auth = "token"
    assert first_that_answers([Endpoint(server.url)]).url == server.url
    assert "speaks no TLS" in refused(lambda: first_that_answers([tls, dead]))
    server.fail("/v2/", 2, status=404)
    assert "no registry" in refused(lambda: first_that_answers([Endpoint(server.url)]))
    assert "no registry" in refused(lambda: first_that_answers([tls, dead, Endpoint(server.url)]))
    for status in (429, 500, 503):  # it has no time for us now: whoever asks for something is told so
        server.fail("/v2/", 1, status=status)
        assert first_that_answers([tls, Endpoint(server.url)]).url == server.url
    refused(lambda: first_that_answers([]))


@pytest.mark.parametrize("says_so", [False, True])
def test_a_page_for_people_is_no_registry(server: RegistryServer, says_so: bool) -> None:
    """A login at a portal that lets everybody in would leave the password there, and in a file."""
    headers = {"Content-Type": "text/html"} | ({"Docker-Distribution-API-Version": "registry/2.0"} if says_so else {})
    server.fail("/v2/", status=200, headers=headers, body=b"true")
    with Registry(Endpoint(server.url)) as registry:
        if says_so:
            registry.ping()
            assert first_that_answers([Endpoint(server.url)]).url == server.url
            return
        assert "no registry" in refused(registry.ping)
        assert "no registry" in refused(lambda: first_that_answers([Endpoint(server.url)]))


def test_a_portal_takes_nothing(server: RegistryServer, repository: Repository) -> None:
    """It says 200 to whatever it is asked, and has understood nothing."""
    server.fail("/v2/a/b", status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>Sign in")
    digest = digest_of(BLOB)
    for work in (
        lambda: repository.push_blob(digest, len(BLOB), lambda at: (BLOB[at:],)),
        lambda: repository.put_manifest(json.dumps(MANIFEST).encode(), mediatypes.MANIFEST, "v1"),
        lambda: repository.manifest("v1"),
        lambda: repository.head_manifest("v1"),
        lambda: list(repository.tags()),
        lambda: repository.read_blob(Descriptor("x", digest, len(BLOB))),
    ):
        assert "an HTML page, which no registry sends" in refused(work)


def test_endpoints_with_a_prefix(server: RegistryServer) -> None:
    with Registry(Endpoint(server.url + "/mirror/")) as registry:
        refused(registry.ping)
    assert server.calls() == ["GET /mirror/v2/"]
    assert repr(registry) == f"Registry({server.host})"


def test_content_ranges() -> None:
    assert parse_range("bytes 0-0/1") == Range(0, 1, 1) and parse_range("Bytes 5-9/*") == Range(5, 10, None)
    assert parse_range("bytes 9-5/10") is None and parse_range("bytes=0-1") is None
