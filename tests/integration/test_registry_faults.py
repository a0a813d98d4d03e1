"""Pulls and pushes on a bad way to docker-registry: cut at every byte, spoiled, refused, stalled, killed, without room.

Each fault is one line; nothing of it can be seen afterwards; the next try goes on with what has come, which is counted
on the wire.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastlayer.cli.main import run as command
from fastlayer.errors import FastlayerError, RegistryError
from fastlayer.image.images import Images
from fastlayer.image.importing import import_image
from fastlayer.image.load import load
from fastlayer.maintenance.check import check
from fastlayer.registry.answers import Timeouts
from fastlayer.registry.client import Registry
from fastlayer.registry.http import Endpoint
from fastlayer.registry.opening import Wishes
from fastlayer.registry.pauses import Policy
from fastlayer.store.store import Store
from fastlayer.transfer.pull import PullOptions, pull
from fastlayer.transfer.push import PushOptions, push
from tests.certificates import Authority
from tests.conftest import require, temporary_directory
from tests.filesystems import need_root
from tests.integration.dockerregistry import DockerRegistry
from tests.proxy import Change, How, HttpFaults, Proxy
from tests.stores import Layout, content, tree, vfs_store

LARGE, SMALL = 2_000_000, 60_000  # bytes of the layers, which cannot be compressed
POINTS = 12  # bytes at which the exchange is cut
SLACK = 700_000  # bytes that were under way when a connection ended, or come again
FILES = {"large": random.Random(1).randbytes(LARGE), "small": random.Random(2).randbytes(SMALL)}


class Site(NamedTuple):
    """A registry with ``app:1`` of two layers, and a layout with the same image."""

    registry: DockerRegistry
    layout: Path
    manifest: dict[str, Any]
    digest: str

    def there(self) -> Registry:
        """The registry without anything in between."""
        return Registry(Endpoint(self.registry.url))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require("docker-registry", "skopeo")
    with temporary_directory() as place:
        layout = Layout(place / "layout")
        made = layout.image("app:1", [{name: data} for name, data in FILES.items()])
        with DockerRegistry(place) as registry:
            words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{place / 'layout'}:app:1"]
            subprocess.run([*words, f"docker://{registry.host}/app:1"], check=True)
            yield Site(registry, place / "layout", json.loads(made.raw), made.digest)


@pytest.fixture
def faults(site: Site) -> Iterator[HttpFaults]:
    with HttpFaults(site.registry.port) as found:
        yield found


@pytest.fixture
def proxy(faults: HttpFaults) -> Iterator[Proxy]:
    """Before the faults."""
    with Proxy(faults.port) as found:
        yield found


@pytest.fixture
def wishes(tmp_path: Path) -> Wishes:
    """One try, on a machine where nothing is set up."""
    return Wishes(environ={"HOME": str(tmp_path)}, etc=tmp_path, policy=Policy(tries=1))


PATIENT = Policy(tries=6, first=0.001, longest=0.002)


def one_line(work: Callable[[], object]) -> str:
    """Empty when nothing failed."""
    try:
        work()
    except FastlayerError as exc:
        assert "\n" not in str(exc) and str(exc)
        return str(exc)
    return ""


def nothing_seen(store: Store) -> None:
    assert Images(store).all() == [] and json.loads((store.content.path / "index.json").read_bytes())["manifests"] == []
    nothing_wrong(store)


def whole(store: Store, name: str, site: Site) -> None:
    assert Images(store).find(name).manifest == site.digest
    assert content(store, name) == FILES
    assert not list((store.root / "downloads").glob("*"))
    nothing_wrong(store)


def nothing_wrong(store: Store) -> None:
    """Notes are of what the next collection clears away after the killed."""
    found = check(store).findings
    assert all(finding.note for finding in found), found


def points(total: int) -> list[int]:
    """From the first byte to the last."""
    return [1 + (total - 2) * number // (POINTS - 1) for number in range(POINTS)]


# ---- every byte ----------------------------------------------------------------------------------------


HOWS: tuple[How, How] = ("reset", "close")


def test_a_pull_that_is_cut_anywhere_goes_on(site: Site, proxy: Proxy, wishes: Wishes, tmp_path: Path) -> None:
    """With one try it fails in one line, or did not need the byte; the next has what came before."""
    name = f"{proxy.host}/app:1"
    with vfs_store(tmp_path / "clean") as store, proxy.counted() as moved:
        pull(store, name, PullOptions(wishes=wishes))
        total = sum(moved())
        whole(store, name, site)
    failed = 0
    for number, at in enumerate(points(total)):
        with vfs_store(tmp_path / f"store{number}") as store:
            proxy.cut(at, "any", HOWS[number % 2])
            line = one_line(lambda store=store: pull(store, name, PullOptions(wishes=wishes)))
            proxy.clear()
            if line:
                failed += 1
                nothing_seen(store)
            with proxy.counted() as moved:
                pull(store, name, PullOptions(wishes=wishes))
                assert not line or sum(moved()) <= total - at + SLACK, (at, line)
            whole(store, name, site)
    assert failed >= POINTS // 3, "the cuts hit nothing"


def test_a_patient_pull_needs_no_second(site: Site, proxy: Proxy, wishes: Wishes, tmp_path: Path) -> None:
    """Its connections end again and again, and it goes on from where it was."""
    name = f"{proxy.host}/app:1"
    proxy.cut(300_000, "down", "reset", times=6)
    with vfs_store(tmp_path / "store") as store, proxy.counted() as moved:
        pull(store, name, PullOptions(wishes=wishes._replace(policy=PATIENT)))
        assert proxy.broken == 6 and sum(moved()) <= LARGE + SMALL + 6 * SLACK
        whole(store, name, site)


def test_a_push_that_is_cut_anywhere_is_no_image(site: Site, proxy: Proxy, wishes: Wishes, tmp_path: Path) -> None:
    options = PushOptions(wishes=wishes)
    with vfs_store(tmp_path / "store") as store, site.there() as there:
        load(store, site.layout)
        with proxy.counted() as moved:
            push(store, "app:1", f"{proxy.host}/clean:1", options)
            total = sum(moved())
        for number, at in enumerate(points(total)):
            path = f"cut{number}"
            forget(store)
            proxy.cut(at, "any", HOWS[number % 2])
            line = one_line(lambda path=path: push(store, "app:1", f"{proxy.host}/{path}:1", options))
            proxy.clear()
            repository = there.repository(path)
            if line:
                assert repository.head_manifest("1") is None or at > total - 2000, (at, line)
            push(store, "app:1", f"{proxy.host}/{path}:1", options)
            assert repository.manifest("1").digest == site.digest
            for layer in site.manifest["layers"]:
                assert repository.blob_size(layer["digest"]) == layer["size"]


def forget(store: Store) -> None:
    """What is known of the registry, from where blobs would be mounted."""
    with store.database.write() as db:
        db.execute("DELETE FROM blob_sources")


# ---- answers -------------------------------------------------------------------------------------------

ERROR = b'{"errors":[{"code":"DENIED","message":"not for you"}]}'
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"
Set = Callable[[HttpFaults, str], object]


def answers(status: int, said: str, body: bytes = ERROR, **headers: str) -> tuple[Set, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda faults, what: faults.answer(what, status, headers=named, body=body), said


def changes(change: Change, said: str) -> tuple[Set, str]:
    return lambda faults, what: faults.change(what, change), said


REFUSALS = {
    "401": answers(401, "status 401: DENIED: not for you: fastlayer login localhost"),
    "403": answers(403, "status 403: DENIED: not for you"),
    "404": answers(404, "status 404: DENIED: not for you"),
    "429": answers(429, "status 429: DENIED: not for you: try again in 7 s", Retry_After="7"),
    "500": answers(500, "status 500: DENIED: not for you: try again later"),
    "503": answers(503, "status 503: come later", b"come later", Content_Type="text/plain"),
    "html-502": answers(502, "an HTML page, which no registry sends", HTML, Content_Type="text/html"),
    "circles": (lambda faults, what: faults.redirect_in_circles(what), "redirect"),
}
SPOILED = {
    "html-200": (HTML, "text/html"),
    "no-json": (b"{", ""),
    "other-json": (b'{"schemaVersion":2}', ""),
    "list": (b"[]", ""),
    "nothing": (b"", ""),
    "binary": (b"\x00\xff" * 100, ""),
    "huge": (b'{"a":"' + b"x" * (5 << 20) + b'"}', ""),
}


class Run:
    """The command in a store of its own."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.root, self.capfd = root, capfd
        self.doing: object = ""

    def refused(self, *words: str) -> str:
        code = command([*words, "--retry-times", "0"])
        out, err = self.capfd.readouterr()
        assert code == 1 and out == "", (words, code, out, err, self.doing)
        assert err.count("\n") == 1 and err.startswith("fastlayer: ") and "internal error" not in err, err
        return err

    def good(self, *words: str) -> str:
        code = command(list(words))
        out, err = self.capfd.readouterr()
        assert code == 0, err
        return out


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    for name, value in (("HOME", tmp_path), ("FASTLAYER_ROOT", tmp_path / "store"), ("FASTLAYER_DRIVER", "vfs")):
        monkeypatch.setenv(name, str(value))
    return Run(tmp_path / "store", capfd)


