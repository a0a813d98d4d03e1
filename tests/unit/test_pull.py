"""Pulling images: what is fetched, resumed, verified and refused, with a registry that does what it is told."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fastlayer.container import writable
from fastlayer.container.commit import commit
from fastlayer.container.mounting import temporary
from fastlayer.errors import (
    DigestMismatchError,
    LayerError,
    NotFoundError,
    RegistryDeniedError,
    RegistryError,
    UsageError,
)
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.image.save import save
from fastlayer.oci import mediatypes
from fastlayer.oci.platform import parse_platform
from fastlayer.registry.credential import Credential
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.store import downloads as leftovers
from fastlayer.store.store import Store, open_store
from fastlayer.transfer.events import BlobProgress
from fastlayer.transfer.pull import PullOptions, pull, tagged
from fastlayer.transfer.pulling import downloads, kept
from fastlayer.transfer.pulling.spans import Spans
from fastlayer.transfer.push import PushOptions, push
from tests.conftest import needs_root
from tests.registry_server import RegistryServer, digest
from tests.stores import vfs_store
from tests.transfers import complete

pytestmark = needs_root

RANDOM = Random(5)
SEGMENT = 64 << 10  # so that small layers come in many ranges


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_700_000_000
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


LOW = tar({f"low{number}": RANDOM.randbytes(40_000) for number in range(20)})
HIGH = tar({"high": RANDOM.randbytes(100_000), "low3": b"changed"})


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        yield found


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SEGMENT", SEGMENT)
    monkeypatch.setattr(downloads, "_NOTED", 16 << 10)
    monkeypatch.setattr(downloads, "_READ", 8 << 10)


def publish(
    server: RegistryServer, tag: str = "1", layers: tuple[bytes, ...] = (LOW, HIGH), architecture: str = "amd64"
) -> list[bytes]:
    """An image ``app:TAG``; its blobs, lowest layer first."""
    blobs = [gzip.compress(layer, 1, mtime=0) for layer in layers]
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    data = json.dumps(config).encode()
    described = [
        {"mediaType": mediatypes.LAYER_GZIP, "digest": server.add_blob("app", blob), "size": len(blob)}
        for blob in blobs
    ]
    part = {"mediaType": mediatypes.CONFIG, "digest": server.add_blob("app", data), "size": len(data)}
    manifest = {"schemaVersion": 2, "mediaType": mediatypes.MANIFEST, "config": part, "layers": described}
    server.add_manifest("app", tag, manifest)
    return blobs


def options(**more: Any) -> PullOptions:
    policy = more.pop("tries", Policy(tries=3, first=0.001, longest=0.002))
    return PullOptions(**{"wishes": Wishes(verify=False, policy=policy), "jobs": 2, **more})


def named(server: RegistryServer, tag: str = "1") -> str:
    return f"{server.host}/app:{tag}"


def files_of(store: Store, name: str) -> dict[str, bytes]:
    with temporary(store, Images(store).find(name)) as mounted:
        place = Path(mounted)
        return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def check(store: Store, server: RegistryServer, name: str | None = None) -> None:
    """All of the image is there, and nothing is left over."""
    found = files_of(store, name or named(server))
    assert found["low3"] == b"changed" and len(found) == 21 and len(found["low7"]) == 40_000
    assert leftovers.usage(store.root) == (0, 0)


def moved(server: RegistryServer, blobs: list[bytes]) -> int:
    """Bytes of the layers that went over the wire since the last call."""
    count = sum(server.sent.pop(str(digest(blob)), 0) for blob in blobs)
    server.sent.clear()
    return count


# ---- what comes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_pull(store: Store, server: RegistryServer, ranges: bool) -> None:
    blobs = publish(server)
    server.ranges = ranges
    seen: list[BlobProgress] = []
    found = pull(store, named(server), options(), observe=seen.append)
    check(store, server)
    size = sum(map(len, blobs))
    assert found.changed and found.name == named(server) and (not ranges or found.received == size)
    assert {event.digest for event in seen if event.doing == "done"} == {digest(blob) for blob in blobs}
    assert pull(store, named(server), options()) == found._replace(unpacked=(), received=0, changed=False)


def test_it_is_asked_by_head_whether_there_is_another(store: Store, server: RegistryServer) -> None:
    publish(server)
    pull(store, named(server), options())
    server.seen.clear()
    pull(store, named(server), options())
    assert [call for call in server.calls() if "/manifests/" in call] == ["HEAD /v2/app/manifests/1"]


def test_layers_that_are_here_are_not_fetched(store: Store, server: RegistryServer) -> None:
    blobs = publish(server)
    pull(store, named(server), options())
    moved(server, blobs)
    newer = publish(server, "2", (LOW, HIGH, tar({"more": b"more"})))
    assert pull(store, named(server, "2"), options()).received == len(newer[2])


@pytest.mark.parametrize("policy,asks", [("missing", 0), ("never", 0), ("newer", 1), ("always", 1)])
def test_policies(store: Store, server: RegistryServer, policy: Any, asks: int) -> None:
    publish(server)
    pull(store, named(server), options())
    server.seen.clear()
    found = pull(store, named(server), options(policy=policy))
    assert bool(server.calls()) == bool(asks) and not found.changed
    server.fail("manifests", status=500)
    if policy == "always":
        with pytest.raises(RegistryError, match="500"):
            pull(store, named(server), options(policy=policy))
    else:
        assert pull(store, named(server), options(policy=policy)).name == named(server)
        assert Images(store).find(named(server)).names == (named(server),)
        with pytest.raises((NotFoundError, RegistryError)):
            pull(store, named(server, "nothing"), options(policy=policy))


def test_by_digest(store: Store, server: RegistryServer) -> None:
    publish(server)
    target = pull(store, named(server), options()).target.digest
    found = pull(store, f"docker://{server.host}/app@{target}", options())
    assert found.name == f"{server.host}/app@{target}" and found.target.digest == target
    assert pull(store, found.name, options(policy="never")).name == found.name
    assert Images(store).find(found.name).manifest == target


def test_all_tags(store: Store, server: RegistryServer) -> None:
    for tag in ("1", "2", "b"):
        publish(server, tag)
    wanted = [named(server, tag) for tag in ("1", "2", "b")]
    assert [name for name in tagged(f"{server.host}/app", options()) if "sha256" not in name] == wanted
    with pytest.raises(UsageError, match="without one"):
        tagged(named(server), options())


def index(server: RegistryServer) -> dict[str, Any]:
    """``app:all`` for two architectures; manifest -> architecture."""
    entries = []
    for architecture in ("amd64", "arm64"):
        publish(server, architecture, (LOW, HIGH, tar({"is": architecture.encode()})), architecture)
        data = server.manifests["app", architecture][0]
        platform = {"os": "linux", "architecture": architecture}
        entries.append(
            {"mediaType": mediatypes.MANIFEST, "digest": digest(data), "size": len(data), "platform": platform}
        )
    server.add_manifest(
        "app", "all", {"schemaVersion": 2, "mediaType": mediatypes.INDEX, "manifests": entries}, mediatypes.INDEX
    )
    return {str(entry["digest"]): entry["platform"]["architecture"] for entry in entries}


def test_of_an_index_one_image_is_fetched(store: Store, server: RegistryServer) -> None:
    manifests = index(server)
    found = pull(store, named(server, "all"), options(platform=parse_platform("linux/arm64")))
    assert [manifests[digest] for digest in found.unpacked] == ["arm64"]
    assert found.target.media_type == mediatypes.INDEX
    fetched = {call.rpartition("/")[2] for call in server.calls("GET") if "sha256:" in call}
    assert not {name for name, kind in manifests.items() if kind == "amd64"} & fetched
    with pytest.raises(NotFoundError, match="not for linux/riscv64: it is there for linux/amd64, linux/arm64"):
        pull(store, named(server, "all"), options(platform=parse_platform("linux/riscv64")))


def test_of_an_index_all_images_are_fetched(store: Store, server: RegistryServer) -> None:
    manifests = index(server)
    pull(store, named(server, "all"), options(all_platforms=True))
    images = Images(store)
    for kind in manifests.values():
        platform = parse_platform(f"linux/{kind}")
        assert manifests[images.find(named(server, "all"), platform).manifest] == kind
    server.seen.clear()
    assert not pull(store, named(server, "all"), options(all_platforms=True)).changed
    assert not server.calls("GET .*blobs")


def test_blobs_only(store: Store, server: RegistryServer) -> None:
    publish(server)
    assert pull(store, named(server), options(unpack=False)).unpacked == ()
    assert not store.snapshotter.exists(str(Images(store).find(named(server)).chain_id))
    assert not pull(store, named(server), options()).changed
    check(store, server)


def test_an_image_with_one_layer_twice(store: Store, server: RegistryServer) -> None:
    blobs = publish(server, layers=(LOW, HIGH, LOW))
    pull(store, named(server), options())
    assert files_of(store, named(server))["low3"] != b"changed"
    assert moved(server, blobs[:2]) == len(blobs[0]) + len(blobs[1])


def test_no_layer_and_no_bytes(store: Store, server: RegistryServer) -> None:
    publish(server, layers=())
    assert pull(store, named(server), options()).received == 0
    assert Images(store).find(named(server)).layers == ()


# ---- what breaks off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 511, 8 << 10, 20_000, SEGMENT - 1, 100_000, 500_000])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_reset_goes_on_where_it_was(
    store: Store, server: RegistryServer, cut: int, ranges: bool
) -> None:
    blobs = publish(server)
    server.ranges = ranges
    server.fail(f"GET .*{digest(blobs[0])}", 2, cut=cut, reset=True)
    server.fail(f"GET .*{digest(blobs[1])}", 1, cut=cut)
    pull(store, named(server), options())
    check(store, server)


def test_what_has_come_stays_for_the_next_pull(store: Store, server: RegistryServer) -> None:
    blobs = publish(server)
    server.fail(f"GET .*{digest(blobs[0])}", cut=SEGMENT // 2, reset=True)
    with pytest.raises(RegistryError):
        pull(store, named(server), options(connections=1, tries=Policy(tries=1)))
    with pytest.raises(NotFoundError):
        Images(store).find(named(server))
    first = moved(server, blobs[:1])
    assert leftovers.usage(store.root)[0] >= 1 and first >= SEGMENT // 2
    server.faults.clear()
    found = pull(store, named(server), options())
    assert moved(server, blobs[:1]) <= len(blobs[0]) - SEGMENT // 2 + (16 << 10)
    assert found.received < sum(map(len, blobs))
    check(store, server)


SCRIPT = """
import os, sys
from fastlayer.transfer import pull
from fastlayer.transfer.pulling import downloads
from tests.stores import vfs_store
from tests.transfers import complete
from tests.unit.test_pull import options, SEGMENT
from pathlib import Path
downloads.SEGMENT, downloads._NOTED, downloads._READ = SEGMENT, 16 << 10, 8 << 10
root, name, dies_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def observe(blob):
    seen[blob.digest] = blob.moved
    if sum(seen.values()) >= dies_at:
        os.kill(os.getpid(), 9)
