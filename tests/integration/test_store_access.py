"""A store is its owner's: what others may read of it, what they are told, and other tools that read it as root."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlayer.container.mounting import mount_image, unmount
from fastlayer.errors import StoreError
from fastlayer.image.images import Images
from fastlayer.image.materialize import materialize
from fastlayer.store.store import existing_store, open_store
from tests.conftest import require
from tests.filesystems import need_root
from tests.integration.command import COMMAND
from tests.stores import imported

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
PRIVATE = {"content": 0o700, "leases": 0o700, "locks": 0o700, "spare": 0o700, "metadata.db": 0o600, "reserve": 0o600}
VERBS = (
    ["images"],
    ["history", "base:1"],
    ["inspect", "base:1"],
    ["mounts"],
    ["save", "base:1", "-o", "out.tar"],
    ["mount", "base:1", "m"],
    ["umount", "m"],
    ["rm", "w"],
    ["rmi", "base:1"],
    ["tag", "base:1", "other"],
    ["commit", "w", "new"],
    ["diff", "w"],
    ["diff", "base:1", "m", "--root"],
    ["load", "-i", "none.tar"],
    ["import", "m", "new"],
    ["copy-up", "w", "etc/hosts"],
    ["image", "prune", "-f"],
    ["image", "materialize", "base:1"],
    ["system", "df"],
    ["system", "prune", "-f"],
    ["store", "check"],
    ["store", "gc"],
)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Root's store with an image and a writable layer, whose way is open to everybody."""
    from fastlayer.container import writable

    need_root()
    tmp_path.chmod(0o755)
    for above in (tmp_path.parent, tmp_path.parent.parent):
        above.chmod(0o755)
    place = tmp_path / "store"
    with open_store(place, driver="overlay2") as store:
        image = imported(store, tmp_path / "tree")
        materialize(store, image)
        writable.create(store, image, "w")
    (place / "locks").mkdir(mode=0o700, exist_ok=True)
    yield place


def modes(root: Path) -> dict[str, int]:
    return {name: stat.S_IMODE((root / name).stat().st_mode) for name in PRIVATE}


def test_a_new_store_is_private_but_the_way_to_its_trees_is_open(root: Path) -> None:
    assert modes(root) == PRIVATE
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "overlay2")] == [0o711, 0o711]
    with open_store(root) as store, store.database.write():
        beside = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.glob("metadata.db-*")}
    assert beside == {"metadata.db-wal": 0o600, "metadata.db-shm": 0o600}


def test_an_old_store_is_set_right_when_it_is_opened(root: Path) -> None:
    for name in PRIVATE:
        (root / name).chmod(0o755 if (root / name).is_dir() else 0o644)
    copy = root / "metadata.db.copy"
    copy.write_bytes(b"")
    copy.chmod(0o644)
    (root / "metadata.db-link").symlink_to(root.parent / "tree")
    existing_store(root).close()
    assert modes(root) == PRIVATE and stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE((root.parent / "tree").stat().st_mode) == 0o755


def test_what_somebody_else_owns_is_left(root: Path) -> None:
    os.chown(root / "content", 1234, 1234)
    (root / "content").chmod(0o755)
    existing_store(root).close()
    assert stat.S_IMODE((root / "content").stat().st_mode) == 0o755


def test_another_user_reads_nothing(root: Path) -> None:
    (blob, *_) = (root / "content/blobs/sha256").iterdir()
    for words in (["ls", root / "content"], ["cat", blob], ["cat", root / "metadata.db"], ["ls", root]):
        done = subprocess.run([*NOBODY, *words], capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "Permission denied" in done.stderr and not done.stdout


def test_what_is_named_after_the_database_is_private_from_the_first(root: Path) -> None:
    """Between two commands, too: the way to its root is open to all."""

    def beside() -> dict[str, int]:
        return {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.glob("metadata.db*")}

    umask = os.umask(0o022)
    try:
        (root / "metadata.db.copy").unlink()
        subprocess.run([*COMMAND, "tag", "base:1", "other:1", "--root", root], check=True)
        assert beside() == {"metadata.db": 0o600, "metadata.db.copy": 0o600}
        (root / "metadata.db").write_bytes(b"damaged")
        subprocess.run([*COMMAND, "store", "check", "--repair", "--root", root], check=True, capture_output=True)
        assert len(beside()) == 4 and set(beside().values()) == {0o600}
    finally:
        os.umask(umask)


def test_another_user_uses_what_is_mounted(root: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with existing_store(root) as store:
        mount_image(store, Images(store).find("base:1"), tmp_path / "m")
        try:
            done = subprocess.run([*NOBODY, "cat", tmp_path / "m/etc/passwd"], capture_output=True, text=True)
        finally:
            unmount(store, str(tmp_path / "m"))
    assert done.stdout == "root\n"


@pytest.mark.parametrize("old", [False, True], ids=["private", "as it was"])
@pytest.mark.parametrize("words", VERBS, ids=lambda words: " ".join(words[:2]))
def test_every_verb_tells_another_user_whose_store_it_is(
    root: Path, tmp_path: Path, words: list[str], old: bool
) -> None:
    if old:
        for path, mode in ((root / "content", 0o755), (root / "metadata.db", 0o644)):
            path.chmod(mode)
    (tmp_path / "m").mkdir()
    (tmp_path / "none.tar").touch()
    words = words[:-1] if words[-1] == "--root" else words
    done = subprocess.run(
        [*NOBODY, *COMMAND, *words, "--root", root], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    what = "writable" if old else "readable"
    wanted = f"fastlayer: {root}: not {what} for you (it belongs to user 0): run as root or use another --root\n"
    assert (done.returncode, done.stderr, done.stdout) == (1, wanted, "")


def test_a_store_behind_a_closed_directory(root: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [*NOBODY, *COMMAND, "images", "--root", root], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"fastlayer: {root}: not readable for you: run as root or use another --root\n"


def test_in_python_it_is_a_store_error(root: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            open_store(root)
        except StoreError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_other_tools_read_it_as_root(root: Path, tmp_path: Path) -> None:
    for tool in ("skopeo", "umoci"):
        require(tool)
    name = "docker.io/library/base:1"
    layout = f"{root}/content"  # podman: test_image_formats.py
    subprocess.run(["skopeo", "inspect", f"oci:{layout}:{name}"], check=True, capture_output=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:{name}", tmp_path / "bundle"], check=True)
    assert (tmp_path / "bundle/rootfs/etc/passwd").read_text() == "root\n"
