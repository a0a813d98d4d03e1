"""The verbs of images, mounts and the store, as people type them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastlayer
from fastlayer.cli import options
from fastlayer.container import mounting, writable
from fastlayer.errors import DriverError, InUseError, NotFoundError, UsageError
from fastlayer.image.images import Images
from fastlayer.store.store import Store, existing_store, open_store
from tests.conftest import needs_root
from tests.shell import COMMAND, Shell
from tests.stores import Layout, tree


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "store")


@pytest.fixture
def filled(shell: Shell, tmp_path: Path) -> Shell:
    shell.good("import", tree(tmp_path / "root", {"etc/passwd": "root\n", "bin/tool": b"x" * 5000}), "base:1")
    return shell


def test_import_images_history(filled: Shell) -> None:
    (row,) = filled.rows("images")
    assert (row["Repository"], row["Tag"], row["Size"]) == ("base", "1", "5 kB") and row["schema"] == 1
    assert filled.good("images", "-q").strip() == row["ID"]
    assert filled.good("images", "--format", "{{.Repository}}:{{.Tag}}\t{{json .Size}}") == 'base:1\t"5 kB"\n'
    heading, line = filled.good("images", "--format", "table {{.ID}}\t{{upper .Repository}}").splitlines()
    assert heading.split() == ["IMAGE", "ID", "REPOSITORY"] and line.split() == [row["ID"], "BASE"]
    (step,) = filled.rows("history", "base:1")
    assert step["Comment"] == "imported from root" and step["Size"] == "5 kB"
    assert filled.good("history", "-q", "base:1").strip() == row["ID"]
    found = json.loads(filled.good("inspect", "base:1"))
    assert found[0]["RepoTags"] == ["base:1"] and found[0]["Layers"][0]["Present"] is False
    assert found[0]["GraphDriver"]["Name"] == "vfs"


def test_changes_of_the_configuration(shell: Shell, tmp_path: Path) -> None:
    place = tree(tmp_path / "root", {"a": "1"})
    words = [
        "-c",
        'CMD ["a", "b"]',
        "-c",
        "ENV X=1 Y='2 3'",
        "-c",
        "WORKDIR /srv",
        "-c",
        "LABEL l=v",
        "-c",
        "EXPOSE 80",
    ]
    shell.good("import", place, "it", *words)
    config = json.loads(shell.good("inspect", "it"))[0]["Config"]
    assert config["Cmd"] == ["a", "b"] and config["Env"] == ["X=1", "Y=2 3"] and config["WorkingDir"] == "/srv"
    assert config["Labels"] == {"l": "v"} and list(config["ExposedPorts"]) == ["80/tcp"]
    assert "RUN cannot be used" in shell.refused("import", place, "it", "-c", "RUN x", code=2)
    for bad in ("ENV a", "LABEL a", "EXPOSE 99999999", "EXPOSE 0", "EXPOSE 9-8", "EXPOSE 80/icmp", "EXPOSE web"):
        assert "--change" in shell.refused("import", place, "it", "-c", bad, code=2)
    shell.good("import", place, "ports", "-c", "EXPOSE 80-82 53/UDP")
    config = json.loads(shell.good("inspect", "ports"))[0]["Config"]
    assert list(config["ExposedPorts"]) == ["53/udp", "80/tcp", "81/tcp", "82/tcp"]


def test_tag_rmi_prune(filled: Shell) -> None:
    filled.good("tag", "base:1", "other/name:v2")
    assert sorted(str(row["Repository"]) for row in filled.rows("images")) == ["base", "other/name"]
    assert filled.good("rmi", "base:1") == "Untagged: base:1\n"
    out = filled.good("rmi", "other/name:v2")
    assert "Untagged: other/name:v2" in out and "Deleted: sha256:" in out
    assert not filled.rows("images") and os.listdir(filled.root / "vfs") == ["identity"]
    assert "sound" in filled.good("store", "check")


def test_prune_asks_or_is_told(filled: Shell) -> None:
    assert "--force" in filled.refused("image", "prune", code=2)
    assert "base:1" in filled.good("image", "prune", "-a", "--dry-run")
    assert filled.rows("images")
    filled.good("image", "prune", "-a", "-f")
    assert not filled.rows("images")


@pytest.mark.parametrize("verb", ["image", "system"])
def test_a_dry_run_tells_what_goes(filled: Shell, tmp_path: Path, verb: str) -> None:
    """The same lines as the real one, which removes just that; nothing changes before."""
    filled.good("import", tree(tmp_path / "used", {"u": "u"}), "used")
    filled.good("import", tree(tmp_path / "first", {"f": "1"}), "lost")
    filled.good("import", tree(tmp_path / "second", {"f": "2"}), "lost")
    with existing_store(filled.root) as store:
        writable.create(store, Images(store).find("used"), "work")
    before = filled.good("store", "check"), filled.good("images", "-q"), sorted(os.listdir(filled.root / "vfs"))
    told = filled.good(verb, "prune", "-a", "--dry-run")
    assert before == (
        filled.good("store", "check"),
        filled.good("images", "-q"),
        sorted(os.listdir(filled.root / "vfs")),
    )
    done = filled.good(verb, "prune", "-a", "-f")
    for would, did in (("Would remove", "Removed"), ("Would untag", "Untagged"), ("Would delete", "Deleted")):
        assert would in told and did in done
        told = told.replace(would, did)
    assert told.replace("could be", "were") == done
    left = sorted(str(row["Repository"]) for row in filled.rows("images"))
    assert left == (["used"] if verb == "image" else [])
    if verb == "system":
        assert {"identity", "empty"} >= set(os.listdir(filled.root / "vfs")) and not os.listdir(filled.root / "locks")
    assert "sound" in filled.good("store", "check")


def test_a_name_that_looks_like_an_id(filled: Shell, tmp_path: Path) -> None:
    """It would stand for another image."""
    (row,) = filled.rows("images")
    short = str(row["ID"]).removeprefix("sha256:")[:12]
    for words in (["tag", "base:1"], ["import", tree(tmp_path / "new", {"n": "n"})]):
        assert "image id" in filled.refused(*words, f"sha256:{short}", code=2)
        assert "image id" in filled.refused(*words, "sha256:latest", code=2)
    filled.good("tag", "base:1", "x/sha256:v1")
    layout = Layout(tmp_path / "layout")
    layout.image(f"docker.io/library/sha256:{short}", [{"other": b"1"}])
    assert b"no image name" in filled.run("load", "-i", tmp_path / "layout").stderr
    assert json.loads(filled.good("inspect", f"sha256:{short}"))[0]["RepoTags"] == ["base:1", "x/sha256:v1"]


def test_a_writable_layer_without_any_right(filled: Shell) -> None:
    """As in a pod that may not mount: the layer's own directory is printed."""
    place = Path(filled.good("mount", "--rw", "--no-mount", "--name", "w", "base:1").rstrip("\n"))
    (place / "new").write_text("x")
    (place / "etc/passwd").unlink()
    assert filled.good("diff", "w").removeprefix("C /\n") == "C /etc\nD /etc/passwd\nA /new\n"
    assert filled.good("mount", "--rw", "--no-mount", "--name", "w").rstrip("\n") == str(place)
    filled.good("commit", "w", "base:2")
    assert sorted(str(row["Tag"]) for row in filled.rows("images")) == ["1", "2"]
    assert json.loads(filled.good("mount", "--rw", "--no-mount", "--json", "base:2"))["directory"]
    for words in (["base:1"], ["--rw"], ["--rw", "base:1", "/mnt"]):
        filled.refused("mount", "--no-mount", *words, code=2)
    filled.good("rm", "w")
    assert not place.exists()


