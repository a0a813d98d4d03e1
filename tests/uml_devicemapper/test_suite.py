"""The devicemapper driver passes the conformance suite, with ext4 and with xfs inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper
from fastlayer.drivers.devicemapper.options import Options
from fastlayer.testing import snapshotter_suite as suite
from tests.uml_devicemapper.conftest import EXT4, XFS, snapshotter_of

LONG = {suite.check_a_long_chain, suite.check_many_at_once, suite.check_names}  # the file system makes no difference
CASES = [
    *(pytest.param(check, EXT4, id=f"{suite.name_of(check)}-ext4") for check in suite.CHECKS),
    *(pytest.param(check, XFS, id=f"{suite.name_of(check)}-xfs") for check in suite.CHECKS if check not in LONG),
]


@pytest.mark.parametrize("check,options", CASES)
def test_conformance(check: Callable[[suite.Bench], None], options: Options, root: Path, scratch: Path) -> None:
    check(suite.Bench(snapshotter_of(DeviceMapper(root, options)), scratch))
