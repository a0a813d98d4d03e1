"""What COPY and ADD make of a target: rows, conflicts, and what of the lower tree they depend on."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayer.builder.copying.gather import Gathered
from fastlayer.builder.copying.rows import BATCH, Copying
from fastlayer.errors import DockerfileError
from tests.conftest import needs_root
from tests.copying import CREATED, all_rows, close_all, layer, planned
from tests.unit.test_copying_sources import make

TIME = 1_500_000_000 * 10**9


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A context."""
    root = make(tmp_path / "tree", "a", "b", "d/f", "d/sub/g", "e/sub/h", "l -> a")
    for name, mode in {"a": 0o640, "b": 0o755, "d": 0o750, "d/sub": 0o711, "d/f": 0o4755}.items():
        (root / name).chmod(mode)
    for directory, _, files in os.walk(root, topdown=False):
        for name in (*files, "."):
            os.utime(Path(directory) / name, ns=(TIME, TIME), follow_symlinks=False)
    return root


def rows(text: str, tree: Path, lower: Path | None, **options: object) -> dict[str, tuple[object, ...]]:
    """Path: kind, permissions, uid, gid, time."""
    _, copying = planned(text, tree, lower, tree.parent, **options)
    return {os.fsdecode(row[1]): (row[0], oct(row[2] & 0o7777), row[3], row[4], row[6]) for row in all_rows(copying)}


def refusal(text: str, tree: Path, lower: Path | None, **options: object) -> str:
    with pytest.raises(DockerfileError) as caught:
        rows(text, tree, lower, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- without anything below


@pytest.mark.parametrize("target", ["/x/y/", "/x/y/.", "x/y/", "/x/../x/y/", "../../x/y/"])
def test_missing_directories_are_made(tree: Path, target: str) -> None:
    assert rows(f"COPY a {target}", tree, None) == {
        "x": ("A", "0o755", 0, 0, CREATED),
        "x/y": ("A", "0o755", 0, 0, CREATED),
        "x/y/a": ("A", "0o640", 0, 0, TIME),
    }


def test_names_of_targets(tree: Path) -> None:
    for target, workdir, path in [
        ("x", "/", "x"),
        ("x", "/w", "w/x"),
        (".", "/w", "w/a"),
        ("./", "/w", "w/a"),
        ("/", "/w", "a"),
        ("..", "/w/v/", "w"),
        ("/../..", "/w", "a"),
        ("x/", "", "x/a"),
    ]:
        found = rows(f"COPY a {target}", tree, None, workdir=workdir)
        assert [path for path, row in found.items() if row[1] == "0o640"] == [path], target


def test_a_directory_gives_its_content_and_time(tree: Path) -> None:
    assert rows("COPY d /x/y", tree, None) == {
        "x": ("A", "0o755", 0, 0, CREATED),
        "x/y": ("A", "0o755", 0, 0, TIME),
        "x/y/f": ("A", "0o4755", 0, 0, TIME),
        "x/y/sub": ("A", "0o711", 0, 0, TIME),
        "x/y/sub/g": ("A", "0o644", 0, 0, TIME),
    }


def test_owner_and_mode(tree: Path) -> None:
    assert rows("COPY --chown=5:6 --chmod=u=rwX,go=rX d /x", tree, None) == {
        "x": ("A", "0o755", 5, 6, TIME),
        "x/f": ("A", "0o755", 5, 6, TIME),
        "x/sub": ("A", "0o755", 5, 6, TIME),
        "x/sub/g": ("A", "0o644", 5, 6, TIME),
    }
    assert rows("COPY --chmod=600 d /x", tree, None)["x/sub"][1] == "0o600"


@needs_root
def test_owners_of_stages_are_kept(tree: Path) -> None:
    os.chown(tree / "a", 7, 8)
    assert rows("COPY --from=s a /x", tree, None, keep_owner=True)["x"][2:4] == (7, 8)
    assert rows("COPY a /x", tree, None)["x"][2:4] == (0, 0)
    assert rows("COPY --from=s --chown=1 a /x", tree, None, keep_owner=True)["x"][2:4] == (1, 1)


@needs_root
def test_capabilities_and_other_attributes_are_kept(tree: Path) -> None:
    value = b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)
    os.setxattr(tree / "b", "security.capability", value)
    os.setxattr(tree / "d/sub", "user.mine", b"1")
    _, copying = planned("COPY b d /x/", tree, None, tree.parent)
    found = {row[1]: row[9] for row in all_rows(copying)}
    assert found[b"x/b"] == ((b"security.capability", value),)
    assert found[b"x/sub"] == ((b"user.mine", b"1"),)


