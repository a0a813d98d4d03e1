"""Which files the sources of COPY and ADD name, and the key of what they are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastlayer.builder.context.tree import ContextTree, DirectoryTree
from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.match import has_wildcards, matcher, unescaped
from fastlayer.builder.copying.sources import Selection, explain_unmatched, select
from fastlayer.builder.copying.trees import Tree, clean, resolve
from fastlayer.errors import DockerfileError

Open = Callable[[Path], Tree]
KINDS: dict[str, Callable[[int], Tree]] = {"folder": Folder, "context": ContextTree, "directory": DirectoryTree}


@pytest.fixture(params=KINDS)
def open_tree(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Every kind of tree gives the same."""
    opened: list[int] = []

    def open_one(path: Path) -> Tree:
        opened.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return KINDS[request.param](opened[-1])

    yield open_one
    for fd in opened:
        os.close(fd)


def make(root: Path, *names: str) -> Path:
    """Files, each holding its name; ``->`` makes a link, a slash at the end a directory."""
    for name in names:
        path, _, target = name.partition(" -> ")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if target:
            (root / path).symlink_to(target)
        elif path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_text(path)
    return root


def paths(selection: Selection) -> list[str]:
    """What is copied, by the path it has below the target, when that is a directory."""
    found = []
    for pick in selection.picks:
        if pick.is_directory:
            found += [os.fsdecode(one.relative) + "?" * one.implied for one in selection.below(pick)]
        else:
            found.append(os.fsdecode(pick.name))
    return found


# ---- wildcards (the cases of Go's path/filepath match_test.go)

MATCHES = [
    ("abc", "abc", True),
    ("*", "abc", True),
    ("*c", "abc", True),
    ("a*", "a", True),
    ("a*", "abc", True),
    ("a*b*c*d*e*", "axbxcxdxe", True),
    ("a*b*c*d*e*", "axbxcxdxexxx", True),
    ("a*b?c*x", "abxbbxdbxebxczzx", True),
    ("a*b?c*x", "abxbbxdbxebxczzy", False),
    ("ab[c]", "abc", True),
    ("ab[b-d]", "abc", True),
    ("ab[e-g]", "abc", False),
    ("ab[^c]", "abc", False),
    ("ab[^b-d]", "abc", False),
    ("ab[^e-g]", "abc", True),
    ("a\\*b", "a*b", True),
    ("a\\*b", "ab", False),
    ("a?b", "a☺b", True),
    ("a[^a]b", "a☺b", True),
    ("a???b", "a☺b", False),
    ("[a-ζ]*", "α", True),
    ("*[a-ζ]", "A", False),
    ("[\\]a]", "]", True),
    ("[\\-]", "-", True),
    ("[x\\-]", "x", True),
    ("[x\\-]", "z", False),
    ("[\\-x]", "-", True),
    ("*x", "xxx", True),
    ("arr[[]0].txt", "arr[0].txt", True),
    ("*a*a*a", "aaa", True),
    ("*a*a*a", "aa", False),
    ("?", "", False),
    ("*?", "", False),
    ("", "", True),
]


@pytest.mark.parametrize("pattern,name,expected", MATCHES)
def test_wildcards_are_those_of_go(pattern: str, name: str, expected: bool) -> None:
    assert matcher(pattern)(name) is expected


@pytest.mark.parametrize("pattern", ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "[a-b-c]", "\\"])
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(repr(pattern))):
        matcher(pattern)


def test_many_stars_take_no_time() -> None:
    assert not matcher("a*" * 60 + "b")("a" * 20_000)


def test_escapes() -> None:
    assert not has_wildcards(r"a\*b\[\?")
    assert has_wildcards(r"a\\*")
    assert unescaped(r"a\*b\\") == "a*b\\"


# ---- paths


def test_paths_stay_in_the_root() -> None:
    assert clean(b"../../a/./b//../c/") == b"a/c"
    links = {b"up": b"../../../x", b"abs": b"/y/z", b"y": b"real", b"loop": b"loop"}
    assert resolve(b"up/f", links.get) == b"x/f"
    assert resolve(b"abs/f", links.get) == b"real/z/f"
    assert resolve(b"a/b/../../..", links.get) == b""
    with pytest.raises(DockerfileError, match="too many symbolic links"):
        resolve(b"loop", links.get)


# ---- sources