seen = {}
with vfs_store(root) as store:
    pull.pull(store, name, options(), observe=observe)
"""


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
def test_killed(tmp_path: Path, server: RegistryServer, part: float) -> None:
    """The next process moves what is missing, and the little that had not been noted."""
    blobs = publish(server)
    size = sum(map(len, blobs))
    root = tmp_path / "store"
    line = [sys.executable, "-c", SCRIPT, root, named(server), str(int(size * part))]
    assert subprocess.run(line, check=False).returncode == -9
    moved(server, blobs)
    with vfs_store(root) as store:
        with pytest.raises(NotFoundError):
            Images(store).find(named(server))
        found = pull(store, named(server), options())
        check(store, server)
        assert found.received <= size * (1 - part) + 2 * 2 * (16 << 10)


def test_killed_with_nothing_left_of_its_snapshots(tmp_path: Path, server: RegistryServer) -> None:
    """As on a full disk: the database knows of a snapshot whose directory was not made."""
    blobs = publish(server)
    root = tmp_path / "store"
    line = [sys.executable, "-c", SCRIPT, root, named(server), str(sum(map(len, blobs)) // 2)]
    assert subprocess.run(line, check=False).returncode == -9
    left = [path for path in (root / "vfs").iterdir() if path.is_dir()]
    assert left
    for path in left:
        shutil.rmtree(path)
    with vfs_store(root) as store:
        pull(store, named(server), options())
        check(store, server)


def test_two_at_once_fetch_it_once(tmp_path: Path, server: RegistryServer) -> None:
    blobs = publish(server)
    root = tmp_path / "store"
    line = [sys.executable, "-c", SCRIPT, root, named(server), str(1 << 60)]
    with vfs_store(root):
        pass
    running = [subprocess.Popen(line) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert moved(server, blobs) == sum(map(len, blobs))
    with vfs_store(root) as store:
        check(store, server)


def test_two_that_wait_for_each_other(store: Store, server: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a layer that the other one wants first."""
    publish(server, "1", (LOW, HIGH))
    publish(server, "2", (HIGH, LOW))
    met = threading.Barrier(2)
    begin = downloads.Downloads.begin

    def begun(self: Any, blob: Any, file: Any) -> Any:
        found = begin(self, blob, file)
        if not hasattr(self, "met"):
            self.met = True
            met.wait(20)
        return found

    monkeypatch.setattr(downloads.Downloads, "begin", begun)
    errors: list[BaseException] = []

    def one(tag: str) -> None:
        try:
            with open_store(store.root, driver="vfs") as own:
                pull(own, named(server, tag), options(jobs=1))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=one, args=(tag,), daemon=True) for tag in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and not any(thread.is_alive() for thread in threads)
    check(store, server)


