"""The client and Debian's docker-registry, skopeo the judge: what it pushes we read, what we push it inspects."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.errors import RegistryDeniedError, RegistryError, RegistryMissingError
from fastlayer.oci import mediatypes
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.registry.client import Registry, first_that_answers
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Body, Endpoint, body_of
from fastlayer.registry.uploads import How
from tests.certificates import Authority
from tests.conftest import require
from tests.integration.dockerregistry import PASSWORD, USER, DockerRegistry, basic_auth, token_auth

KINDS = ("plain", "tls", "basic", "token")
JANE = Credential(USER, PASSWORD)


class Setup:
    """A registry, our client of it, and skopeo's words for it."""

    def __init__(self, place: Path, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self.place = place
        self.authority = Authority(place)
        self.asked: list[str] = []
        tls = self.authority.certificate("server") if kind in ("tls", "basic") else None
        auth = None
        if kind == "basic":
            auth = basic_auth(place)
        elif kind == "token":
            auth, self.asked = stack.enter_context(token_auth(place, self.authority))
        self.server = stack.enter_context(DockerRegistry(place, tls=tls, auth=auth))
        certs = place / "certs"
        certs.mkdir()
        (certs / "ca.crt").write_bytes(self.authority.ca.read_bytes())
        self.endpoint = Endpoint(self.server.url, ca_files=(str(self.authority.ca),) if tls else ())
        self.login = JANE if auth else None
        self.registry = stack.enter_context(self.client(self.login))

    def client(self, who: Credential | None) -> Registry:
        return Registry(self.endpoint, credentials=lambda: who)

    def skopeo(self, verb: str, *words: str | Path, side: str = "") -> bytes:
        """``side``: "src-" or "dest-" for copies."""
        options = [f"--{side}cert-dir={self.place / 'certs'}"]
        if self.endpoint.url.startswith("http:"):
            options = [f"--{side}tls-verify=false"]
        if self.login is not None:
            options.append(f"--{side}creds={USER}:{PASSWORD}")
        done = subprocess.run(["skopeo", verb, *options, *words], capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def name(self, rest: str) -> str:
        return f"docker://{self.server.host}/{rest}"


@pytest.fixture(params=KINDS)
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    require("docker-registry", "skopeo", "openssl")
    with ExitStack() as stack:
        yield Setup(tmp_path, request.param, stack)


def layer(size: int = 300_000) -> tuple[bytes, bytes]:
    """A tar and its gzip."""
    import random

    data = random.Random(size).randbytes(size)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("data")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue(), gzip.compress(out.getvalue(), mtime=0)


def config_of(tar: bytes) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [str(digest_of(tar))]}
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": rootfs}).encode()


def manifest_of(config: bytes, blob: bytes) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": mediatypes.MANIFEST,
            "config": Descriptor(mediatypes.CONFIG, digest_of(config), len(config)).to_dict(),
            "layers": [Descriptor(mediatypes.LAYER_GZIP, digest_of(blob), len(blob)).to_dict()],
        }
    ).encode()


def layout(place: Path, tar: bytes, blob: bytes) -> str:
    """An OCI layout with one image, for skopeo."""
    config = config_of(tar)
    manifest = manifest_of(config, blob)
    blobs = place / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    for data in (config, manifest, blob):
        (blobs / digest_of(data).encoded).write_bytes(data)
    (place / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    item = Descriptor(
        mediatypes.MANIFEST, digest_of(manifest), len(manifest), {"org.opencontainers.image.ref.name": "v1"}
    )
    (place / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [item.to_dict()]}))
    return f"oci:{place / 'layout'}:v1"


def test_what_skopeo_pushes_we_read(setup: Setup, tmp_path: Path) -> None:
    tar, blob = layer()
    setup.skopeo("copy", layout(tmp_path, tar, blob), setup.name("theirs/app:v1"), side="dest-")
    repository = setup.registry.repository("theirs/app")
    raw = repository.manifest("v1")
    assert raw.data == manifest_of(config_of(tar), blob) and raw.media_type == mediatypes.MANIFEST
    assert repository.manifest(raw.digest) == raw and repository.head_manifest("v1") == raw.descriptor
    value = json.loads(raw.data)
    assert repository.read_blob(Descriptor.from_dict(value["config"])) == config_of(tar)
    found = Descriptor.from_dict(value["layers"][0])
    assert repository.blob_size(found.digest) == len(blob)
    with repository.blob(found.digest, size=found.size) as stream:
        first = stream.read(1000)
    with repository.blob(found.digest, offset=len(first), size=found.size, etag=stream.etag) as rest:
        assert rest.offset == len(first) and first + b"".join(rest) == blob
    with repository.blob(found.digest, offset=10, end=20) as part:
        assert b"".join(part) == blob[10:20]
    assert list(repository.tags()) == ["v1"]
    assert list(setup.registry.catalog()) == ["theirs/app"]
    assert repository.referrers(raw.digest) == []
    repository.tag_referrer(raw.digest, raw.descriptor, raw.data)  # what a registry takes
    assert [one.digest for one in repository.referrers(raw.digest, mediatypes.CONFIG)] == [raw.digest]


