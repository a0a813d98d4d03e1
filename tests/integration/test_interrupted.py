"""Signals in the middle of a job: SIGINT and SIGTERM clean up, SIGKILL leaves nothing under the final name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastlayer
from tests.conftest import temporary_directory
from tests.integration.command import Place, stop, stopped_code, wait_for
from tests.outputs import has_nameless_files, made_in

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
MANY = 20_000
AT_ONCE = 20.0  # seconds, on a busy machine; the endless job takes minutes


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def endless(place: Place) -> Path:
    """A tree with a file of 1 TiB, all hole: reading it takes minutes, keeping it nothing."""
    tree = place.root / "endless"
    tree.mkdir()
    with open(tree / "file", "wb") as file:
        file.truncate(1 << 40)
    return tree


@pytest.fixture(scope="module")
def many() -> Iterator[Path]:
    """A tree of many small files."""
    with temporary_directory() as place:
        for number in range(MANY):
            folder = place / f"tree/{number // 500:03}"
            if number % 500 == 0:
                folder.mkdir(parents=True)
            (folder / f"file{number}").write_bytes(b"%d" % number)
        yield place / "tree"


def litter(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if "fastlayer" in name]


def at_work_on(process: subprocess.Popen[bytes], file: Path) -> bool:
    """Whether it has the file open."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if os.readlink(link) == str(file):
                return True
    return False


def check_stopped(place: Place, process: subprocess.Popen[bytes], number: int, final: Path) -> None:
    check_end(place, stop(process, number), number, final)


def check_end(place: Place, end: tuple[int, float, str], number: int, final: Path) -> None:
    """It ended at once; nothing has the final name; only a kill may leave a temporary one."""
    code, seconds, errors = end
    assert code == stopped_code(number), errors
    assert not os.path.lexists(final)
    if number == signal.SIGKILL:
        return
    assert seconds < AT_ONCE
    assert errors == f"fastlayer: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"
    assert litter(final.parent) == os.listdir(place.tmp) == os.listdir(place.cwd) == []


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst"])
def test_diff_stopped_while_writing(place: Place, endless: Path, codec: str, number: int) -> None:
    final = place.root / f"out.{codec}"
    with place.started("diff", place.cwd, endless, "-o", final) as process:
        wait_for(lambda: made_in(process, place.root) > 0)
        check_stopped(place, process, number, final)
    assert not (has_nameless_files(place.root) and litter(place.root)), "also of one that was killed"


@pytest.mark.parametrize("number", SIGNALS)
def test_diff_stopped_while_comparing(place: Place, endless: Path, number: int) -> None:
    other, final = place.root / "other", place.root / "out.tar"
    subprocess.run(["cp", "-a", endless, other], check=True)
    with place.started("diff", endless, other, "--compare", "content", "-o", final) as process:
        wait_for(lambda: at_work_on(process, endless / "file"))
        check_stopped(place, process, number, final)


def test_an_output_that_was_there_stays(place: Place, endless: Path) -> None:
    final = place.root / "out.tar.zst"
    final.write_text("precious")
    for number in SIGNALS:
        with place.started("diff", place.cwd, endless, "-o", final) as process:
            wait_for(lambda: made_in(process, place.root) >= 0)
            stop(process, number)
        assert final.read_text() == "precious"
    assert len(litter(place.root)) == (0 if has_nameless_files(place.root) else 1)  # of the kill


@pytest.mark.parametrize("number", SIGNALS)
def test_index_stopped(place: Place, endless: Path, number: int) -> None:
    final = place.root / "out.idx"
    with place.started("index", endless, "-o", final) as process:
        wait_for(lambda: at_work_on(process, endless / "file"))
        check_stopped(place, process, number, final)


