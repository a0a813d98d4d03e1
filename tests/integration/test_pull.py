"""Pulls from docker-registry, plain, with TLS and with tokens: digests as skopeo says, trees as umoci makes them."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastlayer.container.mounting import temporary
from fastlayer.image.images import Images
from fastlayer.image.load import load
from fastlayer.registry.credential import Credential
from fastlayer.registry.opening import Wishes
from fastlayer.store.store import open_store
from fastlayer.testing.dump import difference, dump
from fastlayer.transfer.pull import PullOptions, pull
from tests.certificates import Authority
from tests.conftest import needs_root, require, temporary_directory
from tests.integration.dockerregistry import PASSWORD, USER, DockerRegistry, token_auth
from tests.stores import Layout, sound

pytestmark = needs_root

TIME = 1_700_000_000
RANDOM = os.urandom(300_000)


class Site(NamedTuple):
    """A registry to which skopeo has pushed ``team/app:1``; ``flags``: how skopeo reaches it as a source."""

    host: str
    flags: tuple[str, ...]
    wishes: Wishes
    layout: Path

    @property
    def name(self) -> str:
        return f"{self.host}/team/app:1"


def layers(place: Path) -> list[Path]:
    """Files, links, owners and modes; the second layer hides, replaces and changes what the first one has."""

    def entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, **more: Any) -> tarfile.TarInfo:
        found = tarfile.TarInfo(name)
        found.type, found.mode, found.mtime = kind, mode, TIME
        for key, value in more.items():
            setattr(found, key, value)
        return found

    low = [
        (entry("etc", tarfile.DIRTYPE, 0o755), b""),
        (entry("etc/passwd"), b"root:x:0:0::/:/bin/sh\n"),
        (entry("etc/old"), b"goes"),
        (entry("bin", tarfile.DIRTYPE, 0o755), b""),
        (entry("bin/tool", mode=0o4755), RANDOM),
        (entry("bin/same", tarfile.LNKTYPE, linkname="bin/tool"), b""),
        (entry("bin/short", tarfile.SYMTYPE, 0o777, linkname="tool"), b""),
        (entry("srv", tarfile.DIRTYPE, 0o1777, uid=1000, gid=1001), b""),
        (entry("srv/owned", uid=1000, gid=1001), b"mine"),
    ]
    high = [
        (entry("etc", tarfile.DIRTYPE, 0o750), b""),
        (entry("etc/.wh.old"), b""),
        (entry("etc/passwd"), b"jane:x:1:1::/:/bin/sh\n"),
        (entry("srv", tarfile.DIRTYPE, 0o1777, uid=1000, gid=1001), b""),
        (entry("srv/new"), RANDOM[::-1]),
    ]
    made = []
    for number, entries in enumerate((low, high)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, data in entries:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        made.append(place / f"{number}.tar.gz")
        made[-1].write_bytes(gzip.compress(out.getvalue(), 1, mtime=0))
    return made


@pytest.fixture(scope="module", params=["plain", "tls", "token"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    require("docker-registry", "skopeo", "umoci", "openssl")
    with temporary_directory() as place, ExitStack() as stack:
        layout = Layout(place / "layout")
        layout.image_of_files("1", layers(place))
        authority = Authority(place)
        certs = place / "certs"
        certs.mkdir()
        (certs / "ca.crt").write_bytes(authority.ca.read_bytes())
        wishes = Wishes(environ={"HOME": str(place)}, etc=place, verify=False)
        tls, auth, flags = None, None, ("tls-verify=false",)
        if request.param == "tls":
            tls, flags = authority.certificate("server"), (f"cert-dir={certs}",)
            wishes = wishes._replace(verify=True, cert_dir=str(certs))
        if request.param == "token":
            auth, _ = stack.enter_context(token_auth(place, authority))
            flags = (*flags, f"creds={USER}:{PASSWORD}")
            wishes = wishes._replace(credential=Credential(USER, PASSWORD))
        registry = stack.enter_context(DockerRegistry(place, tls=tls, auth=auth))
        found = Site(registry.host, flags, wishes, layout.path)
        theirs = [f"--dest-{flag}" for flag in flags]
        skopeo("copy", "-q", *theirs, f"oci:{layout.path}:1", f"docker://{found.name}")
        yield found


def below(tree: Path | str) -> dict[str, dict[str, Any]]:
    """All but the root itself, of which the layers say nothing."""
    found = dump(Path(tree))
    del found["."]
    return found


def skopeo(*words: str) -> bytes:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True, timeout=60).stdout


@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_as_others_see_it(site: Site, driver: str, tmp_path: Path) -> None:
    said = json.loads(skopeo("inspect", *(f"--{flag}" for flag in site.flags), f"docker://{site.name}"))
    with open_store(tmp_path / "store", driver=driver) as store:
        found = pull(store, site.name, PullOptions(wishes=site.wishes))
        assert found.changed and found.source == site.host and found.target.digest == said["Digest"]
        image = Images(store).find(site.name)
        assert [layer.digest for layer in image.layers] == said["Layers"]
        assert found.received == sum(layer.size for layer in image.layers)
        bundle = tmp_path / "bundle"
        subprocess.run(["umoci", "unpack", "--image", f"{site.layout}:1", bundle], check=True, capture_output=True)
        with temporary(store, image) as tree:
            assert difference(below(bundle / "rootfs"), below(tree)) == ""
        again = pull(store, site.name, PullOptions(wishes=site.wishes))
        assert not again.changed and again.received == 0
        sound(store)


def test_what_was_loaded_is_not_fetched(site: Site, tmp_path: Path) -> None:
    with open_store(tmp_path / "store", driver="vfs") as store:
        load(store, site.layout)
        found = pull(store, site.name, PullOptions(wishes=site.wishes))
        assert found.changed and found.received == 0
        sound(store)