@pytest.mark.parametrize("source", ["a", "/a", "./a", "../a", "d/../a", "d/../../a"])
def test_names_begin_at_the_root(tmp_path: Path, open_tree: Open, source: str) -> None:
    assert paths(select(open_tree(make(tmp_path, "a", "d/")), [source])) == ["a"]


def test_the_content_of_a_directory(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "d/x", "d/sub/y", "d/sub-z", "other"))
    for source in ("d", "d/", "/d/.", "./d//"):
        assert paths(select(tree, [source])) == ["sub", "sub-z", "sub/y", "x"]
    assert paths(select(tree, ["."])) == ["d", "d/sub", "d/sub-z", "d/sub/y", "d/x", "other"]


def test_wildcards_in_every_component(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "a1/x.c", "a1/y.h", "a2/z.c", "b/x.c", "a3", "al -> b"))
    assert paths(select(tree, ["a*/*.c"])) == ["x.c", "z.c"]
    assert paths(select(tree, ["*/x.c"])) == ["x.c", "x.c"]
    assert paths(select(tree, ["?1"])) == ["x.c", "y.h"]
    assert [pick.path for pick in select(tree, ["al", "al/*"]).picks] == [b"b", b"b/x.c"]
    assert [pick.path for pick in select(tree, ["a[l]"]).picks] == [b"b"]


def test_special_names(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "arr[0].txt", "a*b", "sp ace", "ünï", "back\\slash", "q?"))
    for source, name in [
        ("arr[[]0].txt", "arr[0].txt"),
        (r"arr\[0].txt", "arr[0].txt"),
        (r"a\*b", "a*b"),
        ("sp ace", "sp ace"),
        ("ünï", "ünï"),
        (r"back\slash", "back\\slash"),
        (r"back\\slash", "back\\slash"),
        (r"q\?", "q?"),
    ]:
        assert paths(select(tree, [source])) == [name], source


def test_a_name_that_is_not_utf8(tmp_path: Path, open_tree: Open) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))).write_text("x")
    assert paths(select(open_tree(tmp_path), ["f?"])) == [os.fsdecode(b"f\xff")]
    assert paths(select(open_tree(tmp_path), [b"f\xff".decode("utf-8", "surrogateescape")])) == [os.fsdecode(b"f\xff")]


def test_links_are_followed_inside(tmp_path: Path, open_tree: Open) -> None:
    outside = make(tmp_path / "outside", "secret")
    root = make(tmp_path / "root", "d/f", "in -> d", "abs -> /d/f", "up -> ../../../../d/f", "d/keep -> f")
    (root / "out").symlink_to(outside)
    tree = open_tree(root)
    assert paths(select(tree, ["in"])) == ["f", "keep"]
    assert [(p.name, p.path) for p in select(tree, ["abs", "up", "in/f"]).picks] == [
        (b"abs", b"d/f"),
        (b"up", b"d/f"),
        (b"f", b"d/f"),
    ]
    for source in ("out", "out/secret", "out/*"):
        if source == "out/*":
            assert select(tree, [source]).unmatched == ("out/*",)
        else:
            with pytest.raises(DockerfileError):
                select(tree, [source])


# ---- what is not there


def test_a_missing_source_says_what_is_near(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "requirements.txt", "d/module.py", "file", "gone -> nowhere", "loop -> loop"))
    cases = {
        "requirement.txt": "requirement.txt: not found: did you mean requirements.txt?",
        "d/modul.py": "d/modul.py: not found: did you mean module.py?",
        "no/such/thing": "no/such/thing: not found: there is no directory /no/such",
        "file/x": "file/x: not found: /file is not a directory",
        "gone": "gone: not found: it is a link to nowhere, and nothing is there",
        "loop": "too many symbolic links",
    }
    for source, message in cases.items():
        with pytest.raises(DockerfileError, match=re.escape(message)):
            select(tree, [source])


def test_a_source_that_the_ignore_file_hides(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "a"))
    with pytest.raises(DockerfileError, match=r"not found: \.dockerignore leaves it out"):
        select(tree, ["secret"], hidden=lambda path: path == "secret")
    selection = select(tree, ["*.key", "a"], hidden=lambda path: path.endswith(".key"))
    assert (selection.unmatched, paths(selection)) == (("*.key",), ["a"])
    assert explain_unmatched(selection, "*.key", lambda path: path == ".key").endswith(".dockerignore leaves it out")


