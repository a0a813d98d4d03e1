"""``fastlayer context ls``."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from pathlib import Path

import pytest

from fastlayer.cli.main import run as command
from tests.unit.test_context_tree import put


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "root"
    put(found / "Dockerfile", "FROM scratch\n")
    put(found / "small/f", b"x" * 10)
    put(found / "big/f", b"x" * 2000)
    put(found / "big/d/g", b"x" * 1000)
    os.chmod(found / "big/f", 0o640)
    put(found / "left/out", b"x" * 500)
    put(found / ".dockerignore", "left\n")
    return found


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    code = command(["context", "ls", *words])
    out, err = capfd.readouterr()
    return code, [" ".join(line.split()) for line in out.splitlines()], err


def test_every_path(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "root")
    assert code == 0
    assert out[0] == "MODE SIZE PATH"
    assert [line.rpartition(" ")[2] for line in out[1:]] == [
        ".dockerignore",
        "Dockerfile",
        "big/",
        "big/d/",
        "big/d/g",
        "big/f",
        "small/",
        "small/f",
    ]
    assert "-rw-r----- 2 kB big/f" in out
    assert err == "8 entries, 3.03 kB; .dockerignore leaves out 2, 500 B\n"


def test_directories_with_sums(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capfd, "-d", "root")
    assert out[:3] == ["ENTRIES SIZE PATH", "4 3 kB big/", "1 13 B Dockerfile"]


def test_json(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capfd, "--format", "json", "root")
    rows = [json.loads(line) for line in out]
    assert rows[5] == {
        "schema": 1, "Path": "big/f", "Type": "file", "Mode": "-rw-r-----", "Entries": 1, "Size": "2 kB", "Bytes": 2000,
    }  # fmt: skip
    assert not err
    _, out, _ = run(capfd, "-s", "--format", "json", "root")
    (totals,) = map(json.loads, out)
    assert (totals["Bytes"], totals["Ignored"], totals["IgnoredBytes"], totals["IgnoreFile"]) == (
        3028, 2, 500, ".dockerignore",
    )  # fmt: skip
    assert run(capfd, "-s", "--format", "{{.Entries}} {{.Bytes}}", "root")[1] == ["8 3028"]


def test_no_dockerfile_is_needed_and_that_of_f_decides(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "Dockerfile").rename(root.parent / "D")
    assert len(run(capfd, "root")[1]) == 8
    put(root.parent / "D.dockerignore", "*\n!small")
    _, out, err = run(capfd, "-f", "D", "root")
    assert out[1:] == ["drwxr-xr-x small/", "-rw-r--r-- 10 B small/f"]
    assert "D.dockerignore leaves out" in err


def test_the_current_directory_is_the_default(
    root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root / "small")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        _, out, err = run(capfd)
    assert out[1:] == ["-rw-r--r-- 10 B f"] and err == "1 entry, 10 B\n"


def test_archives(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(root, ".")
    put(root.parent / "c.tgz", out.getvalue())
    assert run(capfd, "c.tgz")[1] == run(capfd, "root")[1]


def test_odd_names_do_not_steer_the_terminal(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    put(root / "a\x1b[31m\nb")
    put(Path(os.fsdecode(os.fsencode(root) + b"/\xff")))
    _, out, _ = run(capfd, "root")
    assert any(line.endswith("a\\x1b[31m\\nb") for line in out)
    _, out, _ = run(capfd, "--format", "json", "root")
    assert "\udcff" in [json.loads(line)["Path"] for line in out]


@pytest.mark.parametrize(
    "words", [("nothere",), ("-f", "nothere", "root"), ("-d", "-s", "root"), ("root/Dockerfile",), ("",)]
)
def test_bad_words(root: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    code, out, err = run(capfd, *words)
    assert code in (1, 2) and not out and err.startswith("fastlayer: ") and err.count("\n") == 1