@needs_root
def test_a_target_that_is_no_utf_8(filled: Shell, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"mnt\xff")
    place.mkdir()
    for words in (["base:1"], ["--rw", "--name", "w", "base:1"]):
        filled.good("mount", *words, place)
        assert os.listdir(place) and len(filled.rows("mounts")) >= 1
        assert "is mounted" in filled.refused("mount", "base:1", place)
        filled.good("umount", place)
        assert not os.listdir(place)
    filled.good("rm", "w")


@needs_root
def test_pruning_goes_by_what_is_mounted(filled: Shell, tmp_path: Path) -> None:
    """Not by the name that it had when it was mounted."""
    (tmp_path / "mnt").mkdir()
    filled.good("import", tree(tmp_path / "other", {"o": "o"}), "other:1")
    filled.good("mount", "base:1", tmp_path / "mnt")
    filled.good("tag", "base:1", "kept:1")
    filled.good("tag", "other:1", "base:1")
    filled.good("image", "prune", "-a", "-f")
    assert [str(row["Repository"]) for row in filled.rows("images")] == ["kept"]
    assert os.listdir(tmp_path / "mnt")
    filled.good("umount", tmp_path / "mnt")
    filled.good("image", "prune", "-a", "-f")
    assert not filled.rows("images")


def test_text_that_is_no_utf_8(filled: Shell, tmp_path: Path) -> None:
    filled.good("mount", "--rw", "--no-mount", "--name", "w", "base:1")
    odd = os.fsdecode(b"a\xff")
    for words in (["-m", odd], ["-a", odd], ["-c", f"ENV a={odd}"]):
        assert "is not UTF-8" in filled.refused("commit", "w", "next:1", *words, code=2)
    assert "sound" in filled.good("store", "check") and len(filled.rows("images")) == 1
    filled.good("import", tree(tmp_path / odd, {"n": "n"}), "odd:1")
    assert filled.rows("history", "odd:1")[0]["Comment"] == "imported from a\\xff"


