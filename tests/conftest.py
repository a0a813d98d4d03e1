"""Shared fixtures. Every test that can runs on both backends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastlayer import _backend
from tests import namespace

# A shell that starts us in the background leaves SIGINT ignored, nohup(1) SIGHUP, and our children would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: devices, owners, trusted xattrs")


ENGINES = ("native", "baseline")


@pytest.fixture(scope="session", autouse=True)
def own_store() -> Iterator[None]:
    """Commands that name no store find none: not that of this machine."""
    with temporary_directory() as place, pytest.MonkeyPatch.context() as patch:
        place.chmod(0o755)
        patch.setenv("FASTLAYER_ROOT", str(place / "store"))
        patch.setenv("FASTLAYER_PULL", "never")  # images that are missing are looked for in no registry of the world
        yield


@pytest.fixture(scope="session", autouse=True)
def own_mounts() -> None:
    """Tests run side by side, and each process of them mounts for itself."""
    namespace.enter()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[_backend.Engine]:
    """Each backend in turn, also made the engine of the process."""
    yield from made_engine(request.param, monkeypatch)


def made_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_backend.Engine]:
    """The backend, the engine of the process until the test ends."""
    chosen = _backend._load(name)
    monkeypatch.setattr(_backend, "_chosen", chosen)
    yield chosen
    assert _backend.engine().name == name


def _temporary_root() -> str | None:
    """tmpfs when it is roomy and takes user xattrs (Linux 6.6), else wherever temporary files go."""
    shm = "/dev/shm"
    try:
        if shutil.disk_usage(shm).free < 2 << 30:
            return None
        with tempfile.NamedTemporaryFile(dir=shm) as probe:
            os.setxattr(probe.fileno(), "user.probe", b"1")
    except OSError:
        return None
    return shm


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Like pytest's, but removed by rm, which minds neither 1500 levels nor odd modes, and fast."""
    with temporary_directory() as path:
        yield path


@contextmanager
def temporary_directory() -> Iterator[Path]:
    place = os.environ.get("FASTLAYER_TEST_TMP") or _temporary_root()
    path = Path(tempfile.mkdtemp(prefix="fastlayer-test-", dir=place))
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--", path], check=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    """A tier that claims to test one build must not test another."""
    import fastlayer

    expected = os.environ.get("FASTLAYER_EXPECT_SOURCE")
    if expected and not str(fastlayer.__file__).startswith(expected):
        raise pytest.UsageError(f"fastlayer comes from {fastlayer.__file__}, not from below {expected}")


def require(*programs: str) -> None:
    """Skips a test whose outside program is missing; on CI a missing one is a failure."""
    missing = [name for name in programs if shutil.which(name) is None]
    if not missing:
        return
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(f"not installed: {', '.join(missing)}")
    pytest.skip(f"not installed: {', '.join(missing)}")
