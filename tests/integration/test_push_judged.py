"""What push and copy write is read by skopeo, podman, buildah, containerd and umoci, and what skopeo writes by copy.

The registry is Debian's docker-registry: plain, with TLS, and with tokens.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastlayer.image.images import Images
from fastlayer.oci import mediatypes
from fastlayer.registry.opening import Wishes
from fastlayer.store.store import Store
from fastlayer.transfer.copy import CopyOptions, copy
from fastlayer.transfer.push import PushOptions, push
from tests.conftest import require
from tests.integration import judges
from tests.integration.test_registry_client import JANE, Setup
from tests.stores import LAYERS, Layout, imported, vfs_store

KINDS = ("plain", "tls", "token")
FORMS = (
    {"compression": "gzip"},
    {"compression": "zstd"},
    {"compression": "none", "manifest_format": "v2s2"},
    {"compression": "zstd:chunked"},
)


class Judged(Setup):
    """The registry, and our wishes of it."""

    @property
    def wishes(self) -> Wishes:
        tls = self.endpoint.url.startswith("https")
        certs = str(self.place / "certs") if tls else ""
        return Wishes(cert_dir=certs, verify=tls, credential=JANE if self.login else None)

    def push(self, store: Store, name: str, there: str, **more: object) -> str:
        options = PushOptions(wishes=self.wishes)._replace(**more)
        return push(store, name, self.name(there), options).descriptor.digest

    def copy(self, source: str, destination: str, **more: object) -> str:
        options = CopyOptions(source=self.wishes, destination=self.wishes)._replace(**more)
        return copy(source, destination, options).descriptor.digest

    @property
    def tool(self) -> list[str]:
        """What podman and buildah are told of it."""
        words = ["--tls-verify=false"] if self.kind != "tls" else [f"--cert-dir={self.place / 'certs'}"]
        return words + ([f"--creds={JANE.username}:{JANE.password}"] if self.login else [])


def opened(kind: str, place: Path) -> Iterator[Judged]:
    require("docker-registry", "skopeo", "openssl")
    with ExitStack() as stack:
        yield Judged(place, kind, stack)


@pytest.fixture(params=KINDS)
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Judged]:
    yield from opened(request.param, tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Judged]:
    yield from opened("plain", tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with vfs_store(tmp_path / "store") as found:
        imported(found, tmp_path / "tree", "app:1")
        yield found


def inspected(judged: Judged, there: str) -> str:
    return str(json.loads(judged.skopeo("inspect", judged.name(there)))["Digest"])


def test_skopeo_reads_what_we_push(judged: Judged, store: Store, tmp_path: Path) -> None:
    for number, form in enumerate(FORMS):
        there = f"team/app:{number}"
        found = judged.push(store, "app:1", there, **form)
        assert inspected(judged, there) == found
        judged.skopeo("copy", judged.name(there), f"dir:{tmp_path}/d{number}", side="src-")  # which verifies all of it
        assert judged.push(store, "app:1", there, **form) == found
    judged.push(store, "app:1", "other/app:1")  # mounted
    assert inspected(judged, "other/app:1") == inspected(judged, "team/app:0")
    judged.push(store, "app:1", "chunks/app:1", chunk=4000)
    assert inspected(judged, "chunks/app:1") == inspected(judged, "team/app:0")


@pytest.mark.parametrize("program", ["podman", "buildah"])
def test_podman_and_buildah_pull_it(plain: Judged, store: Store, tmp_path: Path, program: str) -> None:
    require(program)
    (tmp_path / "policy.json").write_text('{"default":[{"type":"insecureAcceptAnything"}]}')
    words = [program, "--root", tmp_path / "storage", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]
    for number, form in enumerate(FORMS):
        plain.push(store, "app:1", f"app:{number}", **form)
        policy = f"--signature-policy={tmp_path}/policy.json"
        found = judges.run(*words, "pull", "-q", policy, *plain.tool, plain.name(f"app:{number}")).strip()
        assert found == Images(store).find("app:1").id.encoded


def test_containerd_pulls_it(plain: Judged, store: Store, tmp_path: Path) -> None:
    require("containerd", "ctr")
    with judges.containerd(tmp_path / "ctr") as peer:
        for number, form in enumerate(FORMS):
            digest = plain.push(store, "app:1", f"app:{number}", **form)
            name = f"{plain.server.host}/app:{number}"
            peer.ctr("images", "pull", "--plain-http", "--snapshotter", "native", name)
            assert digest in peer.output("images", "ls", f"name=={name}").decode()


def skopeo(*words: str) -> None:
    done = subprocess.run(["skopeo", *words], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def digest_at(place: str) -> str:
    done = subprocess.run(["skopeo", "inspect", place], capture_output=True, check=True)
    return str(json.loads(done.stdout)["Digest"])


def test_we_copy_what_skopeo_wrote_as_skopeo_does(judged: Judged, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    manifest = layout.image("v1", LAYERS)
    judged.skopeo("copy", f"oci:{layout.path}:v1", judged.name("by/skopeo:1"), side="dest-")
    for transport in ("oci", "oci-archive", "dir"):
        theirs, ours = (f"{transport}:{tmp_path}/{who}-{transport}" for who in ("theirs", "ours"))
        judged.skopeo("copy", judged.name("by/skopeo:1"), theirs, side="src-")
        assert judged.copy(judged.name("by/skopeo:1"), ours) == digest_at(ours) == digest_at(theirs) == manifest.digest
        assert judged.copy(theirs, judged.name(f"from/{transport}:1")) == manifest.digest
        assert inspected(judged, f"from/{transport}:1") == manifest.digest
    theirs, ours = (f"docker-archive:{tmp_path}/{who}.tar" for who in ("theirs", "ours"))
    judged.skopeo("copy", judged.name("by/skopeo:1"), f"{theirs}:app:1", side="src-")
    judged.copy(judged.name("by/skopeo:1"), f"{ours}:app:1")
    assert digest_at(ours) == digest_at(theirs)  # of the manifest that skopeo makes of it
    assert judged.copy(theirs, f"oci:{tmp_path}/a") == judged.copy(ours, f"oci:{tmp_path}/b")
    for name in ("theirs-dir", "ours-dir"):
        assert (tmp_path / name / "version").read_bytes() == (tmp_path / "theirs-dir/version").read_bytes()
    assert {one.name for one in (tmp_path / "ours-dir").iterdir()} == {
        one.name for one in (tmp_path / "theirs-dir").iterdir()
    }


def test_images_of_all_platforms(plain: Judged, tmp_path: Path) -> None:
    from fastlayer.oci.image_index import new_index
    from fastlayer.oci.platform import Platform

    layout = Layout(tmp_path / "layout")
    children = []
    for architecture in ("amd64", "arm64"):
        platform = Platform("linux", architecture)
        one = layout.image("", LAYERS, platform, architecture)
        children.append(one.descriptor._replace(platform=platform))
    index = new_index(children)
    layout.blob(index.raw)
    layout.add("multi", index.descriptor)
    plain.skopeo("copy", "--all", f"oci:{layout.path}:multi", plain.name("multi:1"), side="dest-")
    plain.skopeo("copy", "--all", plain.name("multi:1"), f"dir:{tmp_path}/theirs", side="src-")
    assert plain.copy(plain.name("multi:1"), f"dir:{tmp_path}/ours", all=True) == index.digest
    files = [{one.name: one.read_bytes() for one in (tmp_path / who).iterdir()} for who in ("ours", "theirs")]
    assert files[0] == files[1]
    assert plain.copy(f"dir:{tmp_path}/theirs", plain.name("again:1"), all=True) == index.digest
    raw = plain.skopeo("inspect", "--raw", plain.name("again:1"))
    assert raw == index.raw and json.loads(raw)["mediaType"] == mediatypes.INDEX
    skopeo("copy", "--all", f"dir:{tmp_path}/ours", f"oci:{tmp_path}/back:multi")


def test_umoci_unpacks_a_copied_layout(plain: Judged, store: Store, tmp_path: Path) -> None:
    require("umoci")
    plain.push(store, "app:1", "app:1")
    plain.copy(plain.name("app:1"), f"oci:{tmp_path}/out:1")
    judges.run("umoci", "unpack", "--image", f"{tmp_path}/out:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/passwd").read_text() == "root\n"
