"""--filter, and what --format and inspect --format give, as people type them."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastlayer.cli.filters import path_match, until
from fastlayer.cli.line.declare import LineError
from fastlayer.container import writable
from fastlayer.image.images import Images
from fastlayer.oci.duration import parse_duration
from fastlayer.store.store import existing_store
from tests.conftest import needs_root
from tests.shell import Shell
from tests.stores import Layout, tree

DAY = 86_400


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """app:1, app:2 and me/tool:1, made a day after each other; and one that has lost its name."""
    shell = Shell(tmp_path / "store")
    for number, (name, labels) in enumerate(
        [("app:1", "stage=test a=1"), ("app:2", "stage=live a=1"), ("me/tool:1", "keep=yes"), ("lost", "a=1")], 1
    ):
        root = tree(tmp_path / str(number), {"f": str(number)})
        shell.good("import", root, name, "-c", f"LABEL {labels}", "--source-date-epoch", str(number * DAY))
    root = tree(tmp_path / "new", {"f": "new"})
    shell.good("import", root, "lost", "--source-date-epoch", str(9 * DAY))
    return shell


def listed(shell: Shell, *filters: str) -> list[str]:
    words = [word for text in filters for word in ("--filter", text)]
    return shell.good("images", "--format", "{{.Repository}}:{{.Tag}}", *words).split()


FITS = [
    (["dangling=true"], ["<none>:<none>"]),
    (["dangling=false"], ["app:1", "app:2", "lost:latest", "me/tool:1"]),
    (["dangling=false", "dangling=1"], ["app:1", "app:2", "lost:latest", "me/tool:1", "<none>:<none>"]),
    (["reference=app"], ["app:1", "app:2"]),
    (["reference=*:1"], ["app:1"]),
    (["reference=*/*:1"], ["me/tool:1"]),
    (["reference=app:2", "reference=lost"], ["app:2", "lost:latest"]),
    (["reference=a[^b-o]p:[12]"], ["app:1", "app:2"]),
    (["label=stage"], ["app:1", "app:2"]),
    (["label=stage=live"], ["app:2"]),
    (["label=a=1", "label=stage=test"], ["app:1"]),
    (["label=a=1", "reference=lost"], []),
    (["before=app:2"], ["app:1"]),
    (["since=app:2"], ["lost:latest", "me/tool:1", "<none>:<none>"]),
    (["since=app:1", "before=me/tool:1"], ["app:2"]),
    (["before=app:1", "before=app:2"], ["app:1"]),
]


def test_images_that_fit(shell: Shell) -> None:
    for filters, wanted in FITS:
        assert listed(shell, *filters) == wanted, filters


def test_wrong_filters(shell: Shell, tmp_path: Path) -> None:
    there = "there is no such filter: use dangling=, reference=, label=, before=, since="
    assert there in shell.refused("images", "--filter", "color=red", code=2)
    assert there in shell.refused("images", "--filter", "dangling", code=2)
    assert "give dangling=true or dangling=false" in shell.refused("images", "--filter", "dangling=x", code=2)
    for pattern in ("[a", "[]", "[z-a]", "a\\", "[a-]"):
        assert "is no pattern" in shell.refused("images", "--filter", f"reference={pattern}", code=2)
    assert "no such image" in shell.refused("images", "--filter", "before=nothing")
    assert "use name=, image=, driver=, writable=" in shell.refused("mounts", "--filter", "x=1", code=2)
    assert "give writable=true" in shell.refused("mounts", "--filter", "writable=x", code=2)
    assert "use until=, label=, label!=" in shell.refused("image", "prune", "--filter", "x=1", code=2)
    assert "give a duration" in shell.refused("image", "prune", "--filter", "until=soon", code=2)
    empty = Shell(tmp_path / "none")
    assert "is no pattern" in empty.refused("images", "--filter", "reference=[", code=2)
    assert not empty.root.exists()


def test_no_document_is_read_but_for_labels(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastlayer.cli.images import command
    from fastlayer.cli.line.reading import values

    def refuse(*_words: object) -> bytes:
        raise AssertionError("a blob is read")

    monkeypatch.setattr(Images, "read", refuse)
    words = ["--root", str(shell.root), "--driver", "vfs", "--filter"]
    for text in ("dangling=true", "reference=app", "before=app:2"):
        command.callback(**values(command, [*words, text])[0])
    with pytest.raises(AssertionError, match="a blob is read"):
        command.callback(**values(command, [*words, "label=a"])[0])


def test_prune_keeps_what_does_not_fit(shell: Shell) -> None:
    """A dry run first; without --all only what has no name goes, filters or not."""

    def would(*words: str) -> list[str]:
        out = shell.good("image", "prune", "--dry-run", *words)
        return [line.partition(": ")[2] for line in out.splitlines() if line.startswith("Would untag")]

    assert would("-a") == ["app:1", "app:2", "lost:latest", "me/tool:1"]
    assert would("-a", "--filter", f"until={int(2.5 * DAY)}") == ["app:1", "app:2"]
    assert would("-a", "--filter", "until=1970-01-02T12:00:00Z") == ["app:1"]
    assert would("-a", "--filter", "until=24h", "--filter", "label=a=1") == ["app:1", "app:2"]
    assert would("-a", "--filter", "label=a=1", "--filter", "label=stage=test") == ["app:1"]
    assert would("-a", "--filter", "label!=stage") == ["lost:latest", "me/tool:1"]
    assert would("-a", "--filter", "label!=stage", "--filter", "label!=keep=yes") == ["lost:latest"]
    assert would("--filter", "until=1h") == []
    assert "Removed" not in shell.good("image", "prune", "-f", "--filter", f"until={2 * DAY}")
    assert "Removed" in shell.good("image", "prune", "-f", "--filter", "until=1h")
    shell.good("image", "prune", "-af", "--filter", "label=stage")
    assert listed(shell) == ["lost:latest", "me/tool:1"] and "sound" in shell.good("store", "check")


def test_layers_that_fit(shell: Shell) -> None:
    with existing_store(shell.root) as store:
        for name, image in (("work-1", "app:1"), ("work-2", "app:2"), ("other", "app:2")):
            writable.create(store, Images(store).find(image), name)

    def found(*filters: str) -> list[object]:
        words = [word for text in filters for word in ("--filter", text)]
        return [row["Name"] for row in shell.rows("mounts", *words)]

    assert found() == ["other", "work-1", "work-2"]
    assert found("name=work") == ["work-1", "work-2"] and found("name=1", "name=oth") == ["other", "work-1"]
    assert found("image=app:2") == ["other", "work-2"] == found(f"image={shell.good('images', '-q', 'app:2').strip()}")
    assert found("image=app:2", "name=work") == ["work-2"] and not found("image=nothing")
    assert found("driver=vfs", "writable=true") == found() and not found("driver=btrfs") and not found("writable=false")
    shell.good("rmi", "-f", "app:1")
    assert found("image=app:1") == ["work-1"], "by the name that is shown"


@needs_root
def test_mounts_that_fit(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store", "overlay2")
    shell.good("import", tree(tmp_path / "root", {"a": "1"}), "base")
    ro, rw = tmp_path / "ro", tmp_path / "rw"
    ro.mkdir(), rw.mkdir()
    try:
        shell.good("mount", "base", ro)
        shell.good("mount", "--rw", "--name", "work", "base", rw)
        for text, wanted in (("writable=false", ro), ("writable=true", rw), ("name=work", rw)):
            assert [row["Target"] for row in shell.rows("mounts", "--filter", text)] == [str(wanted)]
        assert len(shell.rows("mounts", "--filter", "image=base")) == 2
        assert shell.good("inspect", "-f", "{{.Mode}} {{.Target}} {{.GraphDriver.Name}}", ro) == f"ro {ro} overlay2\n"
        assert json.loads(shell.good("inspect", "--type", "mount", rw))[0]["Name"] == "work"
        assert shell.good("inspect", "-f", "{{.MountedAt}}", "work") == f"[{rw}]\n"
    finally:
        for place in (ro, rw):
            subprocess.run(["umount", place], capture_output=True)


# ---- formats ---------------------------------------------------------------------------------------


def test_inspect_through_a_template(shell: Shell) -> None:
    whole = json.loads(shell.good("inspect", "app:1"))[0]
    words = ["inspect", "-f", "{{.Id}} {{.ID}} {{index .RepoTags 0}} {{json .Config.Labels}} {{.GraphDriver.Name}}"]
    labels = '{"a":"1","stage":"test"}'
    assert shell.good(*words, "app:1") == f"{whole['Id']} {whole['Id']} app:1 {labels} vfs\n"
    assert shell.good("inspect", "--format", "{{.Config.Cmd}} {{.Config.User}}|{{.Config.Volumes}}", "app:1") == (
        "[] |map[]\n"
    ), "what the image leaves out is empty"
    assert shell.good("inspect", "-f", "{{.RepoTags}}", "app:1", "app:2") == "[app:1]\n[app:2]\n"
    assert json.loads(shell.good("inspect", "-f", "{{json .}}", "app:1")) == whole
    assert (
        json.loads(shell.good("inspect", "-f", "", "app:1"))
        == [whole]
        == json.loads(shell.good("inspect", "-f", "json", "app:1"))
    )
    assert "app:1: there is no field Nothing: use Id, " in shell.refused("inspect", "-f", "{{.Nothing}}", "app:1")
    assert "there is no field x: use " in shell.refused("inspect", "-f", "{{.Config.Labels.x}}", "app:1")
    assert "}} is missing" in shell.refused("inspect", "-f", "{{.Id", "app:1", code=2)
    done = shell.run("inspect", "-f", "{{.RepoTags}}", "none:1", "app:2")
    assert (done.returncode, done.stdout) == (1, b"[app:2]\n") and b"none:1: no such image" in done.stderr


def test_inspect_of_a_type(shell: Shell, tmp_path: Path) -> None:
    with existing_store(shell.root) as store:
        writable.create(store, Images(store).find("app:1"), "app")
    shell.good("tag", "app:2", "app")
    assert shell.good("inspect", "-f", "{{.Name}}", "app") == "app\n"  # as docker looks: containers first
    assert shell.good("inspect", "--type", "image", "-f", "{{.RepoTags}}", "app") == "[app:2 app:latest]\n"
    assert shell.good("inspect", "--type", "container", "-f", "{{.Name}}", "app") == "app\n"
    assert "no writable layer" in shell.refused("inspect", "--type", "container", "app:1")
    assert "nothing of ours is mounted there" in shell.refused("inspect", "--type", "mount", "app")
    assert "nothing of ours is mounted there" in shell.refused("inspect", tmp_path)
    assert "no such image" in shell.refused("inspect", "nothing")


def test_a_format_that_is_none(shell: Shell) -> None:
    for words in (["images"], ["mounts"], ["history", "app:1"], ["system", "df"], ["doctor"]):
        for text in ("{{.ID", "{{foo}}", "table {{.ID"):
            assert f"--format {text}: " in shell.refused(*words, "--format", text, code=2)
    assert shell.good("images", "--format", "") == shell.good("images")


def test_history_is_what_the_image_says(tmp_path: Path) -> None:
    """Only a table shortens it, and puts it on one line."""
    odd = '#(nop)  CMD ["a"]\tand much more that does not fit'
    text = f"RUN step 0 {odd}"
    Layout(tmp_path / "layout").image("odd:1", [{"a": b"1"}], salt=odd)
    shell = Shell(tmp_path / "store")
    shell.good("load", "-q", "-i", tmp_path / "layout")
    assert shell.rows("history", "odd:1")[-1]["CreatedBy"] == text
    assert shell.good("history", "--format", "{{json .CreatedBy}}", "odd:1").splitlines()[-1] == json.dumps(text)
    assert shell.good("history", "--format", "{{.CreatedBy}}", "odd:1").splitlines()[-1] == text.replace("\t", "\\t")
    for words in ([], ["--format", "table {{.CreatedBy}}"]):
        assert 'RUN step 0 #(nop) CMD ["a"] and much more th…' in shell.good("history", *words, "odd:1")
    assert " ".join(text.split()) in shell.good("history", "--no-trunc", "odd:1")


# ---- the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, fits, fits_not",
    [
        ("a*c", ["ac", "abc", "abbc"], ["a/c", "abcd", "xac"]),
        ("a?c", ["abc", "aéc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[^a-c]x", ["dx", "/x"], ["ax"]),
        ("[a][^b]", ["aa", "a-"], ["ab", "ba"]),
        ("[a\\-c]x", ["-x", "ax"], ["bx"]),
        ("[!a]", ["!", "a"], ["b", "!a"]),
        ("a\\*", ["a*"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
        ("*a*b/*c", ["aabb/c", "xaxb/xc"], ["ab/c/c", "ba/c", "a/b/c"]),
        ("*/*:1", ["me/tool:1"], ["a/b/c:1", "tool:1"]),
        ("*a" * 30 + "*b", ["a" * 30 + "b"], ["a" * 200]),
        ("[&&|.^]", ["&", "^"], ["a"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], fits_not: list[str]) -> None:
    test = path_match(pattern)
    assert all(map(test, fits)) and not any(map(test, fits_not))


def test_durations() -> None:
    wanted = {
        "1h30m": 5400 * 10**9,
        "1.5s": 1_500_000_000,
        "300ms": 300_000_000,
        "0": 0,
        "2us3ns": 2003,
        ".5m": 30 * 10**9,
    }
    for text, nanoseconds in wanted.items():
        assert parse_duration(text) == nanoseconds
    for text in ("", "5", "1d", "-1s", "1 s", "s", ".s", "1s.", "9" * 30 + "s", "3000000h", "٣s"):
        with pytest.raises(ValueError):
            parse_duration(text)


def test_moments() -> None:
    now = datetime.now(UTC)
    assert abs(now - timedelta(hours=24) - until("24h")) < timedelta(minutes=1)
    assert until("86400") == until("1970-01-02T00:00:00Z") == until("1970-01-02T01:00:00+01:00")
    assert until("2026-01-31") == datetime(2026, 1, 31).astimezone(UTC)
    for text in ("", "tomorrow", "5", "2026-13-01"):
        with pytest.raises(LineError, match="give a duration"):
            until(text)


def test_rows_of_a_table_may_differ(shell: Shell) -> None:
    lines = shell.good("images", "--format", 'table {{.Tag}}{{if eq .Tag "2"}}\\t{{.ID}}\\tmore{{end}}').splitlines()
    assert lines[0].split() == ["TAG", "IMAGE", "ID", "more"]
    assert sorted(len(line.split()) for line in lines[1:]) == [1, 1, 1, 1, 3]


def test_a_heading_that_cannot_be_made_is_wrong_usage(tmp_path: Path) -> None:
    empty = Shell(tmp_path / "empty")
    empty.good("import", tree(tmp_path / "root", {"a": ""}), "a")
    empty.good("rmi", "a")
    assert "there is no field x" in empty.refused("images", "--format", "table {{.ID.x}}", code=2)