# ---- what is something else ------------------------------------------------------------------------------------------


def test_other_bytes(store: Store, server: RegistryServer) -> None:
    blobs = publish(server)
    server.blobs["app", digest(blobs[0])] = gzip.compress(LOW, 9, mtime=0).ljust(len(blobs[0]), b"\0")[: len(blobs[0])]
    with pytest.raises((DigestMismatchError, LayerError)):
        pull(store, named(server), options())
    with pytest.raises(NotFoundError):
        Images(store).find(named(server))
    assert not store.content.has(digest(blobs[0]))
    server.blobs["app", digest(blobs[0])] = blobs[0]
    pull(store, named(server), options())
    check(store, server)


def test_leftovers_that_are_something_else_are_fetched_anew(store: Store, server: RegistryServer) -> None:
    blobs = publish(server)
    with kept.KeptBlob(store, digest(blobs[0]), len(blobs[0])) as file:
        assert file.lock(lambda: False)
        file.write(os.urandom(100_000), 50_000)
        file.note(50_000, 150_000)
    found = pull(store, named(server), options())
    check(store, server)
    assert found.changed


@pytest.mark.parametrize("size", [-1, 1])
def test_another_size(store: Store, server: RegistryServer, size: int) -> None:
    blobs = publish(server)
    server.blobs["app", digest(blobs[0])] = (blobs[0] + b"x")[: len(blobs[0]) + size]
    with pytest.raises((DigestMismatchError, RegistryError), match="bytes"):
        pull(store, named(server), options())
    assert not store.content.has(digest(blobs[0]))


