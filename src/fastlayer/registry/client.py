"""The client of the OCI distribution specification 1.1: one registry at one endpoint, and its repositories.

Everything here may be called by many threads at once. What is refused, missing or broken is a ``RegistryError`` of one
line that has the registry's own words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from fastlayer.errors import RegistryError
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest
from fastlayer.registry import blobs, listing, manifests, referrers, uploads
from fastlayer.registry.answers import Answer, Timeouts
from fastlayer.registry.calls import Calls, Pause, RepositoryCalls, is_page, no_pause
from fastlayer.registry.credential import Credential
from fastlayer.registry.http import Budget, Connections, Endpoint
from fastlayer.registry.lines import hide_in
from fastlayer.registry.scopes import CATALOG
from fastlayer.registry.tokens import Tokens

PAGE = 1000  # names that are asked for at once; registries may give fewer


class Registry:
    """A registry at an endpoint.

    ``name``: ``HOST[:PORT]`` as people write it, when that is another (a mirror, Docker Hub); ``credentials``: asked
    once, when the registry wants to know; ``pause``: how long to wait before another try; ``offline``: for a login that
    wants ``tokens.identity_token``; ``warn``: given each line that the registry wants people to read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        name: str = "",
        credentials: Callable[[], Credential | None] | None = None,
        pause: Pause = no_pause,
        sleep: Callable[[float], object] = time.sleep,
        timeouts: Timeouts | None = None,
        budget: Budget | None = None,
        offline: bool = False,
        warn: Callable[[str], object] = lambda line: None,
        connections: Connections | None = None,
    ) -> None:
        self.connections = connections or Connections(endpoint, timeouts=timeouts, budget=budget)
        self.tokens = Tokens(self.connections, credentials, registry=name, offline=offline)
        self.calls = Calls(self.connections, self.tokens, pause=pause, sleep=sleep, warn=warn)

    @property
    def name(self) -> str:
        return self.calls.registry

    def __repr__(self) -> str:
        return f"Registry({self.name})"

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        hide_in(exc)
        self.close()

    def close(self) -> None:
        """Closes the connections that are idle."""
        self.connections.close()

    def give_up(self) -> None:
        """Ends what other threads receive, with an error for each; nothing more can be asked for."""
        self.connections.give_up()

    def ping(self) -> None:
        """Whether it is a registry that lets us in (end-1): what a login asks. Raises ``RegistryError``."""
        with self.calls.call("GET", self.calls.base, "the registry itself", (200,), pages=True) as answer:
            if is_page(answer):
                raise _no_registry(self.name)

    def answers(self) -> bool:
        """Whether there is a registry at all, be it one that wants a login first, or has no time now. Raises
        ``RegistryError`` when nobody is there, False for somebody else."""
        with self.connections.request("GET", self.calls.base) as answer:
            known = answer.headers.get("docker-distribution-api-version", "") or answer.headers.get("www-authenticate")
            if answer.status == 200:
                return not is_page(answer)
            return answer.status == 429 or answer.status >= 500 or (answer.status in (401, 403) and bool(known))

    def catalog(self, *, page: int = PAGE, last: str = "") -> Iterator[str]:
        """The names of its repositories, where it gives them away."""
        what = f"{self.name}: catalog"

        def get(url: str) -> Answer:
            return self.calls.call("GET", url, "catalog", (200,), scopes=(CATALOG,), keep=listing.MAX_PAGE)

        for _, value in listing.pages(get, self.calls.base + "_catalog" + _query(page, last), what):
            yield from listing.strings(value, "repositories", what)

    def repository(self, name: str) -> Repository:
        """The repository of a name such as ``library/alpine``. Raises ``ReferenceFormatError``."""
        return Repository(RepositoryCalls(self.calls, name))