def test_what_is_made_of_an_image_outlives_its_name(filled: Shell) -> None:
    place = Path(filled.good("mount", "--rw", "--no-mount", "--name", "w", "base:1").rstrip("\n"))
    (place / "new").write_text("x")
    assert "made of it" in filled.refused("rmi", "base:1")
    filled.good("rmi", "-f", "base:1")
    filled.good("store", "gc")
    filled.good("commit", "-c", "CMD sh", "w", "next:1")
    filled.good("rm", "w")
    filled.good("store", "gc")
    again = Path(filled.good("mount", "--rw", "--no-mount", "next:1").rstrip("\n"))
    assert (again / "new").read_text() == "x" and (again / "etc/passwd").exists()
    assert len(filled.rows("history", "next:1")) == 2 and "sound" in filled.good("store", "check")


@needs_root
def test_a_driver_that_must_mount_says_so(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "overlay2", "overlay2")
    shell.good("import", tree(tmp_path / "root", {"a": "1"}), "base:1")
    assert "give a TARGET" in shell.refused("mount", "--rw", "--no-mount", "--name", "w", "base:1")
    assert not shell.good("mounts", "-q")
    in_place = functools.partial(fastlayer.mount, "base:1", writable=True, root=shell.root, attach=False)
    with pytest.raises(DriverError), in_place(driver="overlay2"):
        pass
    with in_place() as place:  # of another driver, where none is asked for
        assert (place / "a").read_text() == "1" and (shell.root / "vfs") in place.parents


def test_in_place_in_python(filled: Shell) -> None:
    with fastlayer.mount("base:1", writable=True, root=filled.root, driver="vfs", attach=False) as place:
        (place / "new").write_text("x")
    assert not filled.good("mounts", "-q") and not place.exists()


def test_save_and_load(filled: Shell, tmp_path: Path) -> None:
    other = Shell(tmp_path / "other")
    filled.good("save", "-o", tmp_path / "image.tar", "base:1")
    assert other.good("load", "-i", tmp_path / "image.tar") == "Loaded image: base:1\n"
    assert other.rows("images")[0]["ID"] == filled.rows("images")[0]["ID"]
    third = Shell(tmp_path / "third")
    archive = subprocess.run([*COMMAND, "save", "base:1"], env=filled.env, capture_output=True, check=True).stdout
    assert "base:1" in third.good("load", input=archive)
    fourth = Shell(tmp_path / "fourth")
    filled.good("save", "--format", "oci-dir", "-o", tmp_path / "layout", "base:1")
    fourth.good("load", "-q", "--discard-blobs", "-i", tmp_path / "layout")
    assert json.loads(fourth.good("inspect", "base:1"))[0]["Layers"][0]["Present"] is False
    fourth.good("image", "materialize", "base:1")
    assert json.loads(fourth.good("inspect", "base:1"))[0]["Layers"][0]["Present"] is True


def test_the_layout_lists_images_that_have_their_blobs(filled: Shell, tmp_path: Path) -> None:
    """docs/images.md: those imported or committed here when their blobs have been written; those loaded at once."""

    def names(shell: Shell) -> list[str]:
        value = json.loads((shell.root / "content/index.json").read_text())
        return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in value["manifests"]]

    with existing_store(filled.root) as store:
        writable.create(store, Images(store).find("base:1"), "work")
    filled.good("commit", "work", "second:1")
    assert names(filled) == []
    filled.good("image", "materialize", "base:1")
    assert names(filled) == ["docker.io/library/base:1"]
    filled.good("save", "-o", tmp_path / "image.tar", "second:1")
    assert names(filled) == ["docker.io/library/base:1", "docker.io/library/second:1"]
    for words, wanted in (([], ["docker.io/library/second:1"]), (["--discard-blobs"], [])):
        other = Shell(tmp_path / f"other{len(words)}")
        other.good("load", "-q", *words, "-i", tmp_path / "image.tar")
        assert names(other) == wanted