def test_refusals_while_pulling(site: Site, faults: HttpFaults, run: Run) -> None:
    """Of the manifest, the configuration and a layer: the registry's own words."""
    name = f"{faults.host}/app:1"
    config, layer = site.manifest["config"]["digest"], site.manifest["layers"][0]["digest"]
    for what in ("GET .*manifests/1", f"GET .*{config}", f"GET .*{layer}"):
        for label, (prepare, said) in REFUSALS.items():
            prepare(faults, what)
            assert said in run.refused("pull", "-q", name), (what, label)
            faults.clear()
    with vfs_store(run.root) as store:
        nothing_seen(store)
    run.good("pull", "-q", name)
    with vfs_store(run.root) as store:
        whole(store, name, site)


def test_refusals_of_the_other_verbs(site: Site, faults: HttpFaults, run: Run) -> None:
    for words, what in (
        (("manifest", "inspect", f"{faults.host}/app:1"), "GET .*manifests/1"),
        (("search", "tags", f"{faults.host}/app"), "GET .*tags/list"),
        (("search", "repositories", faults.host), "GET .*_catalog"),
        (("rmi", "--remote", f"{faults.host}/app:1"), "DELETE .*manifests"),
    ):
        for label, (prepare, said) in REFUSALS.items():
            prepare(faults, what)
            assert said in run.refused(*words), (words, label)
            faults.clear()