class Repository:
    """A repository of a registry. References are tags or digests."""

    def __init__(self, calls: RepositoryCalls) -> None:
        self.calls = calls

    @property
    def name(self) -> str:
        return self.calls.name

    @property
    def registry(self) -> str:
        """``HOST[:PORT]``, as people write it."""
        return self.calls.calls.registry

    def __repr__(self) -> str:
        return f"Repository({self.registry}/{self.name})"

    def give_up(self) -> None:
        """See ``Registry.give_up``: what other threads receive from all repositories of this registry ends, too."""
        self.calls.calls.connections.give_up()

    def wait(self, attempt: int, error: RegistryError) -> None:
        """See ``calls.Calls.wait``."""
        self.calls.calls.wait(attempt, error)

    # ---- manifests -----------------------------------------------------------------------------------------

    def manifest(self, reference: str, *, accept: Iterable[str] = manifests.ACCEPT) -> manifests.RawManifest:
        """See ``manifests.get_manifest``."""
        return manifests.get_manifest(self.calls, reference, accept)

    def head_manifest(self, reference: str, *, accept: Iterable[str] = manifests.ACCEPT) -> Descriptor | None:
        """See ``manifests.head_manifest``."""
        return manifests.head_manifest(self.calls, reference, accept)

    def put_manifest(self, data: bytes, media_type: str, reference: str = "") -> manifests.PushedManifest:
        """See ``manifests.put_manifest``."""
        return manifests.put_manifest(self.calls, data, media_type, reference)

    def delete_manifest(self, reference: str) -> None:
        """See ``manifests.delete_manifest``."""
        manifests.delete_manifest(self.calls, reference)

    # ---- blobs ---------------------------------------------------------------------------------------------

    def blob_size(self, digest: Digest) -> int | None:
        """See ``blobs.blob_size``."""
        return blobs.blob_size(self.calls, digest)

    def blob(
        self,
        digest: Digest,
        *,
        offset: int = 0,
        end: int | None = None,
        size: int | None = None,
        etag: str = "",
        address: str = "",
    ) -> blobs.BlobStream:
        """See ``blobs.open_blob``."""
        return blobs.open_blob(self.calls, digest, offset=offset, end=end, size=size, etag=etag, address=address)

    def read_blob(self, descriptor: Descriptor, limit: int = blobs.MAX_BYTES) -> bytes:
        """See ``blobs.read_blob``."""
        return blobs.read_blob(self.calls, descriptor, limit)

    def delete_blob(self, digest: Digest) -> None:
        """See ``blobs.delete_blob``."""
        blobs.delete_blob(self.calls, digest)

    # ---- uploads -------------------------------------------------------------------------------------------

    def push_blob(
        self, digest: Digest, size: int, source: uploads.Source, *, chunk: int = 0, mounts: Iterable[str] = ()
    ) -> uploads.How:
        """See ``uploads.push_blob``."""
        return uploads.push_blob(self.calls, digest, size, source, chunk=chunk, mounts=mounts)

    def push_bytes(self, data: bytes) -> Digest:
        """See ``uploads.push_bytes``."""
        return uploads.push_bytes(self.calls, data)

    def mount_blob(self, digest: Digest, source: str) -> uploads.Upload | None:
        """See ``uploads.mount_blob``."""
        return uploads.mount_blob(self.calls, digest, source)

    def start_upload(self) -> uploads.Upload:
        """See ``uploads.start_upload``."""
        return uploads.start_upload(self.calls)

    def resume_upload(self, url: str) -> uploads.Upload:
        """An upload that another process began; its ``offset`` is what the registry has. Raises ``RegistryError`` when
        it has forgotten it."""
        upload = uploads.Upload(self.calls, url)
        upload.refresh()
        return upload

    # ---- lists ---------------------------------------------------------------------------------------------

    def tags(self, *, page: int = PAGE, last: str = "") -> Iterator[str]:
        """Its tags, those after ``last``, as the registry orders them."""
        what = f"{self.registry}/{self.name}: tags"

        def get(url: str) -> Answer:
            return self.calls.call("GET", url, "tags", (200,), keep=listing.MAX_PAGE)

        for _, value in listing.pages(get, self.calls.url("tags/list" + _query(page, last)), what):
            yield from listing.strings(value, "tags", what)

    def referrers(self, digest: Digest, artifact_type: str = "") -> list[Descriptor]:
        """See ``referrers.list_referrers``."""
        return referrers.list_referrers(self.calls, digest, artifact_type)

    def tag_referrer(self, subject: Digest, referrer: Descriptor, data: bytes) -> None:
        """See ``referrers.tag_referrer``."""
        referrers.tag_referrer(self.calls, subject, referrer, data)


def first_that_answers(
    endpoints: Iterable[Endpoint], *, timeouts: Timeouts | None = None, budget: Budget | None = None
) -> Endpoint:
    """The first of several endpoints at which there is a registry: https before http, mirrors before their origin.

    Raises the ``RegistryError`` of the first when there is none at any, unless somebody else is there.
    """
    first: RegistryError | None = None
    somebody: RegistryError | None = None
    for endpoint in endpoints:
        with Registry(endpoint, timeouts=timeouts, budget=budget) as registry:
            try:
                if registry.answers():
                    return endpoint
                somebody = somebody or _no_registry(endpoint.host)
            except RegistryError as exc:
                first = first or exc
    raise somebody or first or RegistryError("no endpoint of a registry was given: name one")


def _no_registry(host: str) -> RegistryError:
    return RegistryError(f"{host}: somebody is there, but no registry: see how it is called")


def _query(page: int, last: str) -> str:
    from urllib.parse import urlencode

    return "?" + urlencode({"n": page, **({"last": last} if last else {})})
