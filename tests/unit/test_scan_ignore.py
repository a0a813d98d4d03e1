"""Scans that leave out what patterns of a ``.dockerignore`` do: what ``ignore.Matcher`` says, and what is entered."""

from __future__ import annotations

import itertools
import os
import random
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from fastlayer import _backend
from fastlayer._baseline.scan import ENTRY
from fastlayer.builder.dockerfile.ignore import Matcher, program
from fastlayer.errors import DockerfileError, UsageError
from tests.conftest import needs_root
from tests.pairs import directory
from tests.unit.test_dockerignore import CASES, PATHS


def scanned(
    engine: _backend.Engine, root: Path, patterns: Iterable[str], batch: int = 4096, only: list[bytes] | None = None
) -> list[bytes]:
    found = []
    with directory(root) as fd:
        scanner = engine.scan.Scanner(fd, only=only, ignore=program(patterns))
        while (pair := scanner.next_batch(batch)) is not None:
            records, heap = pair
            assert len(records) <= batch * ENTRY.size
            for fields in struct.iter_unpack(ENTRY.format, records):
                found.append(heap[fields[5] : fields[5] + fields[14]])
        assert scanner.entries == len(found)
    assert found == sorted(found)
    return found


def wanted(root: Path, patterns: Iterable[str]) -> list[bytes]:
    """The root, what the matcher keeps, and the directories above it."""
    matcher, kept = Matcher(patterns), {b""}
    for parent, folders, files in os.walk(os.fsencode(root)):
        for name in folders + files:
            path = os.path.relpath(os.path.join(parent, name), os.fsencode(root))
            if not matcher.excludes(os.fsdecode(path)):
                kept |= {b"/".join(path.split(b"/")[:number]) for number in range(1, path.count(b"/") + 2)}
    return sorted(kept)


def make(root: Path, paths: Iterable[str | bytes]) -> Path:
    every = [os.fsencode(path) for path in paths]
    for path in every:
        whole = os.path.join(os.fsencode(root), path)
        if any(other.startswith(path + b"/") for other in every):
            os.makedirs(whole, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(whole), exist_ok=True)
            Path(os.fsdecode(whole)).touch()
    return root


@pytest.mark.parametrize(("patterns", "_digits"), CASES)
def test_the_cases_of_the_matcher(engine: _backend.Engine, tmp_path: Path, patterns: list[str], _digits: str) -> None:
    make(tmp_path, PATHS)
    assert scanned(engine, tmp_path, patterns) == wanted(tmp_path, patterns)


NAMES = ["a", "b", "ab", "a.b", "a-b", "a-", "é", "\udcff", "A", "[a]", "*", "\n", "日本", "\udce9a"]
PIECES = [
    "a", "b", "ab", ".", "-", "/", "/", "*", "**", "**/", "/**", "?", "[a-c]", "[^a]", "\\*", "\\[", "é", "[é-ë]",
    "\\\\", "[^/]", "日", "\udcff", "[\\]a]", "[\\d]", "[^\\w]", "\n", "[!a]", "[a^]",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_random_patterns_on_random_trees(engine: _backend.Engine, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    paths = ["/".join(rng.choice(NAMES) for _ in range(rng.randint(1, 4))) for _ in range(rng.choice((5, 30)))]
    files = [path for path in paths if not any(path.startswith(other + "/") for other in paths)]
    make(tmp_path, [path for path in files if not any(other.startswith(path + "/") for other in files)])
    for _ in range(25):
        patterns = [random_pattern(rng, paths) for _ in range(rng.randint(1, 5))]
        try:
            Matcher(patterns)
            program(patterns)
        except DockerfileError:
            continue
        assert scanned(engine, tmp_path, patterns, rng.choice((1, 2, 4096))) == wanted(tmp_path, patterns), patterns


def random_pattern(rng: random.Random, paths: list[str]) -> str:
    text = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 6)))
    if rng.random() < 0.5:
        parts = rng.choice(paths).split("/")
        parts = [rng.choice([part, part, "*", "**", part[:1] + "*"]) for part in parts]
        text = "/".join(parts[: rng.randint(1, len(parts))])
    return "!" * (rng.random() < 0.35) + text


def test_long_patterns_have_more_tokens_than_a_word_has_bits(engine: _backend.Engine, tmp_path: Path) -> None:
    make(tmp_path, ["d/" + "ab" * 60, "d/" + "ab" * 59 + "a", "d/" + "x" * 200])
    for patterns in (["*/" + "a?" * 60], ["**/*" + "?" * 100 + "*"], ["d", "!" + "d/" + "?b" * 40 + "*" * 1 + "b"]):
        assert scanned(engine, tmp_path, patterns) == wanted(tmp_path, patterns)


def test_many_stars_take_no_time(engine: _backend.Engine, tmp_path: Path) -> None:
    """A regular expression would not come back from these."""
    size = 200 if engine.name == "native" else 30  # the other one is slow, but no more than that
    make(tmp_path, ["a" * (size + 55), "/".join(["a"] * size)])
    for pattern in ("*a" * 60 + "b", "**/a/" * 60 + "b", "*" + "?*" * 60 + "b", "a**a" * 30 + "b"):
        assert len(scanned(engine, tmp_path, [pattern])) == size + 2


