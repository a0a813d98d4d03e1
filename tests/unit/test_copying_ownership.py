"""--chown and --chmod."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from fastlayer.builder.copying.ownership import Mode, resolve_owner
from fastlayer.errors import DockerfileError

PASSWD = b"""root:x:0:0:root:/root:/bin/sh

broken
app:x:1000:2000::/:
app:x:9:9::/:
99:x:5:6::/:
bad:x:many:1::/:
last:x:7:8"""
GROUP = b"root:x:0:\nstaff:x:50:app\nworse:x:-1:\n"


def read(path: str) -> bytes | None:
    return {"/etc/passwd": PASSWD, "/etc/group": GROUP}.get(path)


@pytest.mark.parametrize(
    "text,owner",
    [
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("5:", (5, 5)),
        (":6", (0, 6)),
        (":staff", (0, 50)),
        ("app", (1000, 2000)),
        ("app:", (1000, 2000)),
        ("app:staff", (1000, 50)),
        ("app:3", (1000, 3)),
        ("3:staff", (3, 50)),
        ("99", (99, 99)),
        ("last", (7, 8)),
        ("4294967294", (4294967294, 4294967294)),
    ],
)
def test_owners(text: str, owner: tuple[int, int]) -> None:
    assert resolve_owner(text, read) == owner


@pytest.mark.parametrize(
    "text,message",
    [
        ("nobody", "no user 'nobody' in /etc/passwd"),
        ("5:nogroup", "no group 'nogroup' in /etc/group"),
        ("bad", "has no number"),
        ("5:worse", "no group 'worse'"),
        ("4294967295", "is not the number"),
        ("9" * 5000, "is not the number"),
        ("-1", "no user '-1'"),
        ("٣", "no user"),
        (":", "names nobody"),
        ("app:staff:x", "no group 'staff:x'"),
    ],
)
def test_owners_that_are_nobody(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        resolve_owner(text, read)


def test_hostile_lists_of_users() -> None:
    for data in (None, b"", b"\0\xff\n" * 1000, b"app:x:1:2" * 100_000, b":::::\n"):
        with pytest.raises(DockerfileError):
            resolve_owner("app", lambda _, data=data: data)  # type: ignore[misc]


@pytest.mark.parametrize("text", ["755", "0755", "4755", "0", "7777", "00000644"])
def test_octal(text: str) -> None:
    mode = Mode(text)
    assert mode.apply(stat.S_IFREG | 0o4711) == stat.S_IFREG | int(text, 8)
    assert mode.apply(stat.S_IFDIR | 0o1711) == stat.S_IFDIR | int(text, 8)
    assert mode.apply(stat.S_IFLNK | 0o777) == stat.S_IFLNK | 0o777


SYMBOLIC = [
    *("u=rwX,go=rX", "a+X", "+x", "+w", "go-w", "u+s", "g+s", "o+s", "ug+s", "+t", "a+t", "-t", "u=", "a=", "=", "go="),
    *("u=g", "g=u-w", "o=g", "go=u", "u+g", "a-x,u+x", "u=rwx,g=rx,o=", "a=rwxX", "ug+rw-x", "u+rwxs", "=rwx", "o-rwx"),
    *("a+r,a-w", "u=rwxs", "g+u", "o+u-w", "+rX", "-X"),
]


@pytest.mark.parametrize("text", SYMBOLIC)
def test_symbolic_modes_are_those_of_chmod(tmp_path: Path, text: str) -> None:
    """GNU chmod with umask 022 is the judge."""
    mode = Mode(text)
    for number, (is_directory, bits) in enumerate(
        (kind, bits) for kind in (False, True) for bits in (0o644, 0o755, 0o600, 0o4711, 0o7, 0o070, 0o1777, 0)
    ):
        path = tmp_path / str(number)
        path.mkdir() if is_directory else path.write_text("")
        path.chmod(bits)
        done = subprocess.run(["chmod", "--", text, path], umask=0o022, capture_output=True)
        if done.returncode and b"new permissions are" not in done.stderr:
            pytest.fail(done.stderr.decode())
        found = path.stat().st_mode
        ours = mode.apply((stat.S_IFDIR if is_directory else stat.S_IFREG) | bits)
        if is_directory:  # GNU keeps the set-id bits of directories
            found, ours = found & ~0o6000, ours & ~0o6000
        if "=" in text:  # GNU takes the sticky bit away, BuildKit keeps what no letter names
            found, ours = found & ~0o1000, ours & ~0o1000
        assert oct(ours) == oct(found), (text, is_directory, oct(bits))


@pytest.mark.parametrize(
    "text", ["8", "77777", "0o755", "-1", "u", "rwx", "u=rw,", "x+r", "u=rwz", " 755", "u=rw go=r", ""]
)
def test_modes_that_mean_nothing(text: str) -> None:
    with pytest.raises(DockerfileError, match="--chmod="):
        Mode(text)
