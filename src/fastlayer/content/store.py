"""Content-addressed blobs in an OCI image layout (image-spec image-layout.md) that other tools read as it is.

::

    oci-layout            {"imageLayoutVersion":"1.0.0"}
    index.json            the images by name: what skopeo, umoci, podman and crane see
    blobs/ALGORITHM/HEX   blobs; complete and verified from the moment they have their name
    ingest/LEASE-XXXX     blobs on their way; LEASE tells who makes them

Any number of processes work in one store. A blob appears by a rename; two that bring the same blob do no harm. Who may
remove a blob is not decided here: the store has no memory of who uses what.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from fastlayer._values import NamedTuple
from fastlayer.content.files import (
    Durability,
    check_durability,
    explained,
    make_durable,
    new_file,
    share,
    sync_directory,
    write_all,
)
from fastlayer.content.ingest import Ingest, Keep, Stored, lease_of, new_hash, temporary_name
from fastlayer.errors import CorruptStoreError, NotFoundError, UsageError, show_path
from fastlayer.oci import jsontext
from fastlayer.oci.descriptor import Descriptor
from fastlayer.oci.digest import Digest, digest_of
from fastlayer.oci.reference import is_tag

if TYPE_CHECKING:
    from fastlayer.oci.image_index import ImageIndex

LAYOUT_VERSION = "1.0.0"
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
MAX_INDEX = 64 << 20  # bytes of index.json; what it may hold is limited by its values, too (oci/jsontext.py)
_PIECE = 1 << 20
_MAX_MANIFEST = 4 << 20  # bytes, as in oci/manifest.py


class IndexEntry(NamedTuple):
    """One line of ``index.json``: what a name (in its full form) stands for; an empty name is an image without one."""

    name: str
    descriptor: Descriptor


class ContentStore:
    """The blobs below ``path``, which is made when it is not there.

    ``durability``: what a finished blob has survived when ``commit`` returns. ``none``: a crash of the system may lose
    it; ``fsync``: it is on the disk; ``syncfs``: everything on its file system is.

    Raises ``StorageError``; ``CorruptStoreError`` when there is something else at ``path``.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability = "none", create: bool = True) -> None:
        self.path = Path(path)
        self.durability = check_durability(durability)
        self._ingest = self.path / "ingest"
        if create:
            self._create()
        check_layout(self.path)

    def _create(self) -> None:
        with explained("cannot make", self.path):
            (self.path / "blobs/sha256").mkdir(parents=True, exist_ok=True)
            self._ingest.mkdir(exist_ok=True)
            if not (self.path / "oci-layout").exists():
                self._replace("oci-layout", jsontext.write({"imageLayoutVersion": LAYOUT_VERSION}), "new")
            if not (self.path / "index.json").exists():
                with self.index_lock():
                    if not (self.path / "index.json").exists():  # someone else may have been faster, and named images
                        self._replace("index.json", index_of(()).to_bytes(), "new")

    # ---- reading ----

    def path_of(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises ``ValueError`` for what is no digest."""
        checked = Digest(digest)
        return self.path / "blobs" / checked.algorithm / checked.encoded

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""
        try:
            self.size(digest)
        except NotFoundError:
            return False
        return True

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises ``NotFoundError``."""
        with _found(digest, self.path):
            status = os.lstat(self.path_of(digest))
        if not stat.S_ISREG(status.st_mode):
            raise _no_file(self.path_of(digest))
        return status.st_size

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading, unbuffered; ``fileno`` works. Raises ``NotFoundError``."""
        return open_blob(self.path, digest)

    def read(self, digest: str, limit: int = _MAX_MANIFEST) -> bytes:
        """A small blob, verified. Raises ``NotFoundError``, and ``CorruptStoreError`` for more than ``limit`` bytes."""
        return read_blob(self.path, digest, limit)

    def check(self, digest: str) -> None:
        """Reads the whole blob. Raises ``CorruptStoreError`` when it does not hash to its name."""
        with self.open(digest) as file, explained("read", self.path_of(digest)):
            if not hashes_to(file, Digest(digest)):
                raise _damaged(self.path, digest)

    def digests(self) -> Iterator[Digest]:
        """All blobs, in no particular order; what has no digest for a name is passed over."""
        with explained("read", self.path):
            for algorithm in os.listdir(self.path / "blobs"):
                for name in os.listdir(self.path / "blobs" / algorithm):
                    try:
                        yield Digest(f"{algorithm}:{name}")
                    except ValueError:
                        continue

    # ---- writing ----

    def ingest(
        self,
        lease: str,
        *,
        digest: str | None = None,
        size: int | None = None,
        trusted: bool = False,
        keep: Keep | None = None,
    ) -> Ingest:
        """A writer for one blob: ``with store.ingest(lease) as blob: blob.write(data); blob.commit()``.

        ``lease`` (letters and digits) says whose it is when the process is killed. ``digest``, ``size`` (bytes): what
        it must come to. ``trusted``: the caller computes the digest from the same bytes, so they are not hashed again;
        it is given here or to ``commit``. ``keep`` is told the digest just before the blob gets its name: from that
        moment on it can be collected, unless someone holds it.
        """
        wanted = Digest(digest) if digest is not None else None
        return Ingest(self.path, lease, wanted, size, trusted=trusted, durability=self.durability, keep=keep)

    def put(self, data: bytes, lease: str, *, digest: str | None = None) -> Stored:
        """A small blob at once."""
        with self.ingest(lease, digest=digest, size=len(data)) as blob:
            blob.write(data)
            return blob.commit()

    def adopt(
        self,
        source: str | os.PathLike[str] | int,
        lease: str,
        *,
        digest: str | None = None,
        trusted: bool = False,
        how: Literal["copy", "link", "move"] = "copy",
    ) -> Stored:
        """Takes a whole file (path or descriptor) as a blob, without copying its bytes where the file system can.

        ``copy``: the file stays what it is; its data is shared by reflink, else copied. ``link``: where there is no
        reflink a path may get a second name, and then nobody may write into the file any more. ``move``: the path is
        gone afterwards. What is in the store is hashed unless ``trusted``.
        """
        with self.ingest(lease, digest=digest, trusted=trusted) as blob:
            if isinstance(source, int):
                self._take(blob, source, source, "copy")
                return blob.commit()
            with explained("cannot open", source), open(source, "rb", buffering=0) as file:
                self._take(blob, source, file.fileno(), how)
            stored = blob.commit()
            if how == "move":
                with explained("cannot remove", source):
                    os.unlink(source)
            return stored

    @staticmethod
    def _take(blob: Ingest, source: str | os.PathLike[str] | int, fd: int, how: str) -> None:
        size = _regular(fd, source)
        shared = how == "move" and blob.link(source, fd)
        shared = shared or share(fd, blob.fileno()) or (how == "link" and blob.link(source, fd))
        blob.take(fd, size, shared=shared)

    def remove(self, digest: str) -> bool:
        """Removes a blob; whether it was there."""
        with explained("cannot remove", self.path_of(digest)):
            try:
                os.unlink(self.path_of(digest))
            except FileNotFoundError:
                return False
        return True

    def leftovers(self) -> list[tuple[str, Path]]:
        """Files of unfinished blobs and the leases they belong to."""
        with explained("read", self._ingest):
            return [(lease_of(name), self._ingest / name) for name in sorted(os.listdir(self._ingest))]

    def sweep(self, alive: Callable[[str], bool]) -> int:
        """Removes the unfinished blobs of leases that are not alive; returns how many."""
        count = 0
        for lease, path in self.leftovers():
            if not alive(lease):
                with explained("cannot remove", path):
                    path.unlink(missing_ok=True)
                count += 1
        return count

    # ---- names ----

    @contextmanager
    def index_lock(self) -> Iterator[None]:
        """Held by whoever reads the names and then writes them into ``index.json``, so that the latest state wins."""
        with explained("cannot lock", self.path):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with explained("cannot lock", self.path):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def read_index(self) -> ImageIndex:
        """``index.json``. Raises ``ManifestError``, ``CorruptStoreError``."""
        return read_index(self.path)

    def write_index(self, entries: Iterable[IndexEntry], lease: str) -> None:
        """Replaces ``index.json``, atomically. The same entries give the same bytes, in whatever order they come."""
        self._replace("index.json", index_of(entries).to_bytes(), lease)

    def _replace(self, name: str, data: bytes, lease: str) -> None:
        temporary = self._ingest / temporary_name(lease)
        with explained("cannot write", self.path / name):
            fd = new_file(temporary)
            try:
                write_all(fd, data)
                make_durable(fd, self.durability)
                os.rename(temporary, self.path / name)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                os.close(fd)
            sync_directory(self.path, self.durability)


# ---- layouts that may be anybody's -------------------------------------------------------------------


def index_of(entries: Iterable[IndexEntry]) -> ImageIndex:
    """The index of a layout: each entry with its name, as skopeo and umoci (``ref.name``) and containerd want it.

    A mere tag is no name for containerd, which would read it as one.
    """
    unique = {(entry.name, entry.descriptor.digest): entry.descriptor for entry in entries}
    named = []
    for (name, _), descriptor in sorted(unique.items(), key=lambda item: item[0]):
        kept = {key: item for key, item in descriptor.annotations.items() if key not in (CONTAINERD_NAME, REF_NAME)}
        names = {REF_NAME: name} if name else {}
        if not is_tag(name):  # which alone names no image
            names |= {CONTAINERD_NAME: name} if name else {}
        named.append(descriptor._replace(annotations=dict(sorted({**kept, **names}.items()))))
    from fastlayer.oci.image_index import new_index

    return new_index(named)


def check_layout(path: Path) -> None:
    """Raises ``NotFoundError`` or ``CorruptStoreError`` unless ``path`` is an image layout of the known version."""
    name = show_path(os.fspath(path))
    try:
        data = _read_bounded(path / "oci-layout", 4096)
    except FileNotFoundError:
        raise NotFoundError(f"{name}: is no OCI image layout: it has no file oci-layout") from None
    value = jsontext.parse_object(data, f"{name}/oci-layout", 4096)
    if value.get("imageLayoutVersion") != LAYOUT_VERSION:
        raise CorruptStoreError(f"{name}: an image layout of another version than {LAYOUT_VERSION}")


def read_index(path: Path) -> ImageIndex:
    """``index.json`` of a layout."""
    what = f"{show_path(os.fspath(path))}/index.json"
    try:
        data = _read_bounded(path / "index.json", MAX_INDEX)
    except FileNotFoundError:
        raise CorruptStoreError(f"{what}: is missing: the layout is incomplete") from None
    from fastlayer.oci.image_index import parse_index

    return parse_index(data, what=what, limit=MAX_INDEX)


def open_blob(path: Path, digest: str) -> BinaryIO:
    """A blob of a layout, which must be a plain file."""
    checked = Digest(digest)
    place = path / "blobs" / checked.algorithm / checked.encoded
    with _found(digest, path):
        try:
            return open_plain(place, os.O_NOFOLLOW)
        except OSError as exc:
            if exc.errno != errno.ELOOP or not place.is_symlink():
                raise
    raise CorruptStoreError(
        f"{show_path(os.fspath(place))}: is a symbolic link, which no blob may be: copy the layout with `cp -rL` and "
        "load the copy"
    )


def open_plain(path: Path, flags: int = 0) -> BinaryIO:
    """A plain file for reading, unbuffered; anything else is refused before it can block or do something."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _no_file(path)
    return cast(BinaryIO, open(fd, "rb", buffering=0))


def _no_file(path: Path) -> CorruptStoreError:
    return CorruptStoreError(f"{show_path(os.fspath(path))}: is no plain file: remove it and load the image again")


def hashes_to(file: BinaryIO, digest: Digest) -> bool:
    """Whether the file, which is read to its end, is the blob of that name. Raises ``OSError``."""
    hasher = new_hash(digest.algorithm)
    buffer = memoryview(bytearray(_PIECE))
    while count := cast(Any, file).readinto(buffer):
        hasher.update(buffer[:count])
    return bool(hasher.hexdigest() == digest.encoded)


def read_blob(path: Path, digest: str, limit: int) -> bytes:
    """A small blob of a layout, verified."""
    with open_blob(path, digest) as file, explained("read", path):
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise CorruptStoreError(f"{digest}: has {size} bytes where at most {limit} are expected")
        data = b"".join(iter(lambda: file.read(_PIECE), b""))
    if not _is_named(data, Digest(digest)):
        raise _damaged(path, digest)
    return data


def _is_named(data: bytes, digest: Digest) -> bool:
    if digest.algorithm == "sha256":
        return digest_of(data) == digest
    hasher = new_hash(digest.algorithm)
    hasher.update(data)
    return bool(hasher.hexdigest() == digest.encoded)


def _read_bounded(path: Path, limit: int) -> bytes:
    with explained("read", path, but=FileNotFoundError), open_plain(path) as file:
        data = b""
        while len(data) <= limit and (piece := file.read(limit + 1 - len(data))):
            data += piece
    if len(data) > limit:
        raise CorruptStoreError(f"{show_path(os.fspath(path))}: has more than {limit} bytes")
    return data


def _damaged(path: Path, digest: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{digest}: the blob in {show_path(os.fspath(path))} is damaged: remove it and load the image again"
    )


@contextmanager
def _found(digest: str, path: Path) -> Iterator[None]:
    try:
        with explained("read", path, but=FileNotFoundError):
            yield
    except FileNotFoundError:
        raise NotFoundError(f"{digest}: no such blob in {show_path(os.fspath(path))}") from None


def _regular(fd: int, source: Any) -> int:
    """Bytes of the file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        name = f"descriptor {source}" if isinstance(source, int) else show_path(os.fspath(source))
        raise UsageError(f"{name}: is no plain file")
    return status.st_size
