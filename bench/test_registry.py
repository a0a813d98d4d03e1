"""Registries: pull, push, resume, whole processes, against skopeo, podman and containerd's ctr.

The image has two gzip layers: "debian" minbase, and what installing compilers, git and python changes in it (96 and
230 MB). Debian's docker-registry is on loopback, plain and with TLS, its files on tmpfs; a proxy of its own process
makes the way longer and each connection slower. ``FASTLAYER_BENCH_REGISTRY=small`` takes small trees, to see whether it
works.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import peers, workloads
from bench.conftest import Measure
from tests.certificates import Authority
from tests.integration.dockerregistry import DockerRegistry
from tests.proxy import ProxyProcess

SMALL = os.environ.get("FASTLAYER_BENCH_REGISTRY") == "small"
NAME = "bench/image:1"
RATE = 20e6  # bytes a second of a connection
DELAY = 0.02  # seconds of a round trip
LARGE = (8 if SMALL else 230) << 20  # bytes of one layer that is large
PEERS = 3  # rounds
POLICY = '{"default":[{"type":"insecureAcceptAnything"}]}'


class Site(NamedTuple):
    """A registry with the image; ``tls``: the directory with its authority, None for plain HTTP."""

    server: DockerRegistry
    tls: Path | None
    place: Path
    policy: Path

    def options(self, side: str = "") -> list[str | Path]:
        """skopeo's and podman's words for it; ours are the same."""
        return [f"--{side}cert-dir={self.tls}"] if self.tls else [f"--{side}tls-verify=false"]

    @property
    def kind(self) -> str:
        return "TLS" if self.tls else "plain"

    def name(self, port: int = 0, name: str = NAME) -> str:
        return f"localhost:{port or self.server.port}/{name}"

    def empty(self) -> None:
        """Everything that was pushed goes; the registry keeps nothing in memory."""
        shutil.rmtree(self.server.storage, ignore_errors=True)


def _pair(tmpfs: Path) -> workloads.Pair:
    if not SMALL:
        return workloads.debian(tmpfs)
    a, b = tmpfs / "small-a", tmpfs / "small-b"
    for tree, sizes in ((a, (400,)), (b, (400, 900))):
        for number, size in enumerate(sizes):
            (tree / f"d{number}").mkdir(parents=True, exist_ok=True)
            for file in range(40):
                data = random.Random(number * 1000 + file).randbytes(size * 64)
                (tree / f"d{number}/f{file}").write_bytes(data + bytes(size * 64))
                os.utime(tree / f"d{number}/f{file}", (1, 1))
    return workloads.Pair(a, b)


@pytest.fixture(scope="session")
def layout(tmpfs: Path) -> Path:
    """The image as a layout; layers are single gzip members, as peers write them."""
    import fastlayer

    out = tmpfs / "registry-layout"
    pair = _pair(tmpfs)
    layers = []
    for number, (before, after) in enumerate(((None, pair.a), (pair.a, pair.b))):
        plain = tmpfs / f"registry-layer{number}.tar"
        fastlayer.diff(before, after, plain)
        subprocess.run(["pigz", "-6", "-f", plain], check=True)
        layers.append(plain.with_suffix(".tar.gz"))
    shutil.rmtree(out, ignore_errors=True)
    peers.Layout(out).image(layers, NAME)
    return out


@pytest.fixture(scope="session")
def large(tmpfs: Path) -> Path:
    """A layout with an image of one layer, which does not compress."""
    tree, out = tmpfs / "large-tree", tmpfs / "large-layout"
    tree.mkdir(parents=True, exist_ok=True)
    block = random.Random(3).randbytes(1 << 20)
    with open(tree / "data", "wb") as file:
        for number in range(LARGE >> 20):
            file.write(number.to_bytes(8, "little") + block[8:])
    plain = tmpfs / "large.tar"
    subprocess.run(["tar", "-C", tree, "-cf", plain, "."], check=True)
    subprocess.run(["pigz", "-1", "-f", plain], check=True)
    shutil.rmtree(out, ignore_errors=True)
    peers.Layout(out).image([plain.with_suffix(".tar.gz")], NAME)
    shutil.rmtree(tree)
    return out


@pytest.fixture(scope="session", params=["plain", "TLS"])
def site(request: pytest.FixtureRequest, tmpfs: Path) -> Iterator[Site]:
    place = tmpfs / f"registry-{request.param}"
    place.mkdir(parents=True, exist_ok=True)
    policy = place / "policy.json"
    policy.write_text(POLICY)
    with ExitStack() as stack:
        tls = None
        if request.param == "TLS":
            authority = Authority(place)
            tls = place / "certs"
            tls.mkdir(exist_ok=True)
            shutil.copy(authority.ca, tls / "ca.crt")
            server = stack.enter_context(DockerRegistry(place, tls=authority.certificate("server")))
        else:
            server = stack.enter_context(DockerRegistry(place))
        yield Site(server, tls, place, policy)


def fill(site: Site, layout: Path, name: str = NAME) -> None:
    """Puts an image into the registry."""
    words = ["skopeo", "copy", "-q", *site.options("dest-"), f"oci:{layout}:{NAME}", f"docker://{site.name(name=name)}"]
    subprocess.run(words, check=True)


@pytest.fixture
def store(tmpfs: Path) -> Iterator[dict[str, str]]:
    """The environment of our store."""
    root = tmpfs / "registry-store"
    shutil.rmtree(root, ignore_errors=True)
    yield {"FASTLAYER_ROOT": os.fspath(root), "FASTLAYER_DRIVER": "overlay2", "HOME": os.fspath(tmpfs)}
    shutil.rmtree(root, ignore_errors=True)


def command(fastlayer: list[str], env: dict[str, str], *words: str | Path) -> str:
    done = subprocess.run([*fastlayer, *words], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def emptied(root: Path) -> None:
    """A storage root of podman's, with overlay's private mount in it."""
    subprocess.run(["umount", "-q", root / "root/overlay"], capture_output=True)
    shutil.rmtree(root, ignore_errors=True)


def podman(root: Path, driver: str = "overlay") -> list[str | Path]:
    return ["podman", f"--root={root / 'root'}", f"--runroot={root / 'run'}", f"--storage-driver={driver}"]


# ---- pull ----------------------------------------------------------------------------------------


def pulls(
    measure: Measure, fastlayer: list[str], store: dict[str, str], site: Site, job: str, port: int, *words: str
) -> None:
    """Ours, into an empty store, unpacked."""
    name = site.name(port)
    measure(
        job,
        "fastlayer (verified)" + "".join(f" {word}" for word in words),
        "tmpfs",
        [*fastlayer, "pull", "-q", *words, *site.options(), name],
        before=lambda: shutil.rmtree(store["FASTLAYER_ROOT"], ignore_errors=True),
        check=lambda: command(fastlayer, store, "history", name),
        env=store,
        rounds=PEERS,
    )


def pulls_of_podman(measure: Measure, tmpfs: Path, site: Site, job: str, port: int) -> None:
    root = tmpfs / "podman"
    measure(
        job,
        "podman pull (overlay)",
        "tmpfs",
        [*podman(root), "pull", "-q", f"--signature-policy={site.policy}", *site.options(), site.name(port)],
        before=lambda: emptied(root),
        rounds=PEERS,
    )
    emptied(root)


def copies_of_skopeo(measure: Measure, tmpfs: Path, site: Site, job: str, port: int) -> None:
    out = tmpfs / "skopeo"
    words = ["skopeo", f"--policy={site.policy}", "copy", "-q", *site.options("src-"), f"docker://{site.name(port)}"]
    measure(
        job,
        "skopeo copy to a layout (not unpacked)",
        "tmpfs",
        [*words, f"oci:{out}:1"],
        before=lambda: shutil.rmtree(out, ignore_errors=True),
        rounds=PEERS,
    )
    shutil.rmtree(out, ignore_errors=True)


def pulls_of_ctr(measure: Measure, tmpfs: Path, site: Site, job: str, port: int) -> None:
    with peers.containerd(tmpfs / "containerd") as daemon:

        def forget() -> None:
            for name in daemon.ctr("images", "ls", "-q").split():
                daemon.ctr("images", "rm", "--sync", name)
            daemon.forget_content()
            daemon.forget_snapshots(tmpfs / "mounted")

        tls = ["--hosts-dir", hosts(tmpfs, site.tls, site.name(port, ""))] if site.tls else ["--plain-http"]
        measure(
            job,
            "containerd (ctr images pull, overlayfs)",
            "tmpfs",
            daemon.command("images", "pull", "--snapshotter", "overlayfs", *tls, site.name(port)),
            before=forget,
            rounds=PEERS,
        )


def hosts(tmpfs: Path, certs: Path, host: str) -> Path:
    """containerd takes localhost for one without TLS, unless it is told."""
    place = tmpfs / "hosts" / host.rstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    url = f"https://{host.rstrip('/')}"
    (place / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\nca = "{certs / "ca.crt"}"\n')
    return tmpfs / "hosts"


@pytest.mark.parametrize("tool", ["fastlayer", "podman", "skopeo", "ctr"])
def test_pull(
    measure: Measure, fastlayer: list[str], store: dict[str, str], tmpfs: Path, site: Site, layout: Path, tool: str
) -> None:
    fill(site, layout)
    job = f"pull, unpacked ({site.kind})"
    if tool == "fastlayer":
        pulls(measure, fastlayer, store, site, job, 0)
    else:
        theirs = {"podman": pulls_of_podman, "skopeo": copies_of_skopeo, "ctr": pulls_of_ctr}
        theirs[tool](measure, tmpfs, site, job, 0)


@pytest.mark.parametrize("tool", ["fastlayer", "podman", "skopeo", "ctr"])
def test_pull_over_a_long_way(
    measure: Measure, fastlayer: list[str], store: dict[str, str], tmpfs: Path, site: Site, layout: Path, tool: str
) -> None:
    fill(site, layout)
    job = f"pull, unpacked, 20 ms away, 20 MB/s per connection ({site.kind})"
    with ProxyProcess(site.server.port, delay=DELAY, rate=RATE) as way:
        if tool == "fastlayer":
            pulls(measure, fastlayer, store, site, job, way.port)
        else:
            theirs = {"podman": pulls_of_podman, "skopeo": copies_of_skopeo, "ctr": pulls_of_ctr}
            theirs[tool](measure, tmpfs, site, job, way.port)


@pytest.mark.parametrize("tool", ["fastlayer", "one connection", "podman", "skopeo", "ctr"])
def test_pull_of_one_large_layer(
    measure: Measure, fastlayer: list[str], store: dict[str, str], tmpfs: Path, site: Site, large: Path, tool: str
) -> None:
    fill(site, large)
    job = f"pull of one layer of {LARGE >> 20} MiB, 20 MB/s per connection ({site.kind})"
    with ProxyProcess(site.server.port, rate=RATE) as way:
        if tool == "fastlayer":
            pulls(measure, fastlayer, store, site, job, way.port)
        elif tool == "one connection":
            pulls(measure, fastlayer, store, site, job, way.port, "--connections", "1")
        else:
            theirs = {"podman": pulls_of_podman, "skopeo": copies_of_skopeo, "ctr": pulls_of_ctr}
            theirs[tool](measure, tmpfs, site, job, way.port)


def test_pull_that_goes_on(
    measure: Measure, fastlayer: list[str], store: dict[str, str], site: Site, layout: Path
) -> None:
    """Killed when 80 % of the bytes have come; what is measured fetches the rest, at most 25 %."""
    fill(site, layout)
    total = sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())
    with ProxyProcess(site.server.port, rate=RATE if SMALL else 5 * RATE) as way:
        words = [*fastlayer, "pull", "-q", *site.options(), site.name(way.port)]
        before = 0

        def killed() -> None:
            nonlocal before
            shutil.rmtree(store["FASTLAYER_ROOT"], ignore_errors=True)
            kill_at(words, store, lambda: way.counts().down, total * 8 // 10)
            before = way.counts().down

        def check() -> None:
            moved = way.counts().down - before
            assert SMALL or moved <= total * 25 // 100, f"{moved} of {total} bytes moved again"

        job = f"pull, the rest after a kill at 80 % ({site.kind})"
        measure(job, "fastlayer (verified)", "tmpfs", words, before=killed, check=check, env=store, rounds=PEERS)


def kill_at(words: list[str | Path], env: dict[str, str], moved: Callable[[], int], at: int) -> None:
    """Runs a command until so many more bytes have moved, and kills it."""
    begin = moved()
    with subprocess.Popen([os.fspath(word) for word in words], env={**os.environ, **env}) as process:
        while moved() - begin < at:
            assert process.poll() is None, "it was done before"
            time.sleep(0.002)
        process.kill()


@pytest.mark.parametrize("compression", ["zstd:chunked", "estargz"])
def test_pull_of_the_next_version(
    measure: Measure,
    fastlayer: list[str],
    store: dict[str, str],
    tmpfs: Path,
    site: Site,
    compression: str,
) -> None:
    """1 % of its files have changed: at most 5 % of the bytes move."""
    versions(fastlayer, store, tmpfs, site, compression)
    sizes = []
    with ProxyProcess(site.server.port) as way:
        old, new = (site.name(way.port, f"bench/{version}:1") for version in ("old", "new"))
        before = 0

        def pulled() -> None:
            nonlocal before
            shutil.rmtree(store["FASTLAYER_ROOT"], ignore_errors=True)
            begin = way.counts().down
            command(fastlayer, store, "pull", "-q", *site.options(), old)
            before = way.counts().down
            sizes.append(before - begin)

        def check() -> None:
            moved = way.counts().down - before
            assert SMALL or moved <= sizes[-1] * 5 // 100, f"{moved} bytes, {sizes[-1]} for the first version"

        measure(
            f"pull of a version with 1 % other files ({compression}, {site.kind})",
            "fastlayer (verified)",
            "tmpfs",
            [*fastlayer, "pull", "-q", *site.options(), new],
            before=pulled,
            check=check,
            env=store,
            rounds=PEERS,
        )


def versions(fastlayer: list[str], store: dict[str, str], tmpfs: Path, site: Site, compression: str) -> None:
    """``bench/old:1``, and ``bench/new:1`` in which each hundredth file is another."""
    tree = tmpfs / "version"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-a", _pair(tmpfs).b, tree], check=True)  # devices stay devices
    for name in ("old", "new"):
        if name == "new":
            change(tree)
        command(fastlayer, store, "import", "-q", tree, name)
        words = ("--compression", compression, *site.options(), name, site.name(name=f"bench/{name}:1"))
        command(fastlayer, store, "push", "-q", *words)
    shutil.rmtree(tree)


def change(tree: Path) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    for path in files[:: 100 if not SMALL else 40]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] + b"changed" + data[len(data) // 2 :])


# ---- push ----------------------------------------------------------------------------------------


def test_push(measure: Measure, fastlayer: list[str], store: dict[str, str], tmpfs: Path, site: Site) -> None:
    """An image of one layer that is only there unpacked, as gzip, to a registry that has nothing."""
    command(fastlayer, store, "import", "-q", _pair(tmpfs).b, "tree")
    measure(
        f"push of an unpacked layer as gzip ({site.kind})",
        "fastlayer",
        "tmpfs",
        [*fastlayer, "push", "-q", *site.options(), "tree", site.name(name="bench/tree:1")],
        before=site.empty,
        check=lambda: inspected(site, "bench/tree:1"),
        env=store,
        rounds=PEERS,
    )


def inspected(site: Site, name: str) -> None:
    words = ["skopeo", "inspect", "--raw", *site.options(), f"docker://{site.name(name=name)}"]
    subprocess.run(words, check=True, capture_output=True)


@pytest.mark.parametrize("tool", ["podman", "skopeo"])
def test_push_of_peers(measure: Measure, tmpfs: Path, site: Site, tool: str) -> None:
    root = tmpfs / "podman"
    emptied(root)
    plain = tmpfs / "tree.tar"
    words = ["tar", "--xattrs", "--numeric-owner", "-C", _pair(tmpfs).b, "-cf", plain, "."]
    subprocess.run(words, check=True)
    subprocess.run([*podman(root), "import", "-q", plain, "tree:1"], check=True, capture_output=True)
    plain.unlink()
    target = f"docker://{site.name(name='bench/tree:1')}"
    if tool == "podman":
        label, command = "podman push (overlay)", [*podman(root), "push", "-q", *site.options(), "tree:1", target]
    else:
        source = f"containers-storage:[overlay@{root / 'root'}+{root / 'run'}]localhost/tree:1"
        words = ["skopeo", f"--policy={site.policy}", "copy", "-q", *site.options("dest-"), source, target]
        label, command = "skopeo copy (containers-storage, overlay)", words
    job = f"push of an unpacked layer as gzip ({site.kind})"
    measure(job, label, "tmpfs", command, before=site.empty, rounds=PEERS)
    emptied(root)
