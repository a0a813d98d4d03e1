"""Bundles of runtimes: gone afterwards, and those of killed makers with the next one."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from fastlayer.running import bundles


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bundles._remove_dead.cache_clear()
    return tmp_path


def test_it_is_gone_afterwards(place: Path) -> None:
    with bundles.bundle() as path:
        assert Path(path).parent == place and os.listdir(path) == []
        assert os.stat(path).st_mode & 0o777 == 0o700
        (Path(path) / "rootfs").mkdir()
    assert os.listdir(place) == []
    with pytest.raises(ZeroDivisionError), bundles.bundle():
        raise ZeroDivisionError
    assert os.listdir(place) == []


def test_those_of_killed_makers_go(place: Path) -> None:
    code = (
        "import pathlib, time; from fastlayer.running import bundles\n"
        "with bundles.bundle() as path:\n"
        "    (pathlib.Path(path) / 'rootfs').mkdir(); print(path, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}
    ) as maker:
        assert maker.stdout is not None
        path = Path(maker.stdout.readline().strip())
        with bundles.bundle():
            assert path.is_dir(), "its maker is alive"
        maker.send_signal(signal.SIGKILL)
    assert path.is_dir()
    bundles._remove_dead.cache_clear()
    with bundles.bundle() as other:
        assert os.listdir(place) == [os.path.basename(other)]


def test_what_is_not_ours_stays(place: Path) -> None:
    (place / "fastlayer-run-file").write_text("")
    (place / "elsewhere").mkdir()
    (place / "elsewhere/file").write_text("")
    (place / "fastlayer-run-link").symlink_to(place / "elsewhere")
    (place / "fastlayer-run-locked").mkdir()
    fd = os.open(place / "fastlayer-run-locked", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.geteuid() == 0:
        (place / "fastlayer-run-other").mkdir()
        os.chown(place / "fastlayer-run-other", 1, 1)
    before = sorted(os.listdir(place))
    with bundles.bundle():
        pass
    os.close(fd)
    assert sorted(os.listdir(place)) == before and (place / "elsewhere/file").exists()