@pytest.mark.parametrize(
    "fault,error,words",
    [
        ({"status": 401}, RegistryDeniedError, "401|login"),
        ({"status": 403}, RegistryDeniedError, "403|not allowed|denied"),
        ({"status": 404}, RegistryError, "not|no "),
        ({"status": 429}, RegistryError, "429|too many"),
        ({"status": 503}, RegistryError, "503"),
        ({"status": 200, "body": b"<html>hello</html>", "headers": {"Content-Type": "text/html"}}, RegistryError, ""),
    ],
)
@pytest.mark.parametrize("what", ["manifests", "blobs"])
def test_refusals(
    store: Store, server: RegistryServer, fault: dict[str, Any], error: type[Exception], words: str, what: str
) -> None:
    publish(server)
    server.fail(f"/{what}/", **fault)
    with pytest.raises((error, DigestMismatchError), match=f"(?i){words}") as caught:
        pull(store, named(server), options())
    assert "\n" not in str(caught.value)
    server.faults.clear()
    pull(store, named(server), options())
    check(store, server)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_storms_pass(store: Store, server: RegistryServer, status: int) -> None:
    publish(server)
    server.fail("GET /v2/app/", 2, status=status)
    pull(store, named(server), options())
    check(store, server)


def test_a_mirror_that_fails_in_the_middle(
    store: Store, server: RegistryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the mirror gave stays; the registry itself gives the rest."""
    blobs = publish(server)
    with RegistryServer() as mirror:
        publish(mirror)
        mirror.fail(f"GET .*{digest(blobs[0])}", cut=SEGMENT // 2, reset=True)
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
        )
        wishes = options().wishes._replace(
            environ={"CONTAINERS_REGISTRIES_CONF": str(conf)}, verify=None, policy=Policy(tries=1)
        )
        found = pull(store, named(server), options(wishes=wishes))
    assert found.source == server.host and any(mirror.host in line for line in found.warnings)
    assert moved(server, blobs[:1]) < len(blobs[0])
    check(store, server)


def test_a_given_login_is_for_the_registry_itself(store: Store, server: RegistryServer, tmp_path: Path) -> None:
    """A mirror would let us in with it, and does not get it; nor does a registry that it was not given for."""
    publish(server)
    server.auth = "basic"
    with RegistryServer() as mirror:
        publish(mirror)
        mirror.auth = "basic"
        conf = tmp_path / "registries.conf"
        conf.write_text(
            f'[[registry]]\nprefix = "named.io"\nlocation = "{server.host}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}"\ninsecure = true\n'
        )
        wishes = options().wishes._replace(
            environ={"CONTAINERS_REGISTRIES_CONF": str(conf), "HOME": str(tmp_path)},
            verify=None,
            credential=Credential("jane", "s3cret-pa55"),
        )
        found = pull(store, "named.io/app:1", options(wishes=wishes._replace(credential_for="named.io")))
        assert found.source == server.host and any(mirror.host in line for line in found.warnings)
        with pytest.raises(RegistryDeniedError):
            pull(store, "named.io/app:1", options(wishes=wishes._replace(credential_for="other.io")))


def test_foreign_layers_come_from_where_they_say(store: Store, server: RegistryServer, tmp_path: Path) -> None:
    blobs = publish(server)
    data = json.loads(server.manifests["app", "1"][0])
    layer = data["layers"][0]
    layer["mediaType"] = mediatypes.LAYER_GZIP.replace("layer.v1", "layer.nondistributable.v1")
    layer["urls"] = [f"{server.url}/v2/else/blobs/{layer['digest']}"]
    server.add_manifest("app", "1", data)
    server.blobs["else", layer["digest"]] = server.blobs.pop(("app", layer["digest"]))
    pull(store, named(server), options())
    check(store, server)
    assert moved(server, blobs[:1]) == len(blobs[0])
    saved = tmp_path / "saved.tar"
    save(store, [named(server)], saved)  # the archive has it, too
    with vfs_store(tmp_path / "second") as second:
        load(second, saved)
        check(second, server)
    layer = writable.create(store, Images(store).find(named(server)), "work")
    commit(store, layer, "made:1")  # of a new image it is a layer like any other
    push(store, "made:1", f"docker://{server.host}/made:1", PushOptions(wishes=options().wishes))
    assert [one["mediaType"] for one in complete(server, "made", "1")["layers"]] == [mediatypes.LAYER_GZIP] * 3


@pytest.mark.parametrize("text", ["oci:dir", "oci-archive:x.tar", "docker-archive:x.tar", "dir:x"])
def test_what_is_no_registry(store: Store, text: str) -> None:
    with pytest.raises(UsageError, match=f"with `fastlayer copy {text} NAME`"):
        pull(store, text, options())


# ---- files of blobs on their way -------------------------------------------------------------------------------------


def locked(store: Store, size: int = 100) -> kept.KeptBlob:
    found = kept.KeptBlob(store, digest(b""), size)
    assert found.lock(lambda: False)
    return found


def test_what_was_noted_is_there_next_time(store: Store) -> None:
    with locked(store) as file:
        file.write(b"x" * 60, 10)
        file.note(10, 70)
        identity = file.identity
    with locked(store) as file:
        assert list(file.spans) == [(10, 70)] and file.identity == identity


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"nonsense\n",
        b"{}\n",
        b'{"size": 99, "identity": "a"}\n0 10\n',
        b'{"size": 100, "identity": "a"}\n0 200\n',
        b'{"size": 100, "identity": "a"}\n-5 10\n',
        b'{"size": 100, "identity": "a"}\n5 5\n',
        b'{"size": 100, "identity": "a"}\n0 71\n',  # more than the file has
        b'{"size": 100, "identity": "a"}\n0 1 2\n',
        b"[" * 100_000,
    ],
)
def test_a_log_that_cannot_be_believed(store: Store, log: bytes) -> None:
    with locked(store) as file:
        file.write(b"x" * 70, 0)
    Path(f"{file.path}.log").write_bytes(log)
    with locked(store) as file:
        assert list(file.spans) == [] and file.path.stat().st_size == 0


def test_a_line_that_was_cut_short(store: Store) -> None:
    with locked(store) as file:
        file.write(b"x" * 70, 0)
        file.note(0, 5)
        with open(f"{file.path}.log", "ab") as log:
            log.write(b"5 7")
    with locked(store) as file:
        assert list(file.spans) == [(0, 5)]


def test_somebody_has_it(store: Store) -> None:
    done: list[int] = []
    with locked(store):
        other = kept.KeptBlob(store, digest(b""), 100)
        assert not other.lock(lambda: False)
        assert not other.lock(lambda: len(done) > 2, lambda: done.append(1))
    assert len(done) == 3


def test_a_week(store: Store) -> None:
    with locked(store) as file:
        file.write(b"x", 0)
        os.utime(file.path, (0, 0))
        assert leftovers.sweep(store.root) == (0, 0)  # it is being fetched
    os.utime(file.path)
    assert leftovers.sweep(store.root) == (0, 0)
    assert leftovers.usage(store.root)[0] == 1
    os.utime(file.path, (0, 0))
    assert leftovers.sweep(store.root)[0] == 1
    assert os.listdir(leftovers.downloads_of(store.root)) == []


def test_spans_are_sets(store: Store) -> None:
    random = Random(7)
    for _ in range(300):
        spans, numbers = Spans(), set[int]()
        for _ in range(random.randrange(12)):
            start = random.randrange(40)
            end = start + random.randrange(10)
            spans.add(start, end)
            numbers |= set(range(start, end))
        found = [number for start, end in spans for number in range(start, end)]
        assert found == sorted(numbers) and spans.total == len(numbers)
        ends = list(spans)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))
        for at in range(0, 50, 7):
            front = next(number for number in range(at, 60) if number not in numbers)
            assert spans.front(at) == front
            gap = spans.gap(at, 50)
            missing = [number for number in range(at, 50) if number not in numbers]
            assert (gap is None) == (not missing)
            if gap is not None:
                assert gap[0] == missing[0] and not set(range(*gap)) & numbers
                assert gap[1] == 50 or gap[1] in numbers