def test_hard_links_stay_links(tree: Path) -> None:
    os.link(tree / "d/f", tree / "d/sub/again")
    os.link(tree / "d/f", tree / "e/third")
    _, copying = planned("COPY d e /x/", tree, None, tree.parent)
    found = {os.fsdecode(row[1]): row for row in all_rows(copying)}
    assert found["x/f"][13] == found["x/sub/again"][13] != 0
    assert found["x/f"][11] == found["x/sub/again"][11]  # the same source
    assert found["x/third"][13] not in (0, found["x/f"][13])
    assert found["x/sub/g"][13] == 0


def test_special_files(tree: Path) -> None:
    os.mkfifo(tree / "d/fifo", 0o604)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(tree / "d/socket"))
    _, copying = planned("COPY d /x", tree, None, tree.parent)
    found = {row[1]: row for row in all_rows(copying)}
    assert stat.S_ISFIFO(found[b"x/fifo"][2])
    assert b"x/socket" not in found
    assert copying.sockets == 1


def test_names_that_would_delete_are_refused(tree: Path) -> None:
    (tree / "d/.wh.x").write_text("")
    assert refusal("COPY d /x", tree, None) == (
        "/x/.wh.x: names that begin with .wh. mean deletions in a layer: rename it or exclude it"
    )
    assert "x/f" in rows("COPY --exclude=.wh.* d /x", tree, None)
    assert ".wh." in refusal("COPY a /.wh.q/a", tree, None)


def test_nothing_that_matches_is_no_layer(tree: Path) -> None:
    found, copying = planned("COPY no* /x/", tree, None, tree.parent)
    assert all_rows(copying) == []
    assert found.warnings == ["no*: matches nothing"]
    assert rows("COPY no* a /x/", tree, None).keys() == {"x", "x/a"}