@pytest.mark.parametrize("chunk", [0, 100_000])
def test_what_we_push_skopeo_reads(setup: Setup, tmp_path: Path, chunk: int) -> None:
    tar, blob = layer()
    config = config_of(tar)
    repository = setup.registry.repository("ours/app")
    digest = digest_of(blob)
    for expected in (How.UPLOADED, How.PRESENT):
        assert repository.push_blob(digest, len(blob), lambda at: (blob[at:],), chunk=chunk) is expected
    repository.push_bytes(config)
    manifest = manifest_of(config, blob)
    pushed = repository.put_manifest(manifest, mediatypes.MANIFEST, "v1")
    repository.put_manifest(manifest, mediatypes.MANIFEST, "v2")
    raw = setup.skopeo("inspect", "--raw", setup.name("ours/app:v1"))
    assert raw == manifest and digest_of(raw) == pushed.digest
    assert json.loads(setup.skopeo("inspect", setup.name("ours/app:v1")))["Layers"] == [str(digest)]
    setup.skopeo("copy", setup.name("ours/app:v2"), f"oci:{tmp_path / 'copy'}:v2", side="src-")
    assert (tmp_path / "copy/blobs/sha256" / digest.encoded).read_bytes() == blob
    other = setup.registry.repository("ours/other")
    assert other.push_blob(digest, len(blob), lambda at: (), mounts=("ours/app",)) is How.MOUNTED
    assert other.blob_size(digest) == len(blob)
    repository.delete_manifest(pushed.digest)
    assert repository.head_manifest("v1") is None
    repository.delete_blob(digest)
    assert repository.blob_size(digest) is None


def test_a_stream_of_unknown_size(setup: Setup) -> None:
    _, blob = layer()
    repository = setup.registry.repository("streamed")
    upload = repository.start_upload()
    upload.stream(Body(lambda: (blob[at : at + 7000] for at in range(0, len(blob), 7000)), None, again=False))
    upload.finish(digest_of(blob))
    assert repository.blob_size(digest_of(blob)) == len(blob)


def test_uploads_go_on(setup: Setup) -> None:
    _, blob = layer()
    repository = setup.registry.repository("resumed")
    upload = repository.start_upload()
    upload.send(body_of(blob[:100_000]))
    again = setup.client(setup.login).repository("resumed").resume_upload(upload.url)
    assert again.offset == 100_000
    again.finish(digest_of(blob), body_of(blob[100_000:]))
    assert repository.blob_size(digest_of(blob)) == len(blob)
    with pytest.raises(RegistryMissingError, match="BLOB_UPLOAD_UNKNOWN"):
        repository.resume_upload(upload.url)
    repository.start_upload().cancel()


def test_a_source_that_breaks_once(setup: Setup) -> None:
    """The connection ends in the middle of a chunk; where this registry cannot go on, the blob is sent anew."""
    _, blob = layer()
    broken = []

    class Cut(RegistryError):
        pass

    def source(at: int) -> Iterator[bytes]:
        if at >= 100_000 and not broken:
            broken.append(at)
            yield blob[at : at + 50_000]
            raise Cut("the line is cut", transient=True)
        yield blob[at:]

    registry = setup.client(setup.login)
    registry.calls._pause = lambda attempt, status, headers: 0.0 if attempt < 5 else None
    repository = registry.repository("broken")
    assert repository.push_blob(digest_of(blob), len(blob), source, chunk=100_000) is How.UPLOADED
    with repository.blob(digest_of(blob)) as stream:
        assert b"".join(stream) == blob
    assert broken == [100_000]


def test_what_it_refuses(setup: Setup) -> None:
    repository = setup.registry.repository("none")
    with pytest.raises(RegistryMissingError, match=r"none: manifest of v1: status 404: MANIFEST_UNKNOWN"):
        repository.manifest("v1")
    assert repository.blob_size(digest_of(b"x")) is None
    with pytest.raises(RegistryMissingError, match="NAME_UNKNOWN"):
        list(repository.tags())
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        repository.push_blob(Digest("sha256:" + "0" * 64), 3, lambda at: (b"abc",))
    with pytest.raises(RegistryError, match=r"MANIFEST_INVALID|MANIFEST_BLOB_UNKNOWN"):
        repository.put_manifest(manifest_of(b"c", b"b"), mediatypes.MANIFEST, "v1")
    assert first_that_answers([setup.endpoint]) == setup.endpoint
    setup.registry.ping()


@pytest.mark.parametrize("setup", ["basic", "token"], indirect=True)
def test_who_may_not(setup: Setup) -> None:
    for who in (None, Credential(USER, "wr0ng")):
        with setup.client(who) as registry, pytest.raises(RegistryDeniedError) as caught:
            registry.repository("a").push_bytes(b"x")
        assert "\n" not in str(caught.value) and "wr0ng" not in str(caught.value)
        assert f"fastlayer login {setup.server.host}" in str(caught.value)
    if setup.kind == "token":
        before = len(setup.asked)
        repository = setup.registry.repository("a")
        for number in range(5):
            repository.push_bytes(b"%d" % number)
        assert len(setup.asked) == before + 1


@pytest.mark.parametrize("setup", ["tls"], indirect=True)
def test_certificates_are_looked_at(setup: Setup) -> None:
    plain = Registry(setup.endpoint._replace(ca_files=()), credentials=lambda: setup.login)
    with plain, pytest.raises(RegistryError, match="its certificate is not to be trusted"):
        plain.ping()
    with Registry(setup.endpoint._replace(ca_files=(), insecure=True), credentials=lambda: setup.login) as insecure:
        insecure.ping()