@pytest.mark.parametrize(
    ("patterns", "entered"),
    [
        (["a"], ["", "b", "b/x"]),
        (["*"], [""]),
        (["*", "!b/x"], ["", "b", "b/x"]),
        (["*", "!b"], ["", "b", "b/x"]),
        (["a", "!a/x/k"], ["", "a", "a/x", "b", "b/x"]),
        (["a", "!a/y"], ["", "a", "b", "b/x"]),
        (["!a/y", "a"], ["", "b", "b/x"]),  # what comes before cannot take back
        (["*", "!**/k"], ["", "a", "a/x", "b", "b/x"]),
        (["*", "!*/x"], ["", "a", "a/x", "b", "b/x"]),
        (["*", "!a*"], ["", "a", "a/x"]),
        (["a", "!aa/x"], ["", "b", "b/x"]),
    ],
)
def test_what_is_entered(engine: _backend.Engine, tmp_path: Path, patterns: list[str], entered: list[str]) -> None:
    """What is not entered may be closed to us."""
    make(tmp_path, ["a/x/k", "b/x/k"])
    closed = [folder for folder in ("a/x", "b/x", "a", "b") if folder not in entered]
    for folder in closed:
        (tmp_path / folder).chmod(0)
    if os.geteuid() == 0:
        scan_as_nobody(engine, tmp_path, patterns)
    else:
        scanned(engine, tmp_path, patterns)
    for folder in reversed(closed):
        (tmp_path / folder).chmod(0o755)


def scan_as_nobody(engine: _backend.Engine, root: Path, patterns: list[str]) -> None:
    """In a child without privileges, to whom a closed directory is closed."""
    os.chmod(root, 0o755)
    for parent, folders, _ in os.walk(root):
        for name in folders:
            os.chown(os.path.join(parent, name), 65534, 65534)
    with directory(root) as fd:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                scanner = engine.scan.Scanner(fd, ignore=program(patterns))
                while scanner.next_batch() is not None:
                    pass
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_order_is_kept_while_directories_wait(engine: _backend.Engine, tmp_path: Path) -> None:
    """``a`` is known to stay only after ``a-b``, which comes before ``a/x``."""
    make(tmp_path, ["a/x", "a-b/y", "a.c", "b/x"])
    patterns = ["*", "!a/x", "!a-b", "!a.c"]
    for batch in (1, 2, 100):
        assert scanned(engine, tmp_path, patterns, batch) == [b"", b"a", b"a-b", b"a-b/y", b"a.c", b"a/x"]


def test_only_named_paths(engine: _backend.Engine, tmp_path: Path) -> None:
    make(tmp_path, ["a/x/k", "a/y", "b/x/k", "b/z"])
    only = [b"", b"a/", b"b", b"b/x/"]
    assert scanned(engine, tmp_path, ["a/x", "b", "!b/x/k"], only=only) == [b"", b"a/y", b"b", b"b/x/k"]


def test_sockets_that_are_left_out_are_not_counted(engine: _backend.Engine, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as left, socket.socket(socket.AF_UNIX) as kept:
        left.bind(str(tmp_path / "left"))
        kept.bind(str(tmp_path / "d/kept"))
        with directory(tmp_path) as fd:
            scanner = engine.scan.Scanner(fd, ignore=program(["*", "!d/kept"]))
            assert scanner.next_batch()[0] and scanner.next_batch() is None
            assert (scanner.entries, scanner.skipped_sockets) == (1, 1)  # the root; nothing keeps `d`


def test_no_patterns_leave_nothing_out(engine: _backend.Engine, tmp_path: Path) -> None:
    make(tmp_path, ["a/b"])
    assert scanned(engine, tmp_path, []) == scanned(engine, tmp_path, ["  "]) == [b"", b"a", b"a/b"]


WORD = struct.Struct("=I")


@pytest.mark.parametrize(
    "words",
    [
        [],
        [1],
        [2, 0, 0],
        [1, 2, 0],
        [1, 0, 5],
        [1, 0, 1, 6 << 24],
        [1, 0, 1, 0x110000],
        [1, 0, 1, 2 << 24 | 1],
        [1, 0, 2, 2 << 24 | 1, 5],
        [0, 0],
        [2**32 - 1],
        [1, 0, 2**32 - 1],
    ],
)
def test_what_is_no_program(engine: _backend.Engine, tmp_path: Path, words: list[int]) -> None:
    with directory(tmp_path) as fd, pytest.raises(UsageError, match="program"):
        engine.scan.Scanner(fd, ignore=b"".join(map(WORD.pack, words)))
    with directory(tmp_path) as fd, pytest.raises(UsageError, match="program"):
        engine.scan.Scanner(fd, ignore=b"\0\0\0")


@pytest.mark.parametrize("pattern", ["!", "[a", "[b-a]", "*" * 9 + "a*b*c*d*[b-a]", "[\\q]"])
def test_what_means_nothing(pattern: str) -> None:
    with pytest.raises(DockerfileError, match="pattern"):
        program([pattern])


@needs_root
def test_random_programs_do_no_harm(tmp_path: Path) -> None:
    """What the compiler would never write is refused or matches something; the native engine survives it."""
    make(tmp_path, PATHS)
    rng = random.Random(3)
    native = _backend._load("native")
    base = list(itertools.chain.from_iterable(struct.iter_unpack("=I", program(["**/a*b[c-d]", "!x/**", "?"]))))
    with directory(tmp_path) as fd:
        for _ in range(3000):
            words = [
                word if rng.random() < 0.9 else rng.choice((0, 1, 2 << 24, 7, rng.getrandbits(32))) for word in base
            ]
            try:
                scanner = native.scan.Scanner(fd, ignore=b"".join(map(WORD.pack, words)))
            except UsageError:
                continue
            while scanner.next_batch() is not None:
                pass
