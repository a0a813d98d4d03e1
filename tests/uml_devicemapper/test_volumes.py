"""Images as volumes, and containers with parts of images, on thin devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper
from fastlayer.errors import InUseError
from fastlayer.mounts import table
from fastlayer.store.store import Store, open_store
from fastlayer.volume.volumes import Volumes, clear_dead
from tests.buildroot import make_root
from tests.integration.corpusrun import typed
from tests.uml_devicemapper.conftest import EXT4


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """With the image ``box``, made once: programs start slowly in the guest."""
    for name in ("data_size", "metadata_size", "base_size"):
        monkeypatch.setenv(f"FASTLAYER_DM_{name.upper()}", str(getattr(EXT4, name)))
    monkeypatch.setenv("FASTLAYER_DRIVER", "devicemapper")
    monkeypatch.setenv("FASTLAYER_ROOT", str(tmp_path / "store"))
    root = make_root(tmp_path / "root")
    (root / "data").mkdir()
    (root / "data/first").write_text("of the image")
    (root / "data/link").symlink_to("/data/first")
    command("import", "-q", root, "box")
    try:
        with open_store(tmp_path / "store", driver="devicemapper") as found:
            yield found
    finally:
        DeviceMapper(tmp_path / "store/devicemapper").stop()


def command(*words: str | Path) -> str:
    code, out, err = typed(words)
    assert code == 0, err
    return out


def test_the_life_of_an_image_volume(store: Store) -> None:
    """Written to, named, cloned, put back, removed; the image goes before it; nothing of it stays."""
    volumes = Volumes(store)
    before = {info.key for info in store.snapshotter.walk()}
    mounts = len(list(table.entries()))
    volumes.create("root", options={"image": "box"})
    place = volumes.acquire("root", "one")
    assert (place / "data/first").read_text() == "of the image"
    (place / "data/first").write_text("one")
    copied = volumes.snapshot("root", "s1")
    assert copied.atomic and copied.copied_bytes == 0
    (place / "data/first").write_text("two")
    volumes.clone("root", "twin")
    with pytest.raises(InUseError):
        volumes.restore("root", "s1")
    volumes.release("one")
    volumes.restore("root", "s1")
    assert (volumes.acquire("root", "one") / "data/first").read_text() == "one"
    assert (volumes.acquire("twin", "one") / "data/first").read_text() == "two"
    assert (volumes.acquire("twin", "two", subpath="data/link", read_only=True)).read_text() == "two"
    volumes.create("old", options={"snapshot": "root@s1"})
    command("rmi", "box")
    for user in ("one", "two"):
        volumes.release(user)
    assert len(list(table.entries())) == mounts
    volumes.remove("root")
    assert (volumes.acquire("old", "one") / "data/first").read_text() == "one"
    volumes.release("one")
    for name in ("twin", "old"):
        volumes.remove(name)
    while clear_dead(store):
        pass
    assert {info.key for info in store.snapshotter.walk()} <= before


def test_containers_see_the_image_and_parts_of_others(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    """Each image is a directory in its device: neither the root nor what is mounted shows the device itself."""
    volumes = Volumes(store)
    volumes.create("root", options={"image": "box"})
    given = ["-v", "root:/v", "--mount", "type=image,source=box,target=/i", "-v", "/new"]
    given += ["--mount", "type=image,source=box,target=/p,image-subpath=data/link"]
    program = "ls -d /v/bin /i/bin /bin; cat /p; echo; echo x > /v/new; whoami"
    command("run", "--rm", *given, "box", "sh", "-c", program)
    assert capfd.readouterr().out.splitlines() == ["/bin", "/i/bin", "/v/bin", "of the image", "root"]
    assert (volumes.acquire("root", "one") / "new").read_text() == "x\n"
    volumes.release("one")
    assert not [entry for entry in table.entries() if os.fsencode(store.root) in entry.target]
