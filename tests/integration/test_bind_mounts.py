"""``RUN --mount=type=bind`` of what is not plainly a file or a directory of root's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.test_build import Builder, outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
MODES = pytest.mark.parametrize("mode", ["ro", "rw"])


# ---- links -----------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("isolation", ["native", "chroot"])
@pytest.mark.parametrize("start", ["", "../../../../../../../.."])
def test_a_link_does_not_lead_to_the_host(made: Builder, tmp_path: Path, start: str, mode: str, isolation: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (made.context / "link").symlink_to(f"{start}{outside}")
    made.write(f"FROM busybox\nRUN --mount=source=link,target=/m,{mode} touch /m/written\n")
    lines = made.build("--isolation", isolation, "--driver", "vfs", code=1)
    assert f"is not in context {made.context}" in lines[-1], lines
    assert not os.listdir(outside)


@MODES
def test_a_link_of_a_stage_does_not_lead_to_the_host(made: Builder, tmp_path: Path, mode: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    made.write(
        f"FROM busybox AS other\nRUN ln -s {outside} /link\nFROM busybox\n"
        f"RUN --mount=from=other,source=link,target=/m,{mode} touch /m/written\n"
    )
    made.build(code=1)
    assert not os.listdir(outside)


@MODES
@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("to-directory", "/m/file"),
        ("to-file", "/m"),
        ("absolute", "/m"),
        ("to-directory/file", "/m"),
        ("../d", "/m/file"),
    ],
)
def test_a_link_is_followed_in_its_own_root(made: Builder, source: str, shown: str, mode: str) -> None:
    made.write(f"FROM busybox\nRUN --mount=source={source},target=/m,{mode} cat {shown}\n", d__file="first")
    for name, target in (("to-directory", "d"), ("to-file", "d/file"), ("absolute", "/d/file")):
        (made.context / name).symlink_to(target)
    for text in ("first", "second"):  # what a link leads to is in the key
        (made.context / "d/file").write_text(f"the {text}\n")
        assert any(line.endswith(f"the {text}") for line in made.build())
    assert "CACHED" in list(outcome(made.build()).values())[1:]


# ---- users -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignored", ["", "other\n"])
@pytest.mark.parametrize("source", ["", "d"])
def test_others_than_root_see_what_is_bound(made: Builder, source: str, ignored: str) -> None:
    made.write(
        "FROM busybox\nUSER app\n"
        f"RUN --mount=source={source},target=/a,rw --mount=source={source},target=/b ls -ldn /a /b\n"
        "RUN --mount=source=d,target=/a,rw cat /a/file\n",
        d__file="seen\n",
        **{".dockerignore": ignored},
    )
    (made.context / source).chmod(0o755)
    lines = made.build()
    assert sum("drwxr-xr-x" in line for line in lines) == 2, lines
    assert any(line.endswith("seen") for line in lines)


def test_a_copy_has_the_mode_and_the_owner_of_a_directory(made: Builder) -> None:
    made.write(
        "FROM busybox AS other\nRUN mkdir -m 2750 /d && chown 1000:1001 /d\nFROM busybox\nUSER app\n"
        "RUN --mount=from=other,source=d,target=/m,rw touch /m/written && ls -ldn /m\n"
    )
    assert any("drwxr-s---" in line and " 1000 " in line for line in made.build())


# ---- nothing ---------------------------------------------------------------------------------------


@MODES
def test_scratch_is_an_empty_directory(made: Builder, mode: str) -> None:
    """Of everybody's, and asked of no registry; so is a stage that has nothing."""
    made.write(
        "FROM scratch AS empty\nFROM busybox\nUSER app\n"
        f"RUN --mount=from=scratch,target=/a,{mode} --mount=from=empty,target=/b,{mode} "
        "ls -A /a/. /b/. && ls -ldn /a /b\n"
    )
    assert sum("drwxr-xr-x" in line for line in made.build()) == 2
