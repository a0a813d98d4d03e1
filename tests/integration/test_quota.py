"""Size limits of writable layers by project quotas, where the kernel has them: on user-mode-linux, if not here."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from fastlayer.drivers import quota
from fastlayer.errors import DriverError, NoSpaceError
from fastlayer.mounts import table
from tests.conftest import needs_root
from tests.filesystems import loop_fs
from tests.integration import uml
from tests.snapshots import commit_layer, layer, mounted, snapshots

pytestmark = needs_root
MIB = 1 << 20
INSIDE = os.environ.get(uml.INSIDE) == "1"
_WITH = {"xfs": ((), "prjquota"), "ext4": (("-O", "quota,project,ea_inode"), "prjquota")}


@pytest.fixture(scope="module", params=["xfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    features, options = _WITH[request.param]
    try:
        with loop_fs(request.param, features=features, options=options) as where:
            yield where
    except RuntimeError:
        if INSIDE:
            raise
        pytest.skip("this kernel has no project quotas: see test_on_another_kernel")


@pytest.mark.skipif(INSIDE, reason="we are there")
@pytest.mark.timeout(1260)
def test_on_another_kernel() -> None:
    """These tests, and those of mounting, with what Linux 6.1 has."""
    tests = [__file__, *(f"tests/unit/{name}.py" for name in ("test_mounts", "test_overlay2"))]
    done = uml.on_uml(uml.pytest_command(*tests), timeout=1200)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def fill(path: Path, size: int) -> int:
    """Writes until the system refuses; returns the error."""
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(size // MIB):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno or 0
    return 0


def test_the_limit_arrives(disk: Path) -> None:
    with snapshots(disk) as found:
        commit_layer(found, "base", {"big": bytes(6 * MIB)})
        found.prepare("limited", "base", size=10 * MIB)
        found.prepare("other", "base", size=4 * MIB)
        found.prepare("free", "base")
        with mounted(found, "limited") as where:
            assert fill(where / "small", 3 * MIB) == 0
            assert fill(where / "file", 20 * MIB) in (errno.ENOSPC, errno.EDQUOT)
            (where / "file").unlink()
            assert fill(where / "again", 5 * MIB) == 0
            assert (where / "big").stat().st_size == 6 * MIB
        with mounted(found, "other") as where:  # what overlayfs copies up counts, too
            with pytest.raises(OSError) as caught, open(where / "big", "r+b") as file:
                file.write(b"x")
            assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
        with mounted(found, "free") as where:
            assert fill(where / "file", 20 * MIB) == 0
        for key in ("limited", "other", "free", "base"):
            found.remove(key)


def test_ours_are_refused_as_no_space(disk: Path) -> None:
    if any(entry.type == "ext4" for entry in table.entries() if entry.target == os.fsencode(disk)):
        pytest.skip("ext4 does not limit root")
    with snapshots(disk) as found:
        commit_layer(found, "base", {"big": os.urandom(6 * MIB)})
        found.prepare("work", "base", size=2 * MIB)
        number, parents = found.number("work")
        with pytest.raises(NoSpaceError):
            found.driver.copy_up(number, parents, [b"big"])
        with found.driver.layer_target(number, parents) as target:
            with pytest.raises(OSError) as caught:
                fastlayer.apply(layer({"more": os.urandom(6 * MIB)}), target.path, format=target.format)
            assert caught.value.errno in (errno.ENOSPC, errno.EDQUOT)
        for key in ("work", "base"):
            found.remove(key)


def test_a_committed_one_has_no_limit_and_numbers_are_free_again(disk: Path) -> None:
    with snapshots(disk) as found:
        found.prepare("work", size=8 * MIB)
        diff = found.driver.root / str(found.number("work")[0]) / "diff"
        project = quota.project(diff)
        assert project == quota.project(diff.parent / "work") != 0
        with mounted(found, "work") as where:
            assert fill(where / "file", 5 * MIB) == 0
        assert 5 * MIB <= quota.used(diff, project) < 6 * MIB
        found.commit("done", "work")
        assert quota._quota(diff, project)[0] == 0
        found.prepare("next", "done", size=MIB)
        next_project = quota.project(found.driver.root / str(found.number("next")[0]) / "diff")
        assert next_project not in (0, project)
        for key in ("next", "done"):
            found.remove(key)
        for number in (project, next_project):
            assert quota._quota(disk, number)[:2] == (0, 0)
            end = time.monotonic() + 30
            while quota.used(disk, number) and time.monotonic() < end:  # XFS frees in the background
                os.sync()
                time.sleep(0.1)
            assert quota.used(disk, number) == 0


def test_without_quotas_there_is_a_remedy() -> None:
    for kind in ("xfs", "ext4"):
        with loop_fs(kind) as where, snapshots(where) as found:
            with pytest.raises(DriverError, match="mounted with -o prjquota, or leave the size out"):
                found.prepare("work", size=MIB)
            assert found.driver.numbers() == set()


def test_accounting_alone_is_no_limit() -> None:
    refused = pytest.raises(DriverError, match="mounted with -o prjquota")
    try:
        with loop_fs("xfs", options="pqnoenforce") as where, snapshots(where) as found, refused:
            found.prepare("work", size=MIB)
    except RuntimeError:
        pytest.skip("this kernel has no project quotas: see test_on_another_kernel")
