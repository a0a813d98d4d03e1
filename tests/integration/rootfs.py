"""A pair of small root file systems with every kind of entry and change that images really have."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

from tests.trees import Picture, assert_same_tree, snapshot

CAP_NET_BIND = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ADDED_LINK = b"usr/share/perl5"  # B's new name of a file that A has
STAMP = 1_700_000_000_123_456_789


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def _settle(root: Path) -> None:
    """Gives every entry a time of its own, children before their directories."""
    paths = sorted((Path(d) / n for d, ds, fs in os.walk(root) for n in ds + fs), key=lambda p: -len(p.parts))
    for number, path in enumerate([*paths, root]):
        os.utime(path, ns=(STAMP, STAMP + number * 1_000_001), follow_symlinks=False)


def base(root: Path) -> None:
    """Tree A."""
    _write(root / "etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    _write(root / "etc/shadow", b"root:*\n", 0o640)
    os.chown(root / "etc/shadow", 0, 42)
    _write(root / "etc/old.conf", b"old")
    _write(root / "usr/bin/tool", os.urandom(70_000), 0o755)
    _write(root / "usr/bin/su", b"\x7fELF" + bytes(600), 0o4755)
    _write(root / "usr/bin/ping", b"ping" * 200, 0o755)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAP_NET_BIND)
    _write(root / "usr/lib/libx.so.1.0", b"x" * 4096)
    os.symlink("libx.so.1.0", root / "usr/lib/libx.so.1")
    os.symlink("usr/lib", root / "lib")
    _write(root / "usr/share/perl5.36", b"perl" * 100, 0o755)
    os.link(root / "usr/share/perl5.36", root / "usr/share/perl")
    _write(root / "var/cache/a/b/c", b"deep")
    _write(root / "var/lib/thing/file", b"becomes a link")
    _write(root / "var/lib/dir/inside", b"goes away with its directory")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "dev").mkdir()
    os.mknod(root / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "dev/loop300", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(root / "dev/initctl", 0o600)
    _write(root / ("long/" + "d" * 120) / ("n" * 150), b"long names")


def update(root: Path) -> None:
    """Makes tree B out of a copy of A."""
    (root / "etc/old.conf").unlink()
    _write(root / "etc/new.conf", b"new")
    _write(root / "etc/passwd", b"root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    os.chown(root / "etc/passwd", 0, 7)
    (root / "usr/bin/tool").chmod(0o750)
    with open(root / "usr/bin/tool", "r+b") as file:
        file.write(b"changed")
    os.removexattr(root / "usr/bin/ping", "security.capability")
    _write(root / "usr/bin/node", b"node", 0o755)
    os.setxattr(root / "usr/bin/node", "security.capability", CAP_NET_BIND)
    os.setxattr(root / "usr/bin/node", "user.note", b"\0binary\n=")
    os.unlink(root / "usr/lib/libx.so.1")
    os.symlink("libx.so.2", root / "usr/lib/libx.so.1")
    os.link(root / "usr/share/perl", root / "usr/share/perl5")
    shutil.rmtree(root / "var/cache/a")
    os.unlink(root / "var/lib/thing/file")
    os.symlink("/etc/passwd", root / "var/lib/thing/file")
    shutil.rmtree(root / "var/lib/dir")
    _write(root / "var/lib/dir", b"now a file")
    os.unlink(root / "dev/loop300")
    os.mknod(root / "dev/loop300", stat.S_IFBLK | 0o660, os.makedev(7, 301))
    _write(root / "usr/share/doc/caf\u00e9 \u2603", b"utf-8 name")
    _write(root / "usr/share/doc/sparse", b"")
    os.truncate(root / "usr/share/doc/sparse", 3 << 20)
    with open(root / "usr/share/doc/sparse", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"island" * 1000)
    _write(root / "opt/app/big", os.urandom(3 << 20))
    os.chown(root / "opt/app", 123_456, 3_000_000)


def pair(work: Path) -> tuple[Path, Path]:
    """Trees A and B below work."""
    a, b = work / "a", work / "b"
    for tree in (a, b):
        shutil.rmtree(tree, ignore_errors=True)
    a.mkdir()
    base(a)
    _settle(a)
    subprocess.run(["cp", "-a", a, b], check=True)
    update(b)
    os.utime(b / "etc/new.conf", ns=(STAMP, STAMP + 5))
    return a, b


def _seen_by(picture: Picture, path: bytes, forgets: frozenset[str]) -> Picture:
    """The picture with what a judge forgets blanked out."""
    if "xattrs" in forgets:
        picture = picture._replace(xattrs=())
    if "user_xattrs" in forgets:
        picture = picture._replace(xattrs=tuple(x for x in picture.xattrs if x[0] == b"security.capability"))
    if path == b"" and forgets & {"root", "root_mtime"}:
        picture = picture._replace(mtime_ns=0)
    if path == b"" and "root" in forgets:
        picture = picture._replace(mode=0, uid=0, gid=0, xattrs=())
    if "link_to_lower" in forgets:
        picture = picture._replace(names=frozenset({path}) if path == ADDED_LINK else picture.names - {ADDED_LINK})
    return picture


def _carried(picture: Picture, forgets: frozenset[str]) -> int:
    """The time that a writer of whole seconds stores."""
    rounds = 5 * 10**8 if "rounds" in forgets else 0
    return (picture.mtime_ns + rounds) // 10**9 * 10**9


def assert_equal(result: Path, wanted: Path, forgets: frozenset[str]) -> None:
    """Equal trees but for what a judge is known to forget."""
    got, want = ({p: _seen_by(v, p, forgets) for p, v in snapshot(str(tree)).items()} for tree in (result, wanted))
    if forgets & {"truncates", "rounds"}:
        for path in got.keys() & want.keys():
            if got[path].mtime_ns == _carried(want[path], forgets):
                got[path] = got[path]._replace(mtime_ns=want[path].mtime_ns)
    assert_same_tree(got, want)
