"""The lesson of tests/integration/test_lesson.py on thin devices."""

from __future__ import annotations

from pathlib import Path

from fastlayer.drivers.devicemapper import DeviceMapper
from tests.containers import Command
from tests.integration.test_lesson import lesson
from tests.uml_devicemapper.conftest import EXT4, environment


def test_the_lesson(tmp_path: Path) -> None:
    command = Command(tmp_path / "store", **environment(EXT4))
    try:
        lesson(command, tmp_path)
        assert (command.root / "devicemapper").is_dir() and not (command.root / "overlay2").exists()
    finally:
        DeviceMapper(command.root / "devicemapper").stop()
