"""The command: what it prints, where, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.outputs import made_in

COMMAND = [sys.executable, "-m", "fastlayer"]


def fastlayer(*words: str | Path | bytes, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [w if isinstance(w, bytes) else os.fsencode(w) for w in (*COMMAND, *words)]
    return subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, **(env or {})})


def good(*words: str | Path | bytes, env: dict[str, str] | None = None) -> bytes:
    done = fastlayer(*words, env=env)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def refused(*words: str | Path | bytes, code: int = 1) -> str:
    """A refusal is one line on stderr, nothing on stdout, no trace."""
    done = fastlayer(*words)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert done.stdout == b""
    assert text.startswith("fastlayer: ") and text.count("\n") == 1, text
    assert "Traceback" not in text and "internal error" not in text
    return text


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A small pair: one added, one changed, one deleted, a renamed directory."""
    a, b = tmp_path / "a", tmp_path / "b"
    for tree in (a, b):
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/same").write_text("same")
        os.utime(tree / "etc/same", (1, 1))
    (a / "etc/changed").write_text("old")
    (b / "etc/changed").write_text("newer")
    (a / "etc/gone").write_text("gone")
    (b / "etc-more").write_text("sorts between etc and etc/")
    (b / "new").mkdir()
    (b / "new/file").write_text("new")
    for tree in (a, b):
        os.utime(tree / "etc", (2, 2))
        os.utime(tree, (3, 3))
    return a, b


LINES = b"A /etc-more\nC /etc/changed\nD /etc/gone\nA /new\nA /new/file\n"


def test_lines_are_docker_letters_sorted_by_path(trees: tuple[Path, Path]) -> None:
    assert good("diff", *trees) == LINES


def test_name_only_and_null(trees: tuple[Path, Path]) -> None:
    names = [line[2:] for line in LINES.splitlines()]
    assert good("diff", "--name-only", *trees) == b"\n".join(names) + b"\n"
    assert good("diff", "--name-only", "-z", *trees) == b"\0".join(names) + b"\0"


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    b = tmp_path / "b"
    b.mkdir()
    os.utime(tmp_path / "a", (1, 1))
    for name in (b"two\nlines", b"raw\xff", "caf\u00e9".encode(), b"tab\t"):
        (b / os.fsdecode(name)).touch()
    os.utime(b, (1, 1))
    assert good("diff", tmp_path / "a", b).splitlines() == [
        "A /caf\u00e9".encode(),
        b'A "/raw\\377"',
        b'A "/tab\\t"',
        b'A "/two\\nlines"',
    ]
    assert good("diff", "-z", tmp_path / "a", b).split(b"\0")[:-1] == [
        "A /caf\u00e9".encode(),
        b"A /raw\xff",
        b"A /tab\t",
        b"A /two\nlines",
    ]
    objects = [json.loads(line) for line in good("diff", "--format", "json", tmp_path / "a", b).splitlines()]
    assert os.fsencode(objects[1]["path"]) == b"/raw\xff"


def test_json_says_what_changed(trees: tuple[Path, Path]) -> None:
    objects = [json.loads(line) for line in good("diff", "--format", "json", *trees).splitlines()]
    assert [(o["kind"], o["path"]) for o in objects] == [tuple(line.decode().split()) for line in LINES.splitlines()]
    changed = objects[1]
    assert changed["type"] == "file" and changed["schema"] == 1
    assert "content" in changed["what"] and "mtime" in changed["what"] and "mode" not in changed["what"]
    assert changed["size"] == 5 and changed["mode"] == "0644"
    assert "mode" not in objects[2]


def test_exit_code_is_like_git(trees: tuple[Path, Path]) -> None:
    a, b = trees
    assert fastlayer("diff", "--exit-code", a, a).returncode == 0
    done = fastlayer("diff", "--exit-code", a, b)
    assert (done.returncode, done.stdout) == (1, LINES)
    assert fastlayer("diff", "--exit-code", a, a / "missing").returncode == 2
    assert fastlayer("diff", "--exit-code", a).returncode == 2
    assert fastlayer("diff", "--exit-code", a, b, "-o", os.devnull).returncode == 1