def test_wildcards_may_match_nothing(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "package.json"))
    selection = select(tree, ["package.json", "yarn.lock*"])
    assert (paths(selection), selection.unmatched) == (["package.json"], ("yarn.lock*",))
    assert "did you mean package.json" in explain_unmatched(selection, "pakage.json*")


def test_a_name_that_looks_like_a_pattern(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "app/[id]/page.tsx"))
    selection = select(tree, ["app/[id]/page.tsx"])
    assert selection.unmatched == ("app/[id]/page.tsx",)
    assert "escape its *, ? and [ with a backslash" in explain_unmatched(selection, "app/[id]/page.tsx")
    assert paths(select(tree, [r"app/\[id]/*.tsx"])) == ["page.tsx"]
    assert paths(select(tree, [r"app/\[id]/page.tsx"])) == paths(select(tree, ["app/[[]id]/*"])) == ["page.tsx"]


# ---- --exclude


def test_exclude(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "a.md", "b.txt", "d/c.md", "d/e.txt", "d/deep/f.md", "homer.txt", "home.md"))
    assert paths(select(tree, ["."], exclude=["*.md"])) == [
        *("b.txt", "d", "d/c.md", "d/deep", "d/deep/f.md", "d/e.txt", "homer.txt"),
    ]
    assert "d/c.md" not in paths(select(tree, ["."], exclude=["**/*.md"]))
    assert paths(select(tree, ["."], exclude=["d", "*.md"])) == ["b.txt", "homer.txt"]
    assert paths(select(tree, ["."], exclude=["*", "!d/deep"])) == ["d?", "d/deep", "d/deep/f.md"]
    assert paths(select(tree, ["d"], exclude=["*.md"])) == ["deep", "deep/f.md", "e.txt"]
    assert paths(select(tree, ["hom*"], exclude=["*.txt"])) == ["home.md"]
    assert paths(select(tree, ["a.md", "b.txt"], exclude=["*.md"])) == ["b.txt"]
    with pytest.raises(DockerfileError):
        select(tree, ["."], exclude=["[a"])


# ---- --parents


def test_parents(tmp_path: Path, open_tree: Open) -> None:
    tree = open_tree(make(tmp_path, "x/a.txt", "y/a.txt", "y/z/b.txt", "y/z/c.md", "top.txt", "l -> y"))

    def parents(*sources: str, exclude: list[str] | None = None) -> list[str]:
        return paths(select(tree, sources, parents=True, exclude=exclude or []))

    assert parents("x/a.txt") == ["x?", "x/a.txt"]
    assert parents("x/a.txt", "y/a.txt") == ["x?", "x/a.txt", "y?", "y/a.txt"]
    assert parents("y") == ["y", "y/a.txt", "y/z", "y/z/b.txt", "y/z/c.md"]
    assert parents("*/a.txt") == ["x?", "x/a.txt", "y?", "y/a.txt"]
    assert parents("./**/*.txt") == ["top.txt", "x?", "x/a.txt", "y?", "y/a.txt", "y/z?", "y/z/b.txt"]
    assert parents("y/./z/*.txt") == ["z?", "z/b.txt"]
    assert parents("y/./z") == ["z", "z/b.txt", "z/c.md"]
    assert parents("l/./z") == ["z", "z/b.txt", "z/c.md"]
    assert parents("y/z/.") == ["y?", "y/z", "y/z/b.txt", "y/z/c.md"]
    assert parents("*/./a.txt") == ["a.txt", "a.txt"]
    assert parents("y", exclude=["**/*.md"]) == ["y", "y/a.txt", "y/z", "y/z/b.txt"]
    assert parents("nothing*") == []
    assert sorted(parents(".")) == sorted(paths(select(tree, ["."])))


@pytest.mark.parametrize(
    "source,message",
    [
        ("x/b.txt", "x/b.txt: not found: did you mean a.txt?"),
        ("l/a.txt", "goes through a symbolic link, which --parents does not follow: write /y/a.txt"),
        ("top.txt/./x", "top.txt is not a directory"),
        ("no/./x", "no: not found"),
    ],
)
def test_parents_that_are_not_there(tmp_path: Path, open_tree: Open, source: str, message: str) -> None:
    tree = open_tree(make(tmp_path, "x/a.txt", "y/a.txt", "top.txt", "l -> y"))
    with pytest.raises(DockerfileError, match=re.escape(message)):
        select(tree, [source], parents=True)


# ---- keys