def test_what_is_no_manifest(site: Site, faults: HttpFaults, run: Run) -> None:
    name = f"{faults.host}/app:1"
    for label, (body, kind) in SPOILED.items():
        headers = {"Docker-Content-Digest": None, **({"Content-Type": kind} if kind else {})}
        faults.change("GET .*manifests/1", Change(body=body, headers=headers))
        for words in (("pull", "-q"), ("manifest", "inspect", "--config")):
            assert run.refused(*words, name), label
        faults.clear()
    for change, said in (
        (Change(flip=5), "what came is sha256:"),
        (Change(length=10_000), ""),
        (Change(cut=100), ""),
        (Change(headers={"Content-Type": "application/vnd.example.other+json"}), "application/vnd.example.other+json"),
        (Change(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}), "0000"),
    ):
        faults.change("GET .*manifests/1", change)
        assert said in run.refused("pull", "-q", name), change
        faults.clear()
    with vfs_store(run.root) as store:
        nothing_seen(store)


def test_blobs_that_are_others(site: Site, faults: HttpFaults, run: Run) -> None:
    """Wrong bytes, wrong sizes, pages, ranges: told, thrown away, and fetched again by the next try."""
    name = f"{faults.host}/app:1"
    size = site.manifest["layers"][0]["size"]
    for part in (site.manifest["config"], *site.manifest["layers"]):
        for change in (
            Change(flip=0),
            Change(flip=part["size"] // 2),
            Change(body=HTML, headers={"Content-Type": "text/html"}),
            Change(body=b""),
            Change(length=part["size"] + 10),
            Change(length=part["size"] - 10),
            Change(cut=part["size"] // 2),
            Change(headers={"Content-Encoding": "gzip"}),
        ):
            faults.change(f"GET .*{part['digest']}", change)
            run.doing = part, change
            shutil.rmtree(run.root, ignore_errors=True)  # what came with another fault would not be asked for
            assert run.refused("pull", "-q", name), (part, change)
            faults.clear()
    shutil.rmtree(run.root)
    for span in (f"bytes 0-{size - 1}/{size}", f"bytes 5-9/{size}", "bytes", f"bytes 0-9/{size + 1}"):
        faults.change(
            f"GET .*{site.manifest['layers'][0]['digest']}", Change(headers={"Content-Range": span}, status=206)
        )
        assert run.refused("pull", "-q", name), span
        faults.clear()
    with vfs_store(run.root) as store:
        nothing_seen(store)
    run.good("pull", "-q", name)
    with vfs_store(run.root) as store:
        whole(store, name, site)


def test_refusals_while_pushing(site: Site, faults: HttpFaults, run: Run) -> None:
    with vfs_store(run.root) as store:
        load(store, site.layout)
    with site.there() as there:
        for number, what in enumerate(("POST .*uploads", "(PUT|PATCH) .*uploads", "PUT .*manifests", "HEAD .*blobs")):
            for label, (prepare, said) in REFUSALS.items():
                path = f"refused{number}-{label}"
                if label == "404" and what.startswith("HEAD"):
                    continue  # which is what it says of what is not there
                prepare(faults, what)
                with vfs_store(run.root) as store:
                    forget(store)
                line = run.refused("push", "-q", "app:1", f"{faults.host}/{path}:1")
                assert said in line or what.startswith("HEAD"), (what, label, line)  # HEAD: no words
                assert there.repository(path).head_manifest("1") is None
                faults.clear()
        run.good("push", "-q", "app:1", f"{faults.host}/refused:1")
        assert there.repository("refused").manifest("1").digest == site.digest


def test_a_storm_passes(site: Site, faults: HttpFaults, wishes: Wishes, tmp_path: Path) -> None:
    """Every request is refused twice before it is answered."""
    patient = wishes._replace(policy=PATIENT)
    for number, status in enumerate((429, 500, 502, 503, 504)):
        faults.clear()
        for what in ("GET .*manifests/1", "GET .*blobs", "POST .*uploads", "PUT .*manifests"):
            faults.answer(what, status, headers={"Retry-After": "0"}, times=2)
        with vfs_store(tmp_path / f"store{number}") as store:
            pull(store, f"{faults.host}/app:1", PullOptions(wishes=patient))
            whole(store, f"{faults.host}/app:1", site)
            push(store, f"{faults.host}/app:1", f"{faults.host}/storm{number}:1", PushOptions(wishes=patient))
        assert len([one for one in faults.statuses if one[1] == status]) == 8, faults.statuses


# ---- silence, kills, no room ---------------------------------------------------------------------------


def test_a_registry_that_falls_silent(site: Site, proxy: Proxy, wishes: Wishes, tmp_path: Path) -> None:
    short = wishes._replace(timeouts=Timeouts(connect=5.0, read=0.5, finish=0.5))
    name = f"{proxy.host}/app:1"
    with vfs_store(tmp_path / "store") as store:
        proxy.cut(LARGE // 2, "down", "stall")
        line = one_line(lambda: pull(store, name, PullOptions(wishes=short)))
        assert proxy.stalled >= 1 and "0.5 s" in line, line
        nothing_seen(store)
        proxy.clear()
        with proxy.counted() as moved:
            pull(store, name, PullOptions(wishes=wishes))
            assert moved()[1] <= LARGE // 2 + SMALL + SLACK
        whole(store, name, site)


def test_a_pull_that_is_killed_goes_on(site: Site, proxy: Proxy, tmp_path: Path) -> None:
    """At 80 % of its bytes; another process fetches what was missing."""
    name = f"{proxy.host}/app:1"
    env = {**os.environ, "HOME": str(tmp_path), "FASTLAYER_ROOT": str(tmp_path / "store"), "FASTLAYER_DRIVER": "vfs"}
    words = [sys.executable, "-m", "fastlayer", "pull", "-q", name]
    total = LARGE + SMALL
    proxy.cut(total * 8 // 10, "down", "stall", times=100)
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy.wait(lambda: proxy.stalled >= 1)
    kept = tmp_path / "store/downloads"
    wait_for_bytes(kept, total * 6 // 10)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    proxy.clear()
    with vfs_store(tmp_path / "store") as store:
        nothing_seen(store)
    with proxy.counted() as moved:
        done = subprocess.run(words, env=env, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        assert moved()[1] <= total * 45 // 100  # of so small an image the last piece is a large part
    with vfs_store(tmp_path / "store") as store:
        whole(store, name, site)


def wait_for_bytes(place: Path, count: int) -> None:
    """Until so many bytes of blobs are on the disk."""
    from tests.integration.command import wait_for

    def there() -> bool:
        files = [path for path in place.glob("*") if not path.name.endswith(".log")] if place.exists() else []
        return sum(path.stat().st_blocks * 512 for path in files) >= count

    wait_for(there)


def test_a_disk_that_is_full(site: Site, proxy: Proxy, wishes: Wishes, tmp_path: Path) -> None:
    """One line; what has come stays, and is not fetched again when there is room."""
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", place], check=True)
    name = f"{proxy.host}/app:1"
    try:
        with vfs_store(place / "store") as store:
            line = one_line(lambda: pull(store, name, PullOptions(wishes=wishes)))
            assert "No space left on device: " in line, line
            assert Images(store).all() == []
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        with vfs_store(place / "store") as store:
            pull(store, name, PullOptions(wishes=wishes))
            whole(store, name, site)
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# ---- in part -------------------------------------------------------------------------------------------


class Versions(NamedTuple):
    """``old`` and ``new`` in the registry, as zstd:chunked; their files, and the blob of the new one."""

    files: dict[str, dict[str, bytes]]
    blob: str


@pytest.fixture(scope="module")
def versions(site: Site) -> Versions:
    source = random.Random(9)
    old = {f"d/f{number}": source.randbytes(20_000 + number) for number in range(60)}
    new = {**old, **{f"d/f{number}": source.randbytes(20_000) for number in range(0, 60, 20)}}
    files = {"old": old, "new": new}
    with temporary_directory() as place, vfs_store(place / "store") as store:
        for name, found in files.items():
            import_image(store, tree(place / name, found), name)
            push(store, name, f"{site.registry.host}/{name}:1", PushOptions(compression="zstd:chunked"))
    with site.there() as there:
        (layer,) = json.loads(there.repository("new").manifest("1").data)["layers"]
    return Versions(files, layer["digest"])


def test_a_pull_in_part_that_is_cut_or_spoiled(
    faults: HttpFaults, proxy: Proxy, versions: Versions, wishes: Wishes, tmp_path: Path
) -> None:
    """Whatever happens to the ranges, what is there afterwards is right, or nothing is there."""
    old, new = f"{proxy.host}/old:1", f"{proxy.host}/new:1"
    options = PullOptions(wishes=wishes)
    whole_size = sum(map(len, versions.files["new"].values()))

    def attempt(number: int, prepare: Callable[[], object]) -> tuple[str, int]:
        with vfs_store(tmp_path / f"store{number}") as store:
            pull(store, old, options)
            prepare()
            with proxy.counted() as moved:
                line = one_line(lambda: pull(store, new, options))
                size = sum(moved())
            proxy.clear()
            faults.clear()
            if line:
                assert [image.names for image in Images(store).all()] == [(f"{proxy.host}/old:1",)]
                nothing_wrong(store)
                pull(store, new, options)
            assert content(store, new) == versions.files["new"]
            nothing_wrong(store)
            return line, size

    line, total = attempt(0, lambda: None)
    assert not line and total < whole_size // 3
    for number, at in enumerate(points(total)[1:-1:3], 1):  # which fetching the whole layer may mend at once
        attempt(number, lambda at=at, number=number: proxy.cut(at, "any", HOWS[number % 2]))
    what = f"GET .*{versions.blob}"
    for number, change in enumerate(
        (
            Change(flip=0),
            Change(flip=5_000),
            Change(flip=-1),
            Change(body=HTML, headers={"Content-Type": "text/html"}),
            Change(headers={"Content-Range": "bytes 0-9/10"}),
            Change(cut=1_000),
            Change(status=200),
        ),
        100,
    ):
        attempt(number, lambda change=change: faults.change(what, change))


# ---- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[DockerRegistry, Path]]:
    """A registry with TLS and ``app:1``, and the directory with its authority."""
    require("docker-registry", "skopeo", "openssl")
    with temporary_directory() as place:
        authority = Authority(place)
        Layout(place / "layout").image("app:1", [{name: data} for name, data in FILES.items()])
        certs = place / "certs"
        certs.mkdir()
        (certs / "ca.crt").write_bytes(authority.ca.read_bytes())
        with DockerRegistry(place, tls=authority.certificate("server")) as registry:
            words = ["skopeo", "copy", "-q", f"--dest-cert-dir={certs}", f"oci:{place / 'layout'}:app:1"]
            subprocess.run([*words, f"docker://{registry.host}/app:1"], check=True)
            yield registry, certs


def test_tls_that_is_cut_and_not_trusted(
    site: Site, secure: tuple[DockerRegistry, Path], wishes: Wishes, tmp_path: Path
) -> None:
    registry, certs = secure
    with Proxy(registry.port) as proxy, vfs_store(tmp_path / "store") as store:
        name = f"{proxy.host}/app:1"
        strict = wishes._replace(verify=True)
        line = one_line(lambda: pull(store, name, PullOptions(wishes=strict)))
        assert "its certificate is not to be trusted" in line and f"certs.d/{proxy.host}/ca.crt" in line
        trusted = strict._replace(cert_dir=str(certs))
        for at in (0, 1, 500, 3_000, 20_000):
            with vfs_store(tmp_path / f"store{at}") as other:
                proxy.cut(at, "down")
                line = one_line(lambda other=other: pull(other, name, PullOptions(wishes=trusted)))
                assert proxy.host in line or at < 10_000, (at, line)  # what gave nothing is connected to once more
                proxy.clear()
                pull(other, name, PullOptions(wishes=trusted))
                whole(other, name, site)
        proxy.cut(LARGE // 2, "down")
        assert proxy.host in one_line(lambda: pull(store, name, PullOptions(wishes=trusted)))
        nothing_seen(store)
        with proxy.counted() as moved:
            pull(store, name, PullOptions(wishes=trusted))
            assert moved()[1] <= LARGE // 2 + SMALL + SLACK
        whole(store, name, site)
        proxy.accepting = False
        with pytest.raises(RegistryError):
            pull(store, name, PullOptions(wishes=trusted))
        whole(store, name, site)