def test_descriptor_names_the_bytes_written(trees: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix, media in (("tar", ""), ("tar.gz", "+gzip"), ("tgz", "+gzip"), ("tar.zst", "+zstd")):
        out = tmp_path / f"layer.{suffix}"
        value = json.loads(good("diff", *trees, "-o", out, "--format", "json"))
        assert value["digest"] == "sha256:" + hashlib.sha256(out.read_bytes()).hexdigest()
        assert value["size"] == out.stat().st_size
        assert value["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{media}"
    text = good("diff", *trees, "-o", tmp_path / "layer.tar").decode()
    assert value["diff_id"] in text and "media type" in text


def test_layer_to_stdout_keeps_words_off_it(trees: tuple[Path, Path], tmp_path: Path) -> None:
    good("diff", *trees, "-o", tmp_path / "layer.tar")
    done = fastlayer("diff", *trees, "-o", "-")
    assert done.stdout == (tmp_path / "layer.tar").read_bytes()
    assert b"diff_id" in done.stderr
    piped = subprocess.run([*COMMAND, "apply", "-", tmp_path / "out"], input=done.stdout, capture_output=True)
    assert piped.returncode == 0, piped.stderr
    assert (tmp_path / "out/new/file").read_text() == "new"


def test_stat(trees: tuple[Path, Path]) -> None:
    text = good("diff", "--stat", *trees).decode()
    rows = {line.split()[0]: line.split()[1:3] for line in text.splitlines()[:4]}
    assert rows == {"KIND": ["ENTRIES", "FILES"], "added": ["3", "2"], "changed": ["1", "1"], "deleted": ["1", "1"]}
    value = json.loads(good("diff", "--stat", "--format", "json", *trees))
    assert value["kinds"]["A"]["entries"] == 3


def test_source_date_epoch(trees: tuple[Path, Path], tmp_path: Path) -> None:
    by_option = good("diff", *trees, "-o", "-", "--source-date-epoch", "100")
    by_environment = good("diff", *trees, "-o", "-", env={"SOURCE_DATE_EPOCH": "100"})
    assert by_option == by_environment != good("diff", *trees, "-o", "-")
    for text in ("soon", "253402300800", "9" * 5000):
        done = fastlayer("diff", *trees, "-o", "-", env={"SOURCE_DATE_EPOCH": text})
        assert done.returncode == 2 and b"SOURCE_DATE_EPOCH" in done.stderr
    done = fastlayer("diff", *trees, "-o", "-", "--source-date-epoch", str(1 << 70))
    assert done.returncode == 2 and b"--source-date-epoch" in done.stderr


def test_stacks_by_plus_and_by_flags(trees: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = trees
    empty = tmp_path / "empty"
    empty.mkdir()
    good("diff", empty, a, "-o", tmp_path / "one.tar")
    good("diff", a, b, "-o", tmp_path / "two.tar.gz")
    assert good("diff", f"{tmp_path}/one.tar+{tmp_path}/two.tar.gz", b) == b""
    assert good("diff", "--from", tmp_path / "one.tar", "--from", tmp_path / "two.tar.gz", b) == b""
    assert good("diff", a, "--to", tmp_path / "one.tar", "--to", tmp_path / "two.tar.gz") == LINES


def test_index_as_an_operand(trees: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = trees
    good("index", a, "-o", tmp_path / "a.idx")
    assert good("diff", tmp_path / "a.idx", a) == b""
    assert good("diff", tmp_path / "a.idx", b) == LINES


def test_clone_copy_up_chunks(trees: tuple[Path, Path], tmp_path: Path) -> None:
    a, _ = trees
    assert b"entries" in good("clone", a, tmp_path / "copy")
    assert good("diff", a, tmp_path / "copy") == b""
    (tmp_path / "upper").mkdir()
    good("copy-up", a, tmp_path / "upper", "etc/changed")
    assert (tmp_path / "upper/etc/changed").read_text() == "old"
    (tmp_path / "data").write_bytes(os.urandom(300_000))
    lines = good("chunks", tmp_path / "data").splitlines()
    assert sum(int(line.split()[1]) for line in lines) == 300_000


@pytest.mark.parametrize("words", [["--version"], ["-V"], ["version"]])
def test_version(words: list[str]) -> None:
    from fastlayer import __version__

    assert good(*words).decode() == f"fastlayer {__version__}\n"


@pytest.mark.parametrize("verb", ["diff", "apply", "index", "clone", "copy-up", "chunks"])
def test_every_verb_has_help(verb: str) -> None:
    text = good(verb, "--help").decode()
    assert f"fastlayer {verb}" in text
    assert verb in good("--help").decode()


def test_usage_errors(trees: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = trees
    assert "verb" in refused("frobnicate", code=2)
    assert "--nonsense" in refused("diff", "--nonsense", a, b, code=2)
    assert "2 operands" in refused("diff", a, code=2)
    assert "--lower" in refused("diff", "--upper", a, code=2)
    assert "2 times for 1" in refused("apply", "--digest", "x", "--digest", "y", "l.tar", tmp_path / "t", code=2)
    assert "0:100000:65536" in refused("apply", "--uid-map", "zero", "l.tar", tmp_path / "t", code=2)


def test_bad_operands_are_one_line(trees: tuple[Path, Path], tmp_path: Path) -> None:
    a, _ = trees
    (tmp_path / "text").write_text("hello, I am not a layer" * 100)
    assert "missing" in refused("diff", a, tmp_path / "missing")
    assert "text" in refused("diff", a, tmp_path / "text")
    assert "text" in refused("apply", tmp_path / "text", tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert "text" in refused("index", tmp_path / "text", "-o", tmp_path / "i.idx")
    assert "two\\nlines" in refused("diff", a, tmp_path / "two\nlines")


def test_wrong_digests_expose_nothing(trees: tuple[Path, Path], tmp_path: Path) -> None:
    layer, target = tmp_path / "l.tar.gz", tmp_path / "target"
    good("diff", *trees, "-o", layer)
    wrong = "sha256:" + "0" * 64
    assert "digest" in refused("apply", "--digest", wrong, layer, target)
    assert "diff_id" in refused("apply", "--diff-id", wrong, layer, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "l.tar.gz"]


def test_output_in_a_missing_directory(trees: tuple[Path, Path], tmp_path: Path) -> None:
    assert "nowhere" in refused("diff", *trees, "-o", tmp_path / "nowhere/l.tar")


def test_a_closed_pipe_is_quiet(trees: tuple[Path, Path]) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} diff {trees[0]} {trees[1]} | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")


def test_unknown_backend_is_refused(trees: tuple[Path, Path]) -> None:
    done = fastlayer("diff", *trees, env={"FASTLAYER_BACKEND": "quick"})
    assert done.returncode == 1 and b"quick" in done.stderr and done.stderr.count(b"\n") == 1


def test_both_backends_print_the_same(trees: tuple[Path, Path]) -> None:
    for words in (["diff"], ["diff", "--format", "json"], ["diff", "-o", "-"], ["diff", "--stat"]):
        native = good(*words, *trees, env={"FASTLAYER_BACKEND": "native"})
        assert native == good(*words, *trees, env={"FASTLAYER_BACKEND": "baseline"}), words


def test_errors_of_the_debug_flag_show_a_trace(tmp_path: Path) -> None:
    done = fastlayer("-D", "diff", tmp_path, tmp_path / "missing")
    assert done.returncode == 1 and b"Traceback" in done.stderr


@pytest.mark.parametrize(
    "number,word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "terminated")]
)
def test_a_signal_stops_us_at_once_and_leaves_nothing(tmp_path: Path, number: int, word: str) -> None:
    """In the middle of a file that takes minutes: all hole."""
    (tmp_path / "tree").mkdir()
    with open(tmp_path / "tree/endless", "wb") as file:
        file.truncate(1 << 40)
    out = tmp_path / "out"
    out.mkdir()
    words = ["diff", tmp_path / "empty.tar", tmp_path / "tree", "-o", out / "l.tar.zst", "--level", "9"]
    (tmp_path / "empty.tar").write_bytes(bytes(1024))
    process = subprocess.Popen([*COMMAND, *map(str, words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while made_in(process, out) < 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made_in(process, out) >= 0, "the work never began"
    process.send_signal(number)
    assert process.communicate(timeout=60) == (b"", f"fastlayer: {word}\n".encode())
    assert process.returncode == 128 + number
    assert not list(out.iterdir())


def test_no_verb_shows_the_help_and_fails() -> None:
    for words in ((), ("-D",)):
        done = fastlayer(*words)
        assert done.returncode == 2 and done.stdout == b""
        assert b"Trees and layers:" in done.stderr and b"Management:" in done.stderr
        assert done.stderr.count(b"\n") > 5


def test_debug_shows_the_trace_and_keeps_the_exit_code(tmp_path: Path) -> None:
    done = fastlayer("-D", "diff", tmp_path, tmp_path / "nowhere", "--exit-code")
    assert done.returncode == 2
    assert b"Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith(b"fastlayer: ")


def test_numbers_that_fit_nowhere(trees: tuple[Path, Path], tmp_path: Path) -> None:
    huge = "9" * 23
    layer = tmp_path / "l.tar"
    assert "is no time" in refused("diff", *trees, "-o", layer, "--source-date-epoch", huge, code=2)
    good("diff", *trees, "-o", layer)
    for option in ("--max-size", "--max-entries", "--max-file-size", "--max-ratio", "--max-pax"):
        assert "is not a limit" in refused("apply", option, huge, layer, tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_signal_while_it_starts() -> None:
    """One line and the right code, also before the verb is known."""
    code = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "fastlayer.cli.commands":
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
from fastlayer.cli.main import main

sys.argv = ["fastlayer", "diff"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, b"fastlayer: terminated\n")


LOST = """
import os, signal, time, weakref
from fastlayer.cli import main

class Thing:
    pass

def work(args):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    try:
        del thing  # what a callback raises is printed and forgotten
        print("lost", flush=True)
        time.sleep(30)
    finally:
        time.sleep(0.5)  # longer than a reminder takes
        print("cleaned", flush=True)

main._run = work
main.main()
"""


def test_a_signal_that_the_interpreter_drops() -> None:
    """What its handler raises is raised again until it is seen, and not while that is being cleaned up after."""
    done = subprocess.run([sys.executable, "-c", LOST, "diff"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, b"lost\ncleaned\n")
    assert done.stderr == b"fastlayer: interrupted\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(trees: tuple[Path, Path], tmp_path: Path, closed: str) -> None:
    """The layer is what it always is; a result that cannot be printed is an error of one line, before any work."""
    good("diff", *trees, "-o", tmp_path / "wanted.tar")

    def run(words: list[str | Path]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *COMMAND, *words], capture_output=True, timeout=60)

    done = run(["diff", *trees, "-o", tmp_path / "found.tar"])
    if ">&-" in closed.replace("2>&-", ""):
        assert done.returncode == 1 and not (tmp_path / "found.tar").exists()
    else:
        assert done.returncode == 0
        assert (tmp_path / "found.tar").read_bytes() == (tmp_path / "wanted.tar").read_bytes()
    assert b"internal error" not in done.stderr and done.stderr.count(b"\n") <= 1
    done = run(["diff", tmp_path, tmp_path / "nowhere"])
    assert done.returncode == 1 and b"internal error" not in done.stderr
    if closed == "<&-":
        assert run(["apply", "-", tmp_path / "out"]).returncode == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_results_that_cannot_be_printed(trees: tuple[Path, Path], unbuffered: str) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    for words in (["--version"], ["--help"], ["diff", *trees]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, timeout=60, env=env)
        assert (done.returncode, done.stderr) == (1, b"fastlayer: No space left on device\n")


def test_shell_completion() -> None:
    """What the script of `_FASTLAYER_COMPLETE=bash_source fastlayer` calls on every tab."""
    words = {"COMP_WORDS": "fastlayer cl", "COMP_CWORD": "1", "_FASTLAYER_COMPLETE": "bash_complete"}
    assert good(env=words) == b"plain,clone\n"
    assert b"_fastlayer_completion" in good(env={"_FASTLAYER_COMPLETE": "zsh_source"})


# ---- options that mean something, or are refused ---------------------------------------------------


@pytest.mark.parametrize("words", [["--level", "3"], ["--compression", "gzip"], ["--source-date-epoch", "1"]])
def test_layer_options_without_a_layer(trees: tuple[Path, Path], words: list[str]) -> None:
    assert "give -o" in refused("diff", *words, *trees, code=2)


@pytest.mark.parametrize("word", ["--name-only", "-z"])
@pytest.mark.parametrize("other", [["-o", os.devnull], ["--stat"], ["--format", "json"]])
def test_listing_options_without_a_listing(trees: tuple[Path, Path], word: str, other: list[str]) -> None:
    assert "leave one out" in refused("diff", word, *other, *trees, code=2)


@pytest.mark.parametrize("extension", ["xz", "bz2", "lz4", "zip", "Z"])
def test_an_extension_of_another_compressor(trees: tuple[Path, Path], tmp_path: Path, extension: str) -> None:
    out = tmp_path / f"x.tar.{extension}"
    assert ".tar.zst" in refused("diff", *trees, "-o", out, code=2)
    assert not out.exists()
    good("diff", *trees, "-o", out, "--compression", "none")
    good("diff", *trees, "-o", tmp_path / "x.layer")


def test_debug_after_the_verb(tmp_path: Path) -> None:
    for words in (("diff", "-D", tmp_path, tmp_path / "no"), ("diff", tmp_path, tmp_path / "no", "--debug")):
        done = fastlayer(*words)
        assert done.returncode == 1 and b"Traceback" in done.stderr


@pytest.mark.parametrize("mode", ["auto", "plain", "tty", "rawjson", "quiet", "none"])
def test_progress_words(trees: tuple[Path, Path], mode: str) -> None:
    assert good("diff", "--progress", mode, *trees) == LINES


def test_limits_of_diff(trees: tuple[Path, Path], tmp_path: Path) -> None:
    good("diff", *trees, "-o", tmp_path / "l.tar")
    for option, value in (("--max-entries", "2"), ("--max-file-size", "1"), ("--max-size", "2")):
        assert "l.tar: " in refused("diff", option, value, tmp_path / "l.tar", trees[1])
    good("diff", "--max-ratio", "0", tmp_path / "l.tar", trees[1])


def test_stdin_as_an_operand(trees: tuple[Path, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    tar = good("diff", empty, trees[0], "-o", "-")
    done = subprocess.run([*COMMAND, "diff", "-", trees[1]], input=tar, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, LINES), done.stderr
    assert "only one" in refused("diff", "-", "-", code=2)
    assert "only one" in refused("diff", "--from", "-", "--from", "-", trees[1], code=2)


def test_index_to_stdout(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(good("index", trees[0], "-o", "-"))
    assert good("diff", tmp_path / "a.idx", trees[1]) == LINES


def test_messages_say_what_to_do(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, I am no layer" * 100)
    assert "is no layer: give" in refused("diff", tmp_path / "text", trees[0])
    assert "is no layer: give" in refused("apply", tmp_path / "text", tmp_path / "out")
    good("index", trees[0], "-o", tmp_path / "a.idx")
    assert "cannot be part of a stack: give" in refused("diff", f"{tmp_path}/a.idx+{tmp_path}/a.idx", trees[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_directories_are_named_with_their_side(trees: tuple[Path, Path]) -> None:
    os.chmod(trees[1] / "new", 0)
    try:
        assert f"{trees[1]}/new: " in refused("diff", *trees)
    finally:
        os.chmod(trees[1] / "new", 0o755)


def test_a_reader_that_goes_away_leaves_nothing(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """Standard error is a pipe that is closed while a layer comes in slowly: quiet, and the staging place is gone."""
    good("diff", *trees, "-o", tmp_path / "l.tar")
    place = tmp_path / "place"
    place.mkdir()
    read, write = os.pipe()
    command = [*COMMAND, "apply", "--progress", "rawjson", "-", place / "new"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=write)
    os.close(write)
    os.close(read)
    tar = (tmp_path / "l.tar").read_bytes()
    assert process.stdin is not None
    process.stdin.write(tar[:-1024])
    process.stdin.flush()
    deadline = time.monotonic() + 2
    while process.poll() is None and time.monotonic() < deadline:
        try:
            process.stdin.write(bytes(512))
            process.stdin.flush()
        except BrokenPipeError:
            break
        time.sleep(0.1)
    try:
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(timeout=60) == 141
    assert not list(place.iterdir())