def test_rows_come_in_batches(tmp_path: Path) -> None:
    tree = tmp_path / "many"
    for number in range(BATCH + 10):
        (tree / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (tree / str(number % 7) / str(number)).touch()
    _, copying = planned("COPY . /x", tree, None, tmp_path)
    sizes = [len(batch) for batch in copying.rows()]
    assert sizes == [BATCH, 10 + 7 + 1]


# ---- several sources


def test_several_files_need_a_directory(tree: Path) -> None:
    assert refusal("COPY a b /x", tree, None) == (
        "several files are copied to /x, which is no directory: end the target with a slash"
    )
    assert rows("COPY a b /x/", tree, None).keys() == {"x", "x/a", "x/b"}
    assert refusal("COPY ? /x", tree, None).startswith("several files")


def test_later_sources_win(tree: Path) -> None:
    (tree / "e/f").write_text("of e")
    (tree / "e/sub").chmod(0o700)
    found, copying = planned("COPY d e /x", tree, None, tree.parent)
    result = layer(copying, found.roots)
    assert result["x/f"][4] == b"of e"
    assert result["x/sub"][1] == 0o700
    assert result.keys() == {"x", "x/f", "x/sub", "x/sub/g", "x/sub/h"}


def test_sources_that_exclude_each_other(tree: Path) -> None:
    make(tree, "k1/thing/x", "k2/thing")
    assert (
        refusal("COPY k1 k2 /x", tree, None) == "cannot replace the directory /x/thing with /k2/thing, which is a file"
    )
    assert refusal("COPY k2 k1 /x", tree, None) == "cannot copy the directory /k1/thing to /x/thing, which is a file"
    assert refusal("COPY a d /x", tree, None) == "cannot copy a directory to /x, which is a file"


# ---- onto something


def test_directories_that_are_there_stay_as_they_are(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "x/y/a", "x/other/deep")
    (lower / "x").chmod(0o1710)
    os.utime(lower / "x", ns=(5, 5))
    os.utime(lower / "x/y", ns=(6, 6))
    owner = os.getuid(), os.getgid()
    assert rows("COPY a /x/y", tree, lower) == {
        "x": ("P", "0o1710", *owner, 5),
        "x/y": ("P", oct((lower / "x/y").stat().st_mode & 0o7777), *owner, 6),
        "x/y/a": ("A", "0o640", 0, 0, TIME),
    }


def test_a_directory_onto_a_directory(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "x/sub/old", "x/f", "x/unrelated/z")
    (lower / "x").chmod(0o700)
    (lower / "x/sub").chmod(0o700)
    found = rows("COPY d /x", tree, lower)
    assert found["x"][:2] == ("A", "0o700")
    assert found["x"][4] == TIME
    assert found["x/sub"][:4] == ("A", "0o711", 0, 0)
    assert found.keys() == {"x", "x/f", "x/sub", "x/sub/g"}


def test_attributes_of_both_directories(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "x/sub/old")
    os.setxattr(lower / "x/sub", "user.old", b"1")
    os.setxattr(lower / "x/sub", "user.both", b"1")
    os.setxattr(tree / "d/sub", "user.both", b"2")
    _, copying = planned("COPY d /x", tree, lower, tree.parent)
    found = {row[1]: row[9] for row in all_rows(copying)}
    assert found[b"x/sub"] == ((b"user.both", b"2"), (b"user.old", b"1"))


def test_links_in_the_target_are_followed_inside(tree: Path, tmp_path: Path) -> None:
    lower = make(
        tmp_path / "lower", "real/dir/", "in -> real", "abs -> /real/dir", "up -> ../../../real", "gone -> to/here"
    )
    for target, path in [
        ("/in/x", "real/x"),
        ("/in", "real/a"),
        ("/abs/", "real/dir/a"),
        ("/up/dir/../y", "real/y"),
        ("/gone", "to/here"),
        ("/gone/", "to/here/a"),
    ]:
        found = rows(f"COPY a {target}", tree, lower)
        assert [name for name, row in found.items() if row[0] == "A" and row[4] == TIME] == [path]


def test_a_link_where_a_file_goes_is_replaced(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "x/a -> ../victim", "victim")
    assert [name for name, row in rows("COPY a /x/", tree, lower).items() if row[0] == "A"] == ["x/a"]


@pytest.mark.parametrize(
    "text,message",
    [
        ("COPY a /file/x", "/file/x: /file is a file: nothing can be copied to below it"),
        ("COPY a /file/", "/file is a file, not a directory"),
        ("COPY d /file", "cannot copy a directory to /file, which is a file"),
        ("COPY e /dir", "cannot copy the directory /e/sub to /dir/sub, which is a symbolic link to elsewhere"),
        ("COPY a /clash/", "cannot replace the directory /clash/a with /a, which is a file"),
        ("COPY a /loop/x", "too many symbolic links"),
    ],
)
def test_conflicts(tree: Path, tmp_path: Path, text: str, message: str) -> None:
    lower = make(tmp_path / "lower", "file", "dir/sub -> elsewhere", "clash/a/x", "loop -> loop")
    assert message in refusal(text, tree, lower)


def test_implied_parents_keep_their_owner(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "x/d/sub/")
    (lower / "x/d").chmod(0o700)
    (lower / "x/d/sub").chmod(0o711)
    found = rows("COPY --parents --chown=5 d/sub/g /x", tree, lower)
    owner = os.getuid(), os.getgid()
    assert found["x/d"][:4] == ("A", "0o750", *owner)  # the mode of the source
    assert found["x/d/sub"][:4] == ("P", "0o711", *owner)
    assert found["x/d/sub/g"][:4] == ("A", "0o644", 5, 5)
    assert rows("COPY --parents --chown=5 d/sub/g /y", tree, lower)["y/d"][:4] == ("A", "0o750", 5, 5)


def test_many_files_onto_a_directory(tree: Path, tmp_path: Path) -> None:
    make(tree, *(f"many/{number}.txt" for number in range(40)))
    lower = make(tmp_path / "lower", "x/1.txt", "x/other/", "x/y/3.txt/z")
    assert len(rows("COPY many/*.txt /x/", tree, lower)) == 41
    assert len(rows("COPY many/*.txt /new/", tree, lower)) == 41
    assert refusal("COPY many/*.txt /x/y/", tree, lower) == (
        "cannot replace the directory /x/y/3.txt with /many/3.txt, which is a file"
    )
    assert "cannot replace" in refusal("COPY many /x/y", tree, lower)


def test_links_that_lead_to_links_without_end(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "deep/")
    for number in range(250):
        (lower / f"l{number}").symlink_to("deep/../" * 500 + f"l{number + 1}")
    assert "too many symbolic links" in refusal("COPY a /l0/x", tree, lower)
    assert rows("COPY a /l245/x", tree, lower)


# ---- --link


def test_link_looks_at_nothing_below(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "in -> real", "real/", "file")
    assert rows("COPY --link a /in/x", tree, lower) == rows("COPY a /in/x", tree, None)
    assert rows("COPY --link d /file", tree, lower) == rows("COPY d /file", tree, None)
    one, two = (planned("COPY --link d /in/x", tree, where, tree.parent)[1] for where in (lower, None))
    assert one.facts == two.facts


# ---- facts


def test_facts_are_few(tree: Path, tmp_path: Path) -> None:
    lower = make(tmp_path / "lower", "usr/bin/x", "etc/passwd")

    def facts(text: str) -> object:
        return planned(text, tree, lower, tree.parent)[1].facts

    before = facts("COPY d /new"), facts("COPY a /usr/bin/"), facts("COPY d /usr")
    make(lower, "other", "usr/lib/y", "etc/group")
    assert facts("COPY d /new") == before[0]
    make(lower, "usr/sub/")
    assert facts("COPY d /usr") != before[2]
    before = *before[:2], facts("COPY d /usr")
    (lower / "usr/f").write_text("is replaced")
    assert facts("COPY d /usr") != before[2]  # perhaps it is copied over, perhaps it is in the way
    (lower / "usr/bin").chmod(0o700)
    assert facts("COPY a /usr/bin/") != before[1]


def test_very_many_facts_are_one(tree: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    make(tree, *(f"many/{number}/f" for number in range(100)))
    make(lower, *(f"x/{number}/" for number in range(100)))
    before = planned("COPY many /x", tree, lower, tmp_path)[1].facts
    assert len(before) == 3
    assert planned("COPY many /x", tree, lower, tmp_path)[1].facts == before
    (lower / "x/77").chmod(0o700)
    assert planned("COPY many /x", tree, lower, tmp_path)[1].facts != before


NAMES = ["x", "sub", "f", "a"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["file", "dir", "link"])
MODES = st.sampled_from([0o755, 0o700])
LOWER = st.lists(st.tuples(PATHS, KINDS, MODES), max_size=5)
MORE = st.lists(st.tuples(PATHS, KINDS, st.just(0o755)), max_size=2)
TEXTS = [
    *("COPY a /x", "COPY a /x/", "COPY a /x/sub/", "COPY d /x", "COPY d /", "COPY d e /x", "COPY --parents d/sub /x"),
    *("COPY --exclude=f d /x/sub", "COPY --link d /x", "COPY a b /sub/f/"),
]


def build(root: Path, plan: list[tuple[str, str, int]]) -> Path:
    root.mkdir()
    for path, kind, mode in plan:
        place = root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "dir":
                place.mkdir(exist_ok=True)
                place.chmod(mode)
            elif not place.exists() and not place.is_symlink():
                place.symlink_to("sub") if kind == "link" else place.write_text("old")
        except (FileExistsError, NotADirectoryError, FileNotFoundError, OSError):
            continue
    for directory, _, _ in os.walk(root, topdown=False):
        os.utime(directory, ns=(TIME, TIME))
    return root


@settings(max_examples=100, deadline=None)
@given(one=LOWER, two=LOWER, extra=MORE)
def test_equal_facts_give_equal_layers(
    tmp_path_factory: pytest.TempPathFactory,
    one: list[tuple[str, str, int]],
    two: list[tuple[str, str, int]],
    extra: list[tuple[str, str, int]],
) -> None:
    work = tmp_path_factory.mktemp("facts")
    tree = make(work / "tree", "a", "b", "d/f", "d/sub/g", "e/sub/h")
    lowers = [build(work / str(number), plan) for number, plan in enumerate((one, two, [*one, *extra]))]
    for text in TEXTS:
        seen: dict[object, object] = {}
        for lower in lowers:
            try:
                found, copying = planned(text, tree, lower, work)
                facts: object = copying.facts
                outcome: object = outcome_of(found, copying)
            except DockerfileError:
                continue
            finally:
                close_all()
            assert seen.setdefault(facts, outcome) == outcome


def outcome_of(found: Gathered, copying: Copying) -> object:
    try:
        return layer(copying, found.roots), [row[:9] for row in all_rows(copying)]
    except DockerfileError as exc:
        return re.sub(r"is a .*", "is something", str(exc))