def test_an_image_that_lost_its_name(filled: Shell, tmp_path: Path) -> None:
    before = filled.rows("images")[0]["ID"]
    filled.good("import", tree(tmp_path / "new", {"b": "2"}), "base:1")
    rows = filled.rows("images")
    assert [(row["Repository"], row["ID"] == before) for row in rows] == [("base", False), ("<none>", True)]
    assert f"Removed: {before}" in filled.good("image", "prune", "-f")
    assert len(filled.rows("images")) == 1


def test_writable_layers(filled: Shell, tmp_path: Path) -> None:
    filled.good("commit", "-q", "--help")
    assert "no writable layer" in filled.refused("commit", "work", "x")
    assert "no writable layer" in filled.refused("diff", "work")
    assert "no writable layer" in filled.refused("rm", "work")
    assert "no such image" in filled.refused("mount", "--rw", "--name", "w", "nothing", tmp_path)


def test_diff_of_images(filled: Shell, tmp_path: Path) -> None:
    place = tree(tmp_path / "second", {"etc/passwd": "root\n", "bin/tool": b"y" * 5000, "new": "n"})
    for name in ("etc", "bin", "etc/passwd", "bin/tool", "."):
        status = (tmp_path / "root" / name).stat()
        os.utime(place / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    filled.good("import", place, "base:2")
    assert filled.good("diff", "base:1", "base:2") == "C /bin/tool\nA /new\n"
    assert filled.good("diff", "base:1", tmp_path / "root") == ""
    done = filled.run("diff", "base:1", "base:2", "--exit-code", "--stat")
    assert done.returncode == 1 and b"changed" in done.stdout
    filled.good("diff", "base:1", "base:2", "-o", tmp_path / "l.tar")
    assert (tmp_path / "l.tar").stat().st_size > 5000
    assert "No such file" in filled.refused("diff", "base:1", "base:3")
    assert "No such file" in filled.refused("diff", "./base:1", "base:2")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nENV A=b\n")
    filled.good("build", "-q", "-t", "nothing", "-f", tmp_path / "Dockerfile", place)
    assert "A /bin/tool\n" in filled.good("diff", "nothing", "base:1")
    assert "D /bin\n" in filled.good("diff", "base:1", "nothing")


@needs_root
def test_a_mounted_layer_from_birth_to_commit(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store", "overlay2")
    target, ro = tmp_path / "mnt", tmp_path / "ro"
    target.mkdir()
    ro.mkdir()
    shell.good("import", tree(tmp_path / "root", {"etc/passwd": "root\n", "bin/tool": b"x" * 5000}), "base")
    try:
        assert shell.good("mount", "base", ro).strip() == str(ro)
        with pytest.raises(OSError, match="Read-only"):
            (ro / "x").write_text("x")
        assert shell.good("mount", "--rw", "--name", "work", "base", target).strip() == "work"
        (target / "etc/passwd").write_text("changed\n")
        (target / "bin/tool").unlink()
        assert shell.good("diff", "work") == "C /bin\nD /bin/tool\nC /etc/passwd\n"
        assert (ro / "etc/passwd").read_text() == "root\n"
        rows = {str(row["Name"]): row for row in shell.rows("mounts", "--usage")}
        assert rows["work"]["Changes"] == 1 and rows["work"]["Target"] == str(target) and rows[""]["Mode"] == "ro"
        shell.good("commit", "-m", "less", "work", "less")
        assert "is mounted" in shell.refused("rm", "work")
        assert "is mounted" in shell.refused("copy-up", "work", "etc/passwd")
        assert shell.good("umount", "work").strip() == str(target)
        assert not os.listdir(target)
        assert "work is made of it" in shell.refused("rmi", "base")
        assert [step["Comment"] for step in shell.rows("history", "less")] == ["less", "imported from root"]
        shell.good("mount", "--name", "work", target)
        assert (target / "etc/passwd").read_text() == "changed\n"
        shell.good("umount", "--rm", "work")
        assert "sound" in shell.good("store", "check")
    finally:
        for place in (target, ro):
            subprocess.run(["umount", place], capture_output=True)
    assert not shell.rows("mounts"), "what was unmounted by others is forgotten"


@needs_root
def test_the_whole_store_is_unmounted(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "store", "overlay2")
    shell.good("import", tree(tmp_path / "root", {"in/a": "1"}), "base")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shell.good("mount", "base", tmp_path / name)
    (tmp_path / "one+").mkdir()  # sorts before what is in one/
    shell.good("mount", "base", tmp_path / "one+")
    shell.good("mount", "base", tmp_path / "one" / "in")
    assert len(shell.good("umount", "--all").splitlines()) == 4
    assert not shell.rows("mounts")


def test_errors_are_one_line(shell: Shell, tmp_path: Path) -> None:
    assert not shell.rows("images") and not shell.rows("mounts"), "no store is an empty one, for lists"
    assert not shell.root.exists()
    assert "no store there" in shell.refused("history", "x")
    Layout(tmp_path / "layout").image("app:1", [{"a": b"1"}])
    shell.good("load", "-q", "-i", tmp_path / "layout")
    assert "no such image" in shell.refused("history", "app:2")
    assert "capitals" in shell.refused("tag", "app:1", "App", code=2)
    assert "not for linux/s390x" in shell.refused("history", "--platform", "linux/s390x", "app:1")
    assert "no field Nothing" in shell.refused("images", "--format", "{{.Nothing}}", code=2)
    assert "{{range}} without {{end}}" in shell.refused("images", "--format", "{{range .}}", code=2)
    shell.env["FASTLAYER_DRIVER"] = "nfs"
    assert "unknown" in shell.refused("import", tmp_path / "layout", "x", code=2)
    shell.env["FASTLAYER_DRIVER"] = "aufs"
    assert "aufs" in shell.refused("import", tmp_path / "layout", "x")
    del shell.env["FASTLAYER_DRIVER"]
    (tmp_path / "broken.tar").write_bytes(b"nonsense")
    assert "broken.tar" in shell.refused("load", "-i", tmp_path / "broken.tar")
    assert "missing.tar" in shell.refused("load", "-i", tmp_path / "missing.tar")
    (shell.root / "metadata.db").write_bytes(b"nonsense" * 1000)
    assert "metadata.db" in shell.refused("images")


def test_doctor_tells_why(shell: Shell) -> None:
    done = shell.run("doctor", "--format", "json")
    rows = {row["Driver"]: row for row in map(json.loads, done.stdout.decode().splitlines())}
    assert rows["vfs"]["Works"] == "yes" and done.returncode == 0
    assert {"overlay2", "btrfs", "devicemapper", "fuse", "aufs"} <= rows.keys()
    for row in rows.values():
        assert row["Works"] == "yes" or row["Why"], row


def test_help_of_every_verb(shell: Shell) -> None:
    from fastlayer.cli.commands import VERBS
    from fastlayer.cli.groups import _CONTAINER, _IMAGE, _STORE, _SYSTEM

    words = [[verb] for verb in VERBS]
    for group, verbs in (("image", _IMAGE), ("container", _CONTAINER), ("system", _SYSTEM), ("store", _STORE)):
        words += [[group, verb] for verb in verbs]
    for verb in words:
        out = shell.good(*verb, "--help")
        assert out.startswith("Usage: "), verb


def test_check_only_notes_what_a_killed_process_left(filled: Shell) -> None:
    code = (
        "import os; from fastlayer.store.store import open_store\n"
        "with open_store().leases.hold('to be killed'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=filled.env).returncode == -9
    out = filled.good("store", "check")
    assert out.startswith("note: lease ") and out.endswith(": sound\n")
    assert filled.good("store", "check", "--repair").startswith("repaired: lease ")
    assert not filled.rows("store", "check")


def test_copy_up_refuses_what_is_not_there(filled: Shell) -> None:
    with open_store(filled.root, driver="vfs") as store:
        writable.create(store, Images(store).find("base:1"), "w")
    assert "nope: copy-up: No such file" in filled.refused("copy-up", "w", "nope")
    assert "not a plain relative path" in filled.refused("copy-up", "w", "../../etc/passwd")
    filled.good("copy-up", "w", "etc/passwd")


@pytest.mark.parametrize("error", [NotFoundError, InUseError])
def test_prune_passes_over_what_others_take(
    filled: Shell, error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastlayer.cli.line.reading import values
    from fastlayer.cli.prune import system_prune

    with open_store(filled.root, driver="vfs") as store:
        for name in ("one", "two"):
            writable.create(store, Images(store).find("base:1"), name)
    remove = writable.remove

    def taken(store: Store, name: str) -> None:
        if name == "one":
            raise error("one: by another")
        remove(store, name)

    monkeypatch.setattr(writable, "remove", taken)
    given, _ = values(system_prune, ["--force", "--root", str(filled.root), "--driver", "vfs"])
    system_prune.callback(**given)
    out = capsys.readouterr().out
    assert "Removed: two\n" in out and "one" not in out


def test_prune_counts_in_words(filled: Shell) -> None:
    out = filled.good("system", "prune", "-a", "-f")
    assert " and 1 snapshot were removed" in out


EMPTY = [
    ("mount", "base:1", ""),
    ("mount", "--rw", "base:1", ""),
    ("mount", "--rw", "--name", "", "base:1", "."),
    ("umount", ""),
    ("save", "-o", "", "base:1"),
    ("save", "--format", "oci-dir", "-o", "", "base:1"),
    ("load", "-i", ""),
    ("import", "", "x"),
    ("apply", "layer.tar", ""),
    ("apply", "", "new"),
    ("diff", "", "."),
    ("diff", ".", ""),
    ("diff", ".", ".", "-o", ""),
    ("diff", "--from", "", "--to", "."),
    ("diff", "--from", ".", "--to", ""),
    ("diff", "--upper", "", "--lower", "."),
    ("diff", "--upper", ".", "--lower", ""),
    ("clone", "", "new"),
    ("clone", ".", ""),
    ("index", "", "-o", "new"),
    ("index", ".", "-o", ""),
    ("chunks", ""),
    ("copy-up", "", ".", "a"),
    ("copy-up", ".", ".", ""),
    ("images", "--root", ""),
    ("doctor", "--root", ""),
]


@pytest.mark.parametrize("words", EMPTY, ids=[" ".join(word or "''" for word in words) for words in EMPTY])
def test_an_empty_name_is_not_the_current_directory(
    filled: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert "it is empty: give a name" in filled.refused(*words, code=2)
    assert not os.listdir(".") and not filled.rows("mounts")


def test_an_empty_target_of_the_library(filled: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with existing_store(filled.root, driver="vfs") as store:
        image = Images(store).find("base:1")
        with pytest.raises(UsageError, match="empty name"):
            mounting.mount_image(store, image, "")
        with pytest.raises(NotFoundError):
            mounting.unmount(store, "")
        for size in (1 << 63, 0, -1):
            with pytest.raises(UsageError, match="2\\^63"):
                writable.create(store, image, size=size)


def test_sizes(filled: Shell, tmp_path: Path) -> None:
    for text in ("99999999999999999999g", "9223372036854775808", "9223373t", "8" * 5000):
        assert "too large a size" in filled.refused("mount", "--rw", "--size", text, "base:1", tmp_path, code=2)
    for text in ("0", "000", "1x", "-1", "1.5g", "", "k"):
        assert "is not a size" in filled.refused("mount", "--rw", "--size", text, "base:1", tmp_path, code=2)
    assert options.size("9223372036854775807") == (1 << 63) - 1
    assert options.size("0" * 30 + "2k") == 2000
    assert not filled.rows("mounts")


def test_options_of_a_writable_layer_need_one(filled: Shell, tmp_path: Path) -> None:
    assert "--size is of the writable layer" in filled.refused("mount", "--size", "5m", "base:1", tmp_path, code=2)
    for word, value in (("--size", "5m"), ("--storage-opt", "volatile=on")):
        assert "give --rw" in filled.refused("mount", "--name", "one", word, value, tmp_path, code=2)
    (tmp_path / "m").mkdir()
    words = ("mount", "--storage-opt", "volatile=on", "base:1", tmp_path / "m")
    assert "no option volatile" in filled.refused(*words, code=2)


def test_a_date_beyond_all_dates(filled: Shell, tmp_path: Path) -> None:
    words = ("import", tmp_path / "root", "x", "--source-date-epoch", "9" * 23)
    assert "is no time" in filled.refused(*words, code=2)


def test_a_layer_with_the_name_of_a_directory(filled: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One operand alone is a layer, whatever else is called so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    place = Path(filled.good("mount", "--rw", "--no-mount", "--name", "work", "base:1").strip())
    (place / "new").write_text("x")
    assert "A /new" in filled.good("diff", "work").splitlines()
    filled.good("rm", "work")
    assert "what is work to be compared with" in filled.refused("diff", "work", code=2)