def stopped(process: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ"


def caught(place: Place, number: int, final: Path, *words: str | Path, again: int = 0) -> None:
    """Signals a job that has begun to write to final and, held still meanwhile, is seen not to have ended.

    ``again``: so many more signals follow, a few milliseconds apart.
    """
    for _ in range(5):
        with place.started(*words, final) as process:
            wait_for(lambda: litter(place.root) or process.poll() is not None)
            process.send_signal(signal.SIGSTOP)
            wait_for(lambda: process.poll() is not None or stopped(process))
            if not os.path.lexists(final):
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)
                for count in range(again):
                    threading.Timer(count * 0.007, process.send_signal, [number]).start()
                code, seconds, errors = stop(process, number)
                if code or not os.path.lexists(final):  # else it was about to be renamed when it was told
                    check_end(place, (code, seconds, errors), number, final)
                    return
            process.send_signal(signal.SIGCONT)
            process.wait(60)
        subprocess.run(["rm", "-rf", final], check=True)
    pytest.fail("always done before it could be stopped")


@pytest.mark.parametrize("number", SIGNALS)
def test_clone_stopped(place: Place, many: Path, number: int) -> None:
    final = place.root / "copy"
    caught(place, number, final, "clone", many)
    place.good("clone", many, final)


@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst"])
def test_diff_stopped_at_the_slowest_level(place: Place, codec: str) -> None:
    (place.root / "tree").mkdir()
    (place.root / "tree/text").write_bytes(b"".join(b"%x\n" % (i * 2654435761 % (1 << 32)) for i in range(6_000_000)))
    final = place.root / f"out.{codec}"
    level = "9" if codec == "tar.gz" else "19"
    with place.started("diff", place.cwd, place.root / "tree", "-o", final, "--level", level) as process:
        wait_for(lambda: made_in(process, place.root) >= 0)
        time.sleep(0.5)
        check_stopped(place, process, signal.SIGINT, final)


def half_fed(process: subprocess.Popen[bytes], layer: Path) -> None:
    """Half of the layer on stdin, which stays open: the command waits for more."""
    assert process.stdin is not None
    data = layer.read_bytes()
    process.stdin.write(data[: len(data) // 2])
    process.stdin.flush()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("codec", ["tar", "tar.gz"])
def test_apply_stopped_while_waiting_for_more(place: Place, many: Path, codec: str, number: int) -> None:
    layer, final = place.base / f"layer.{codec}", place.root / "target"
    fastlayer.diff(None, many, layer)
    with place.started("apply", "-", final, stdin=subprocess.PIPE) as process:
        half_fed(process, layer)
        wait_for(lambda: litter(place.root))
        time.sleep(0.2)
        writer = process.stdin
        process.stdin = None  # kept open by us: communicate would close it
        check_stopped(place, process, number, final)
        assert writer is not None
        writer.close()
    place.good("apply", layer, final)


@pytest.mark.parametrize("number", SIGNALS)
def test_apply_stopped_while_extracting(place: Place, many: Path, number: int) -> None:
    layer, final = place.base / "layer.tar", place.root / "target"
    fastlayer.diff(None, many, layer)
    caught(place, number, final, "apply", layer, layer, layer, layer)
    place.good("apply", layer, final)


@pytest.mark.parametrize("number", SIGNALS)
def test_apply_onto_a_tree_stopped(place: Place, many: Path, number: int) -> None:
    """What was applied so far stays; applying again completes it."""
    layer, target = place.base / "layer.tar", place.root / "target"
    target.mkdir()
    fastlayer.diff(None, many, layer)
    with place.started("apply", *[layer] * 6, target) as process:
        wait_for(lambda: os.listdir(target))
        code, seconds, errors = stop(process, number)
    assert code == stopped_code(number), errors
    assert seconds < AT_ONCE
    assert litter(place.root) == os.listdir(place.tmp) == os.listdir(place.cwd) == []
    place.good("apply", layer, target)
    assert place.good("diff", many, target) == b""


def test_a_second_interrupt_does_not_stop_the_cleaning(place: Place, many: Path) -> None:
    caught(place, signal.SIGINT, place.root / "copy", "clone", many, again=15)
