"""The devicemapper driver passes the conformance suite, with ext4 and with xfs inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayer.drivers.devicemapper import DeviceMapper
from fastlayer.drivers.devicemapper.options import Options
from fastlayer.testing import snapshotter_suite as suite
from tests.uml_devicemapper.conftest import EXT4, XFS, snapshotter_of

# With what the file system does itself; the rest is the pool's, and takes turns: the guest is slow.
ON_BOTH = {
    suite.check_a_duplicate_is_of_now,
    suite.check_a_fork_is_of_now_and_can_be_written,
    suite.check_a_parent_never_changes,
    suite.check_changes_are_exact,
    suite.check_layers_are_extracted,
    suite.check_usage_grows_with_what_is_written,
}
LONG = {suite.check_a_long_chain, suite.check_many_at_once}
CASES = [
    pytest.param(check, options, id=f"{suite.name_of(check)}-{name}")
    for number, check in enumerate(suite.CHECKS)
    for name, options, turn in (("ext4", EXT4, 0), ("xfs", XFS, 1))
    if check in ON_BOTH or (turn == 0 if check in LONG else turn == number % 2)
]


@pytest.mark.parametrize("check,options", CASES)
def test_conformance(check: Callable[[suite.Bench], None], options: Options, root: Path, scratch: Path) -> None:
    check(suite.Bench(snapshotter_of(DeviceMapper(root, options)), scratch))
