"""Signals while the extractor does what takes long: removing large trees, syncing files and directories."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.applying import directory, file, folder
from tests.conftest import require
from tests.corpus.tarparts import END
from tests.integration.command import Place, stop, stopped_code

FILES = 200_000


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    """SIGINT after so many seconds; it is heard at once, also on a busy machine."""
    heard = [0.0]
    timer = threading.Timer(
        after, lambda: (heard.__setitem__(0, time.monotonic()), os.kill(os.getpid(), signal.SIGINT))
    )
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        assert time.monotonic() - heard[0] < 20
    finally:
        timer.join()


def fill(path: Path, count: int) -> None:
    path.mkdir(parents=True)
    program = "import os,sys\nos.chdir(sys.argv[1])\nfor n in range(int(sys.argv[2])): os.mknod(f'f{n}')"
    subprocess.run(["python3", "-c", program, path, str(count)], check=True)


LONG = {
    "whiteout": (b"", file(b".wh.d")),
    "replacement": (b"", file(b"d", b"x")),
    "opaque": (b"", file(b"d/.wh..wh..opq")),
    "pruned": (file(b"d/new"), file(b".wh.d")),
}


@pytest.mark.parametrize("name", LONG)
def test_removing_a_large_tree_is_interrupted(engine: Any, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "d", FILES)
    before, long = LONG[name]
    with directory(tmp_path) as fd:
        extractor = engine.extract.Extractor(fd)
        extractor.begin_layer()
        extractor.feed(before)
        with interrupted(0.1):
            extractor.feed(long + END)
        extractor.abort()
    assert os.listdir(tmp_path / "d"), "too fast to be interrupted"


SLOW_SYNC = ("strace", "-D", "-f", "-qq", "-o/dev/null", "-etrace=fsync", "-einject=fsync:delay_enter=20000")


@pytest.mark.parametrize("entries", ["files", "directories"])
def test_slow_syncing_is_interrupted(tmp_path: Path, entries: str) -> None:
    """A thousand files are one piece of the stream; directories are all synced at the end."""
    require("strace")
    make = file if entries == "files" else folder
    place = Place(tmp_path)
    layer, target = place.base / "layer.tar", place.root / "target"
    layer.write_bytes(b"".join(make(b"%d" % number) for number in range(1000)) + END)
    target.mkdir()
    with place.started("apply", "--durability", "fsync", layer, target, before=SLOW_SYNC) as process:
        deadline = time.monotonic() + 20
        while not os.listdir(target) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        code, seconds, errors = stop(process, signal.SIGINT)
    assert code == stopped_code(signal.SIGINT), errors
    assert seconds < 15
