"""Bad input, through the command: one clear line, the right exit code, nothing else touched, nothing half-done left."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

import fastlayer
from tests.conftest import needs_root
from tests.integration.command import COMMAND, Place, few_files, only_line
from tests.trees import assert_same_tree, snapshot

pytestmark = needs_root

CORPUS = Path(__file__).parents[1] / "corpus/tar"
CODECS = ("tar", "tar.gz", "tar.zst")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def trees(place: Place) -> tuple[Path, Path]:
    """A: a small tree. B: the same and 3 MiB that do not compress."""
    a, b = place.root / "a", place.root / "b"
    (a / "etc").mkdir(parents=True)
    (a / "etc/passwd").write_text("root")
    shutil.copytree(a, b, symlinks=True)
    for number in range(12):
        (b / f"data{number}").write_bytes(os.urandom(256 << 10))
    return a, b


def make_layer(place: Place, trees: tuple[Path, Path], codec: str = "tar") -> Path:
    path = place.root / f"layer.{codec}"
    fastlayer.diff(*trees, path)
    return path


@contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@contextmanager
def read_only(where: Path) -> Iterator[None]:
    """where, bind-mounted on itself, read-only."""
    subprocess.run(["mount", "--bind", where, where], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", where], check=True)
        yield
    finally:
        subprocess.run(["umount", where], check=True)


# ---- the place where the result goes -----------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_full_disk_diff(place: Place, trees: tuple[Path, Path], codec: str) -> None:
    with tmpfs(place.root / "disk", "size=1m") as disk:
        (disk / f"old.{codec}").write_text("was here")
        for name in ("new", "old"):
            line = place.refused("diff", *trees, "-o", disk / f"{name}.{codec}")
            assert "No space left" in line and f"{name}.{codec}" in line


def test_full_disk_apply_clone_copy_up(place: Place, trees: tuple[Path, Path]) -> None:
    layer = make_layer(place, trees)
    with tmpfs(place.root / "disk", "size=1m") as disk:
        (disk / "upper").mkdir()
        for words in (
            ("apply", layer, disk / "new"),
            ("clone", trees[1], disk / "copy"),
        ):
            line = place.refused(*words)
            assert "No space left" in line and "data" in line
        assert "No space left" in place.refused("apply", layer, disk / "upper", changes=disk / "upper")
        subprocess.run(["rm", "-rf", disk / "upper"], check=True)
        (disk / "upper").mkdir()
        (trees[1] / "large").write_bytes(os.urandom(2 << 20))
        assert "No space left" in place.refused("copy-up", trees[1], disk / "upper", "large")


def test_no_inode_left(place: Place, trees: tuple[Path, Path]) -> None:
    layer = make_layer(place, trees)
    with tmpfs(place.root / "disk", "size=30m,nr_inodes=8") as disk:
        assert "No space left" in place.refused("apply", layer, disk / "new")
        assert "No space left" in place.refused("clone", trees[1], disk / "copy")


def test_full_disk_index(place: Place) -> None:
    tree = place.root / "many"
    tree.mkdir()
    for number in range(3000):
        (tree / f"file{number}").touch()
    with tmpfs(place.root / "disk", "size=64k") as disk:
        assert "No space left" in place.refused("index", tree, "-o", disk / "x.idx")


def test_full_spool(place: Place, trees: tuple[Path, Path]) -> None:
    """A compressed stack as operand B is spooled below TMPDIR."""
    layer = make_layer(place, trees, "tar.gz")
    with tmpfs(place.root / "disk", "size=1m") as disk:
        words = ("--from", layer, "--to", layer, "--to", layer)
        environment = {"TMPDIR": str(disk)}
        done = place.run("diff", *words, "-o", place.root / "out.tar", env=environment)
        if done.returncode:
            place.refused("diff", *words, "-o", place.root / "out.tar", env=environment)
        assert os.listdir(disk) == []


def test_full_stdout(place: Place, trees: tuple[Path, Path]) -> None:
    with open("/dev/full", "wb") as full:
        for words in (
            ("diff", *trees),
            ("diff", *trees, "-o", "-"),
            ("diff", *trees, "--stat"),
            ("chunks", trees[1] / "data0"),
        ):
            done = place.run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert "No space left" in only_line(done, 1)
    assert "No space left" in place.refused("diff", *trees, "-o", "/dev/full")


def test_read_only_target(place: Place, trees: tuple[Path, Path]) -> None:
    layer = make_layer(place, trees)
    shelf = place.root / "shelf"
    (shelf / "tree").mkdir(parents=True)
    (shelf / "tree/file").write_text("x")
    with read_only(shelf):
        for words in (
            ("diff", *trees, "-o", shelf / "out.tar"),
            ("apply", layer, shelf / "new"),
            ("apply", layer, shelf / "tree"),
            ("clone", trees[1], shelf / "copy"),
            ("index", trees[1], "-o", shelf / "out.idx"),
            ("copy-up", trees[1], shelf / "tree", "data0"),
        ):
            assert "Read-only file system" in place.refused(*words)
        place.good("diff", shelf / "tree", trees[1])
        place.good("clone", shelf / "tree", place.root / "copy")


def test_places_that_are_not_there(place: Place, trees: tuple[Path, Path]) -> None:
    layer, missing = make_layer(place, trees), place.root / "missing"
    for words in (
        ("diff", *trees, "-o", missing / "out.tar"),
        ("diff", *trees, "-o", place.root),
        ("diff", *trees, "-o", layer / "out.tar"),
        ("apply", layer, missing / "new"),
        ("apply", layer, layer),
        ("apply", layer, layer / "new"),
        ("clone", trees[0], missing / "copy"),
        ("clone", trees[0], trees[1]),
        ("clone", trees[0], layer),
        ("index", trees[0], "-o", missing / "x.idx"),
        ("index", trees[0], "-o", trees[0]),
    ):
        place.refused(*words)


# ---- operands ----------------------------------------------------------------------------------


def test_empty_names(place: Place, trees: tuple[Path, Path]) -> None:
    """What an unset variable of a script becomes is not the current directory."""
    layer = make_layer(place, trees)
    for words in (("apply", layer, ""), ("diff", "", trees[0]), ("diff", *trees, "-o", ""), ("clone", trees[0], "")):
        assert "it is empty" in place.refused(*words, code=2)


def test_operands_that_are_no_trees(place: Place, trees: tuple[Path, Path]) -> None:
    layer, missing, text = make_layer(place, trees), place.root / "missing", place.root / "text"
    text.write_bytes(b"not a tar at all\n" * 100)
    for words in (
        ("diff", trees[0], missing),
        ("diff", missing, trees[0]),
        ("diff", trees[0], text),
        ("apply", missing, place.root / "new"),
        ("apply", trees[0], place.root / "new"),
        ("apply", text, place.root / "new"),
        ("clone", text, place.root / "new"),
        ("clone", missing, place.root / "new"),
        ("index", text, "-o", place.root / "new"),
        ("index", missing, "-o", place.root / "new"),
        ("copy-up", trees[0], trees[1], "missing"),
        ("copy-up", trees[0], trees[1], "../a"),
        ("chunks", missing),
        ("chunks", trees[0]),
        ("diff", "--upper", missing, "--lower", trees[0]),
        ("diff", "--upper", trees[0], "--lower", f"{trees[1]}:{missing}"),
    ):
        place.refused(*words)
    assert "missing" in place.refused("diff", trees[0], missing)
    place.refused("diff", "--exit-code", trees[0], missing, code=2)
    assert layer.exists()


def test_wrong_usage(place: Place, trees: tuple[Path, Path]) -> None:
    for words in (
        ("diff",),
        ("diff", trees[0]),
        ("diff", *trees, "--frobnicate"),
        ("diff", *trees, "--compare", "guess"),
        ("diff", *trees, "-o", "x.tar", "--level", "99"),
        ("frobnicate",),
        ("apply", "one"),
        ("apply", "-", "-", place.root / "new"),
        ("clone", trees[0]),
        ("index", trees[0]),
        ("apply", "--uid-map", "x", "l", "d"),
        ("diff", "--upper", trees[0]),
    ):
        place.refused(*words, code=2)


WITHOUT_RIGHTS = {
    "nobody": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
    "root without capabilities": ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
}


@pytest.fixture(params=WITHOUT_RIGHTS)
def lowly(request: pytest.FixtureRequest, place: Place) -> tuple[str, ...]:
    """The words that run the command as somebody who may not read what belongs to user 1234."""
    words = WITHOUT_RIGHTS[request.param]
    if place.run("--version", before=words).returncode:
        pytest.skip(f"{sys.executable} or the checkout may not be read by {request.param}")
    place.root.chmod(0o777)
    place.cwd.chmod(0o777)
    return words


def closed(path: Path) -> None:
    path.chmod(0)
    os.chown(path, 1234, 1234)


@pytest.mark.parametrize("what", ["root", "directory", "file"])
def test_unreadable_tree(place: Place, trees: tuple[Path, Path], lowly: tuple[str, ...], what: str) -> None:
    a, b = trees
    closed({"root": b, "directory": b / "etc", "file": b / "data3"}[what])
    name = {"root": str(b), "directory": "etc", "file": "data3"}[what]
    for words in (
        ("diff", a, b, "-o", place.root / "out.tar"),
        ("clone", b, place.root / "copy"),
        ("index", b, "-o", place.root / "out.idx"),
    ):
        line = place.refused(*words, before=lowly)
        assert "Permission denied" in line and name in line
    if what != "file":
        assert "Permission denied" in place.refused("diff", a, b, before=lowly)


def test_unreadable_files(place: Place, trees: tuple[Path, Path], lowly: tuple[str, ...]) -> None:
    layer = make_layer(place, trees)
    closed(layer)
    for words in (("apply", layer, place.root / "new"), ("diff", trees[0], layer), ("chunks", layer)):
        line = place.refused(*words, before=lowly)
        assert "Permission denied" in line and "layer.tar" in line


def test_unwritable_places(place: Place, trees: tuple[Path, Path], lowly: tuple[str, ...]) -> None:
    layer, shelf = make_layer(place, trees), place.root / "shelf"
    (shelf / "tree").mkdir(parents=True)
    for path in (shelf / "tree", shelf):
        os.chown(path, 1234, 1234)
    for words in (
        ("diff", *trees, "-o", shelf / "out.tar"),
        ("apply", layer, shelf / "new"),
        ("apply", layer, shelf / "tree"),
        ("clone", trees[0], shelf / "copy"),
        ("index", trees[0], "-o", shelf / "out.idx"),
    ):
        line = place.refused(*words, before=lowly)
        assert "Permission denied" in line or "not permitted" in line  # the latter: owner of an existing root


def test_owners_that_may_not_be_given(place: Place, trees: tuple[Path, Path], lowly: tuple[str, ...]) -> None:
    os.chown(trees[1] / "data0", 1000, 1000)
    layer, new = make_layer(place, trees), place.root / "new"
    line = place.refused("apply", layer, new, before=lowly)
    assert "not permitted" in line
    place.good("apply", "--ignore-chown", layer, new, before=lowly)
    assert (new / "data0").read_bytes() == (trees[1] / "data0").read_bytes()


@pytest.mark.parametrize("backend", ["native", "baseline"])
def test_devices_that_may_not_be_made(place: Place, lowly: tuple[str, ...], backend: str) -> None:
    layer, new, env = place.root / "devices.tar", place.root / "new", {"FASTLAYER_BACKEND": backend}
    os.makedirs(place.root / "from/dev")
    os.mknod(place.root / "from/dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (place.root / "from/file").write_bytes(b"x")
    (place.root / "nothing").mkdir()
    place.good("diff", place.root / "nothing", place.root / "from", "-o", layer)
    line = place.refused("apply", "--ignore-chown", layer, new, before=lowly, env=env)
    assert "dev/null: mknod: Operation not permitted: run as root, or leave devices out (`--skip-devices`)" in line
    done = place.run("apply", "--ignore-chown", "--skip-devices", layer, new, before=lowly, env=env)
    assert done.returncode == 0
    said = done.stderr if isinstance(done.stderr, str) else done.stderr.decode()
    assert said == "fastlayer: warning: 1 devices not made: Operation not permitted (first: dev/null)\n"
    assert sorted(path.name for path in new.rglob("*")) == ["dev", "file"]


def test_permissions_that_would_stop_their_own_writer(place: Place, lowly: tuple[str, ...]) -> None:
    """Root without CAP_DAC_OVERRIDE is as an ordinary user: he works in what a layer closes, until its end."""
    tree, layer, new = place.root / "closed", place.root / "closed.tar", place.root / "new"
    (tree / "dir" / "sub").mkdir(parents=True)
    for path in (tree / "file", tree / "dir" / "file", tree / "dir" / "sub" / "file"):
        path.write_bytes(b"content")
    for path in (*sorted(tree.rglob("*"), reverse=True), tree):
        os.setxattr(path, "user.kept", b"value")
        path.chmod(0o500 if path.is_dir() else 0o400)
    (place.root / "nothing").mkdir()
    place.good("diff", place.root / "nothing", tree, "-o", layer)
    for backend in ("native", "baseline"):
        for _ in ("once", "again"):  # the second time, all of it stands in the way
            place.good("apply", "--ignore-chown", layer, new, before=lowly, env={"FASTLAYER_BACKEND": backend})
            assert_same_tree(tree, new, ignore={"uid", "gid"})
        shutil.rmtree(new)


# ---- damaged layers ----------------------------------------------------------------------------


def damaged(data: bytes) -> dict[str, bytes]:
    """Cuts and flipped bits that every codec must notice."""
    size, middle = len(data), len(data) // 2
    found = {f"cut-{at}": data[:at] for at in (5, 11, 100, 700, size // 3, middle, size - 1300, size - 9)}
    for at in (3, middle, size - 6):
        found[f"flip-{at}"] = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_layers(place: Place, trees: tuple[Path, Path], codec: str) -> None:
    data = make_layer(place, trees, codec).read_bytes()
    existing = place.root / "existing"
    existing.mkdir()
    for name, cut in damaged(data).items():
        if codec == "tar" and (name.startswith("flip") or name == f"cut-{len(data) - 9}"):
            continue  # a plain tar has no checksum of its contents, and its end may be short
        path = place.root / f"{name}.{codec}"
        path.write_bytes(cut)
        for words in (("apply", path, place.root / "new"), ("diff", trees[0], path), ("diff", path, trees[1])):
            line = place.refused(*words)
            assert path.name in line, line
        place.refused("apply", path, existing, changes=existing)


@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst"])
def test_what_follows_a_compressed_layer(place: Place, trees: tuple[Path, Path], codec: str) -> None:
    """Padding with zeros is skipped (gzip), anything else is no layer."""
    path = make_layer(place, trees, codec)
    data = path.read_bytes()
    path.write_bytes(data + b"trailing garbage")
    place.refused("apply", path, place.root / "new")


@pytest.mark.parametrize(("magic", "name"), [(b"LZIP", "lzip"), (b"\x04\x22\x4d\x18", "lz4"), (b"PK\x03\x04", "zip")])
def test_codecs_we_do_not_read_are_named(place: Place, trees: tuple[Path, Path], magic: bytes, name: str) -> None:
    path = place.root / "layer.tar.other"
    path.write_bytes(magic + make_layer(place, trees).read_bytes())
    for words in (("apply", path, place.root / "new"), ("diff", trees[0], path)):
        assert name in place.refused(*words)


def test_wrong_digests(place: Place, trees: tuple[Path, Path]) -> None:
    wrong = "sha256:" + "0" * 64
    for codec in CODECS:
        layer = make_layer(place, trees, codec)
        for option in ("--digest", "--diff-id"):
            assert "0000" in place.refused("apply", option, wrong, layer, place.root / "new")
    for bad in ("sha256:abc", "md5:" + "0" * 32, "0" * 64, ""):
        place.refused("apply", "--digest", bad, layer, place.root / "new", code=2)
    place.refused("apply", "--digest", wrong, "--digest", wrong, layer, place.root / "new", code=2)


# ---- hostile layers ----------------------------------------------------------------------------


def many(check: Callable[[Path], str], paths: list[Path]) -> None:
    with ThreadPoolExecutor(3) as pool:
        wrong = [f"{path.name}: {text}" for path, text in zip(paths, pool.map(check, paths), strict=True) if text]
    assert not wrong, "\n".join(wrong)


def one_line(done: subprocess.CompletedProcess[bytes]) -> str:
    try:
        only_line(done, 1)
    except AssertionError as exc:
        return str(exc)
    return ""


def test_every_malformed_tar_is_refused(place: Place) -> None:
    def check(path: Path) -> str:
        return one_line(place.run("apply", path, place.root / path.name))

    before = place.picture()
    many(check, sorted((CORPUS / "refuse").iterdir()))
    assert place.picture() == before


def test_malformed_tars_as_operands(place: Place) -> None:
    (place.root / "a").mkdir()

    def check(path: Path) -> str:
        return one_line(place.run("diff", place.root / "a", path, "-o", place.root / f"{path.name}.out"))

    before = place.picture()
    many(check, sorted((CORPUS / "refuse").iterdir())[::4])
    assert place.picture() == before


def test_odd_but_whole_tars_are_applied(place: Place) -> None:
    def check(path: Path) -> str:
        """Well formed, but some name what is not there, or what no file system takes."""
        done = place.run("apply", path, place.root / path.name)
        return one_line(done) if done.returncode else ""

    many(check, sorted((CORPUS / "accept").iterdir()))
    assert os.listdir(place.cwd) == os.listdir(place.tmp) == []


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info


SYMLINK, HARD, DIRECTORY = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
HOSTILE = {
    "dotdot": [member("../outside/new")],
    "dotdot-inside": [member("d/../../outside/new")],
    "absolute": [member("/outside/new")],
    "through-a-link": [member("l", SYMLINK, "../outside"), member("l/new")],
    "through-an-absolute-link": [member("l", SYMLINK, "OUTSIDE"), member("l/new"), member("l/file")],
    "through-two-links": [member("k", SYMLINK, ".."), member("l", SYMLINK, "k/outside"), member("l/new")],
    "directory-over-a-link": [member("l", SYMLINK, "OUTSIDE"), member("l/", DIRECTORY), member("l/.", DIRECTORY)],
    "hard-link-outside": [member("h", HARD, "../outside/file"), member("h")],
    "hard-link-absolute": [member("h", HARD, "OUTSIDE/file"), member("h")],
    "hard-link-to-a-link": [member("l", SYMLINK, "OUTSIDE/file"), member("h", HARD, "l"), member("h")],
    "whiteout-outside": [member("../outside/.wh.file")],
    "whiteout-through-a-link": [member("l", SYMLINK, "OUTSIDE"), member("l/.wh.file"), member("l/.wh..wh..opq")],
    "whiteout-dot": [member("d/.wh..")],
    "whiteout-dotdot": [member("d/.wh...")],
    "whiteout-nothing": [member("d/.wh.")],
    "root-is-a-link": [member(".", SYMLINK, "OUTSIDE"), member("new")],
    "loop": [member("x", SYMLINK, "y"), member("y", SYMLINK, "x"), member("x/new")],
    "name-too-long": [member("n" * 256)],
    "hard-link-missing": [member("h", HARD, "nothing")],
}


@pytest.mark.parametrize("fast", ["1", "0"], ids=["openat2", "fallback"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_layers_stay_inside(place: Place, name: str, fast: str) -> None:
    outside, layer, target = place.root / "outside", place.root / "layer.tar", place.root / "target"
    outside.mkdir()
    (outside / "file").write_text("precious")
    target.mkdir()
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
        for info in HOSTILE[name]:
            tar.addfile(_placed(info, outside))
    before = place.picture(target)
    done = place.run("apply", layer, target, env={} if fast == "1" else {"FASTLAYER_NO_OPENAT2": "1"})
    if done.returncode:
        only_line(done, 1)
    assert place.picture(target) == before


def _placed(info: tarfile.TarInfo, outside: Path) -> tarfile.TarInfo:
    placed = tarfile.TarInfo(info.name)
    placed.type, placed.mode = info.type, info.mode
    placed.linkname = info.linkname.replace("OUTSIDE", str(outside))
    return placed


# ---- what a layer may cost ---------------------------------------------------------------------

MEMBER = 16 << 20


def bomb(path: Path, codec: str, name: str, size: int) -> Path:
    """A layer whose only entry is ``size`` zeros, as many small compressed members."""
    info = tarfile.TarInfo(name)
    info.size = size
    pack = (lambda data: gzip.compress(data, 9)) if codec == "tar.gz" else zstandard.ZstdCompressor(3).compress
    with open(path, "wb") as file:
        file.write(pack(info.tobuf(tarfile.PAX_FORMAT)))
        piece = pack(bytes(MEMBER))
        for _ in range(size // MEMBER):
            file.write(piece)
        file.write(pack(bytes(1024)))
    return path


@pytest.mark.parametrize("codec", ["tar.gz", "tar.zst"])
@pytest.mark.parametrize("name", ["file", "d/.wh.x"], ids=["file", "skipped"])
def test_bombs_are_refused(tmp_path_factory: pytest.TempPathFactory, codec: str, name: str) -> None:
    """By the ratio of bytes out to bytes in, once 1 GiB is passed; in little memory. Not on tmpfs: that is memory."""
    place = Place(tmp_path_factory.mktemp("bomb"))
    layer = bomb(place.root / f"bomb.{codec}", codec, name, 8 << 30)
    before = place.picture()
    process = subprocess.Popen(
        [*COMMAND, "apply", layer, place.root / "new"], cwd=place.cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    text = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    line = only_line(subprocess.CompletedProcess([], process.returncode, b"", text), 1)
    assert "max_ratio" in line
    assert usage.ru_maxrss < 256 << 10, f"{usage.ru_maxrss} KiB"
    assert place.picture() == before


def test_limits_of_layers(place: Place, trees: tuple[Path, Path]) -> None:
    layer, new = make_layer(place, trees), place.root / "new"
    for option, value in (("--max-entries", 3), ("--max-size", 1 << 20), ("--max-file-size", 1000)):
        assert f"more than {value}" in place.refused("apply", option, str(value), layer, new)


# ---- the process's surroundings ----------------------------------------------------------------

LEVELS = 1500


def go_deep(top: Path, levels: int) -> Path:
    """So many levels with a file at the end; 700 are longer than PATH_MAX."""
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("level", dir_fd=fd)
        inner = os.open("level", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    return top


def count(tree: Path) -> int:
    out = subprocess.run(["find", tree, "-printf", "."], capture_output=True, check=True).stdout
    return len(out)


@pytest.mark.parametrize("backend,levels", [("native", LEVELS), ("baseline", 700)])
def test_all_verbs_go_deep_with_few_descriptors(place: Place, backend: str, levels: int) -> None:
    deep = go_deep(place.root / "deep", levels)
    empty, layer, base = place.root / "empty", place.root / "layer.tar.gz", place.root / "base.tar"
    empty.mkdir()

    def go(*words: str | Path) -> bytes:
        return place.good(*words, preexec_fn=few_files, env={"FASTLAYER_BACKEND": backend})

    whole = levels + 2
    assert go("diff", empty, deep).count(b"\n") >= levels
    go("diff", empty, deep, "-o", layer)
    if backend == "native":
        go("apply", layer, place.root / "applied")
        go("clone", deep, place.root / "cloned")
        assert count(place.root / "cloned") == whole
    else:  # which takes seconds for each
        place.good("apply", layer, place.root / "applied")
    assert count(place.root / "applied") == whole
    go("index", deep, "-o", place.root / "deep.idx")
    assert go("diff", place.root / "deep.idx", deep) == b""
    assert go("diff", layer, deep, "--compare", "content") in (b"", b"C /\n")
    go("diff", deep, empty, "-o", base)
    go("apply", base, place.root / "applied")
    assert count(place.root / "applied") == 1
    go("copy-up", deep, empty, "/".join(["level"] * 300))
    assert count(empty) == 301


def test_a_deep_tree_refused_at_its_end_goes_whole(place: Place) -> None:
    deep = go_deep(place.root / "deep", LEVELS)
    layer = place.root / "layer.tar"
    place.good("diff", place.cwd, deep, "-o", layer)
    data = layer.read_bytes()
    layer.write_bytes(data[:-1100])
    before = count(place.root)
    only_line(place.run("apply", layer, place.root / "new", preexec_fn=few_files), 1)
    assert count(place.root) == before


@pytest.mark.parametrize("mask", [0o077, 0o000, 0o777])
def test_the_umask_does_not_show(place: Place, mask: int) -> None:
    layer = place.root / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(member("implied/d/", DIRECTORY))
        tar.addfile(member("implied/file"))
        tar.addfile(member("other/l", SYMLINK, "x"))

    def go(*words: str | Path) -> None:
        place.good(*words, preexec_fn=lambda: os.umask(mask) and None)

    go("apply", layer, place.root / "new")
    modes = {path: oct(seen.mode) for path, seen in snapshot(str(place.root / "new")).items() if path != b"other/l"}
    assert modes == {
        b"": "0o755", b"implied": "0o755", b"implied/d": "0o777", b"implied/file": "0o777", b"other": "0o755"
    }  # fmt: skip
    go("clone", place.root / "new", place.root / "copy")
    assert_same_tree(str(place.root / "copy"), str(place.root / "new"))
    place.good("diff", place.root / "copy", place.root / "new", "--exit-code")


ODD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": "C", "TERM": "dumb", "COLUMNS": "10"}


def test_names_in_a_locale_that_knows_only_ascii(place: Place) -> None:
    a, b = place.root / "a", place.root / "b"
    for tree in (a, b):
        tree.mkdir()
    for name in (b"caf\xc3\xa9", b"\xff\xfe", b"snow \xe2\x98\x83", b"new\nline"):
        path = os.fsencode(b) + b"/" + name
        with open(path, "wb") as file:
            file.write(name)
        os.setxattr(path, "user.\u00e9", b"v")
    usual = place.good("diff", a, b)
    assert place.good("diff", a, b, env=ODD) == usual
    for words in (("--format", "json"), ("--stat",), ("--name-only", "-z")):
        assert place.good("diff", a, b, *words, env=ODD) == place.good("diff", a, b, *words)
    place.good("diff", a, b, "-o", place.root / "l.tar", env=ODD)
    place.good("diff", a, b, "-o", place.root / "m.tar")
    assert (place.root / "l.tar").read_bytes() == (place.root / "m.tar").read_bytes()
    place.good("apply", place.root / "l.tar", place.root / "\u00e9", env=ODD)
    assert_same_tree(str(place.root / "\u00e9"), str(b))
    assert "\\" in place.refused("diff", a, b"missing\xff\xc3\xa9\n", env=ODD)


def test_a_working_directory_that_is_gone(place: Place, trees: tuple[Path, Path]) -> None:
    script = f'cd {place.root} && mkdir gone && cd gone && rmdir ../gone && exec "$@"'

    def go(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["bash", "-c", script, "-", *COMMAND, *words], capture_output=True, timeout=60)

    layer = place.root / "l.tar"
    for words in (("diff", *trees), ("diff", *trees, "-o", layer), ("apply", layer, place.root / "new")):
        done = go(*words)
        assert done.returncode == 0, done.stderr.decode()
    only_line(go("diff", "relative", trees[0]), 1)
    only_line(go("apply", layer, "relative"), 1)


def test_closed_standard_streams(place: Place, trees: tuple[Path, Path]) -> None:
    layer = place.root / "l.tar"
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "-", *COMMAND, "diff", *trees, "-o", layer], cwd=place.cwd, timeout=60
    )
    if done.returncode == 0:
        place.good("apply", layer, place.root / "new")
        assert_same_tree(str(place.root / "new"), str(trees[1]), ignore=("mtime_ns", "mode"))
    else:
        assert done.returncode < 126 and not layer.exists()


def test_stdin_that_is_no_layer(place: Place) -> None:
    for data in (b"x", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"plain text\n" * 1000):
        done = place.run("apply", "-", place.root / "new", input=data)
        only_line(done, 1)
        assert not (place.root / "new").exists()