def test_the_key_is_that_of_the_content(tmp_path: Path, open_tree: Open) -> None:
    def key(root: Path, *sources: str, **options: object) -> bytes:
        return select(open_tree(root), sources, **options).key()  # type: ignore[arg-type]

    one = make(tmp_path / "one", "d/x", "d/sub/y", "a", "skip.md")
    two = make(tmp_path / "two", "d/x", "d/sub/y", "a", "skip.md")
    one.chmod(0o700)
    for name in ("a", "d/x", "d/sub"):
        os.utime(two / name, (1, 1))
    options: list[dict[str, object]] = [{}, {"exclude": ["*.md"]}, {"parents": True}]
    for more in options:
        same = key(one, "d", "a", **more)
        assert same == key(two, "d", "a", **more)
        assert len(same) == 32
        assert same != key(one, "a", "d", **more) or more.get("parents")
        assert same != key(one, "d", **more)
    before = key(two, "."), key(two, ".", exclude=["**/*.md"])
    (two / "d/new.md").write_text("new")
    assert key(two, ".") != before[0]
    assert key(two, ".", exclude=["**/*.md"]) == before[1]
    (two / "d/sub/y").chmod(0o755)
    assert key(two, ".", exclude=["**/*.md"]) != before[1]
    (two / "d/sub/y").chmod((one / "d/sub/y").stat().st_mode)
    (two / "d/sub").chmod(0o700)
    assert key(two, ".", exclude=["**/*.md"]) != before[1]


class Counting(Folder):
    """Counts what it is asked."""

    asked = 0
    walked = 0

    def digests(self, paths):  # type: ignore[no-untyped-def]
        self.asked += len(paths)
        return [b"\0" * 32 for _ in paths]

    def below(self, path):  # type: ignore[no-untyped-def]
        self.walked += 1
        return super().below(path)


def test_an_unfiltered_key_asks_for_whole_directories(tmp_path: Path) -> None:
    make(tmp_path, *(f"d/{a}/{b}/f" for a in range(3) for b in range(20)))
    tree = Counting(os.open(tmp_path, os.O_RDONLY))
    select(tree, ["d", "."]).key()
    assert (tree.asked, tree.walked) == (4, 0)


def test_what_no_pattern_leads_into_is_digested_whole(tmp_path: Path) -> None:
    make(tmp_path, *(f"d{a}/{b}/f" for a in range(3) for b in range(20)), "x.md", "skip/a/b")
    for exclude, asked in ((["*.md"], 4), (["*.md", "skip"], 3), (["d1/3/*"], 3 + 19 + 1), (["**/f"], 2)):
        tree = Counting(os.open(tmp_path, os.O_RDONLY))
        select(tree, ["."], exclude=exclude).key()
        assert tree.asked == asked, exclude


def test_the_key_does_not_know_what_is_left_out(tmp_path: Path, open_tree: Open) -> None:
    """Whether whole directories or single files are asked for depends on the patterns alone."""
    patterns = [["*.md"], ["d/*.pyc"], ["**/*.pyc"], ["d/sub"], ["*", "!d"], ["d/**", "!d/keep"], ["./d/sub/"]]
    root = make(tmp_path / "one", "a.py", "d/b.py", "d/sub/c.py", "d/keep/e.py")
    more = make(tmp_path / "two", "a.py", "d/b.py", "d/sub/c.py", "d/keep/e.py", "x.md", "d/y.pyc", "d/sub/z")
    for exclude in patterns:
        same = [select(open_tree(path), ["."], exclude=exclude) for path in (root, more)]
        contents = [paths(selection) for selection in same]
        assert (contents[0] == contents[1]) == (same[0].key() == same[1].key()), exclude


def test_the_quick_key_says_no_more_than_the_key(tmp_path: Path, open_tree: Open) -> None:
    options: list[dict[str, object]] = [
        {"exclude": ["**/*.md"]},
        {"parents": True},
        {"exclude": ["d"], "parents": True},
    ]
    seen: dict[bytes, bytes] = {}
    for number, extra in enumerate([[], ["new"], ["d/x.md"]]):
        tree = open_tree(make(tmp_path / str(number), "a", "d/b", "d/x/c", *extra))
        for more in options:
            for sources in (["."], ["d"], ["d/x", "a"]):
                selection = select(tree, sources, **more)  # type: ignore[arg-type]
                assert seen.setdefault(selection.quick_key(), selection.key()) == selection.key()
    assert len(set(seen.values())) < len(seen)
