"""RUN on thin devices: the image is the one that overlay2 gives on the host, which boots this guest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper
from tests.buildroot import make_root
from tests.integration.corpusrun import typed
from tests.integration.test_build import EPOCH, Builder, write_many
from tests.uml_devicemapper.conftest import EXT4, XFS, environment

WANTED = os.environ.get("FASTLAYER_TEST_IMAGE")  # its id


class Here(Builder):
    """In this process: starting programs is slow in the guest."""

    def good(self, *words: str | Path, input: bytes | None = None) -> str:
        code, out, err = typed(words)
        assert code == 0, err
        return out


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    for name, value in environment(request.param).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FASTLAYER_ROOT", str(tmp_path / "store"))
    try:
        yield Here(tmp_path, make_root(tmp_path / "root"), "devicemapper")
    finally:
        DeviceMapper(tmp_path / "store/devicemapper").stop()


@pytest.mark.skipif(not WANTED, reason="the host does not say which image it should be")
@pytest.mark.parametrize("made,isolation", [(EXT4, "native"), (XFS, "oci")], indirect=["made"])
def test_the_image_of_overlay2(made: Here, isolation: str) -> None:
    write_many(made)
    words = ("--isolation", isolation, "--source-date-epoch", EPOCH)
    assert made.good("build", "-q", *words, made.context) == WANTED
    assert os.listdir(made.root / "devicemapper")
    assert not (made.root / "overlay2").exists() and not (made.root / "vfs").exists()
