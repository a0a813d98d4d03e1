"""Random pairs of trees, and an exact picture of a tree to compare with.

``random_pair(seed)`` gives a model of A and of B; ``Tree.make(path)`` builds one. B comes from A by random edits, so
pairs have what real ones have: mostly equal, with attributes, contents, types, names and hard-link groups changed.
``tree_pairs()`` is the same as a hypothesis strategy, which shrinks. ``snapshot`` and ``assert_same_tree`` share no
code with fastlayer.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import random
import stat
import struct
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import strategies as st

ROOT = os.geteuid() == 0

NAMES = [
    b"a", b"a-b", b"a.b", b"a b", b"-rf", b"--", b"new\nline", b"\xff\xfe", b"n" * 99, b"m" * 100, b"k" * 101,
    b"x" * 255, b"\xc3\xa9", b"e\xcc\x81", b"UP", b"up", b" ", b"\\", b"'\"", b"*", b".hidden", b"...", b"..a", b"a=b",
    b"\t", b"\x01", b"\x7f", b"PaxHeaders.0", b"b", b"c", b"d", b"e", b"lib", b"usr", b"etc", b".wh", b"x.wh.y",
    b"\xe2\x82\xac" * 40,
]  # fmt: skip
WHITEOUT_NAMES = [b".wh.a", b".wh..wh..opq", b".wh.", b".wh..wh.plnk"]
SIZES = [0, 1, 3, 511, 512, 513, 1024, 4095, 4096, 4097, 65535, 65536, 65537, 131071, 131072, 131073]
LARGE_SIZES = [1048575, 1048576, 1048577, 3 * 1048576 + 5]
MODES = [0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o000, 0o7777, 0o555]
IDS = [0, 1, 1000, 65534, 2097151, 2097152, 4294967294]
TIMES = [
    0, 1, 10**9 * 1_700_000_000, 1_700_000_000_123_456_789, 1_700_000_000_500_000_000, -1, -1_500_000_000, -(10**9),
    -(10**9) * 100_000, 10**9 * 4_294_967_296, 10**9 * 8_589_934_591, 10**9 * 8_589_934_592 + 1,
]  # fmt: skip
TARGETS = [
    b"a", b"../a", b"/etc/passwd", b"nowhere", b".", b"..", b"/", b"a//b/", b"\xff\n", b"t" * 100, b"t" * 101,
    b"q/" * 500,
]  # fmt: skip
DEVICES = [(1, 3), (1, 5), (0, 0), (8, 300), (4095, 1048575)]
FILE_XATTRS = [
    (b"user.one", b"1"), (b"user.one", b"2"), (b"user.empty", b""), (b"user.bin", b"\x00\n=\xff"), (b"user.a=b", b"v"),
    (b"user.\xff\xfe", b"raw"), (b"user.big", b"B" * 3000), (b"user.%41", b"p"),
]  # fmt: skip
ROOT_XATTRS = [(b"security.other", b"s"), (b"security.other", b"\0")]
TRUSTED_XATTRS = [(b"trusted.t", b"x"), (b"trusted.t", b"y"), (b"trusted.overlay.opaque", b"y")]
CAPABILITIES = [struct.pack("<IIIII", 0x02000001, caps, 0, 0, 0) for caps in (0x2000, 0x400)]


def acl(*named: tuple[int, int, int], mask: int = 5) -> bytes:
    """A POSIX ACL as the kernel stores it: (tag, id, permissions) of the named entries, the rest fixed."""
    rows = [(0x01, 7, 0xFFFFFFFF), (0x04, 4, 0xFFFFFFFF), (0x10, mask, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF)]
    rows += [(tag, permissions, number) for tag, number, permissions in named]
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *row) for row in sorted(rows, key=lambda r: (r[0], r[2]))
    )


ACLS = [acl((0x02, 1000, 7)), acl((0x02, 1000, 7), (0x08, 50, 5), mask=7)]

# ---- the model --------------------------------------------------------------------------------


@dataclass
class Node:
    """An inode. The same object under several paths of a Tree is a hard link."""

    kind: str  # dir file symlink fifo char block socket
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    seed: int = 0
    holes: bool = False
    link: bytes = b""
    rdev: tuple[int, int] = (0, 0)

    def data(self) -> list[tuple[int, bytes]]:
        """(offset, bytes) pieces; what is between them is a hole."""
        if not self.holes:
            return [(0, random.Random(self.seed).randbytes(self.size))] if self.size else []
        rng = random.Random(self.seed)
        starts = [start for start in range(0, self.size, 65536) if rng.random() < 0.4]
        return [(start, rng.randbytes(min(4096, self.size - start))) for start in starts]


class Tree(dict[bytes, Node]):
    """Paths to nodes; the root is ``b""``. Every parent is there."""

    def dirs(self) -> list[bytes]:
        return [path for path, node in self.items() if node.kind == "dir"]

    def others(self) -> list[bytes]:
        return [path for path, node in self.items() if node.kind != "dir"]

    def remove(self, path: bytes) -> None:
        for below in [p for p in self if p == path or p.startswith(path + b"/")]:
            del self[below]

    def clone(self) -> Tree:
        return copy.deepcopy(self)

    def make(self, where: str | bytes, *, linked_to: tuple[Tree, str | bytes] | None = None) -> None:
        """Builds the tree in a new directory. ``linked_to=(other, path)``: nodes that are equal at the same path of an
        other tree, already made at path, become hard links to its files."""
        os.mkdir(where)
        root = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        partner = os.open(linked_to[1], os.O_RDONLY | os.O_DIRECTORY) if linked_to else -1
        try:
            made: dict[int, bytes] = {}
            taken: set[int] = set()
            for path in sorted(self):
                node = self[path]
                other = linked_to[0].get(path) if linked_to else None
                if path == b"":
                    continue
                if id(node) in made:
                    _link(root, made[id(node)], root, path)
                elif other is not None and other == node and node.kind != "dir" and id(other) not in taken:
                    taken.add(id(other))
                    _link(partner, path, root, path)
                else:
                    _create(root, path, node)
                made[id(node)] = path
            for path in sorted(self, reverse=True):
                if self[path].kind == "dir":
                    _set_attributes(root, path, self[path])
        finally:
            os.close(root)
            if partner >= 0:
                os.close(partner)


@contextmanager
def _parent(root: int, path: bytes) -> Iterator[tuple[int, bytes]]:
    """A descriptor of the parent directory, and the last name: paths may be longer than PATH_MAX."""
    *parents, name = path.split(b"/")
    fd = os.dup(root)
    try:
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd, name or b"."
    finally:
        os.close(fd)


def _link(from_root: int, source: bytes, to_root: int, path: bytes) -> None:
    with _parent(from_root, source) as (src, src_name), _parent(to_root, path) as (dst, dst_name):
        os.link(src_name, dst_name, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)


def _create(root: int, path: bytes, node: Node) -> None:
    with _parent(root, path) as (fd, name):
        if node.kind == "dir":
            os.mkdir(name, 0o700, dir_fd=fd)
            return
        if node.kind == "file":
            _write(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd), node)
        elif node.kind == "symlink":
            os.symlink(node.link, name, dir_fd=fd)
        else:
            types = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK}
            os.mknod(name, types[node.kind] | 0o600, os.makedev(*node.rdev), dir_fd=fd)
    _set_attributes(root, path, node)


def _write(fd: int, node: Node) -> None:
    try:
        for offset, data in node.data():
            os.pwrite(fd, data, offset)
        os.ftruncate(fd, node.size)
    finally:
        os.close(fd)


def _set_attributes(root: int, path: bytes, node: Node) -> None:
    with _parent(root, path) as (fd, name):
        if os.geteuid() == 0:
            os.chown(name, node.uid, node.gid, dir_fd=fd, follow_symlinks=False)
        acls = {key: value for key, value in node.xattrs.items() if key.startswith(b"system.posix_acl")}
        for key, value in node.xattrs.items() - acls.items():  # without root only while it is writable
            os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), key, value, follow_symlinks=False)
        if node.kind != "symlink":
            os.chmod(name, node.mode, dir_fd=fd)
        for key, value in acls.items():
            os.setxattr(b"/proc/self/fd/%d/%s" % (fd, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(node.mtime_ns, node.mtime_ns), dir_fd=fd, follow_symlinks=False)


# ---- random trees -----------------------------------------------------------------------------


class Generator:
    """Makes and edits trees with one random source (``random.Random`` or hypothesis's).

    Off by default: sockets (not in a layer), names like whiteouts (refused), trusted.* xattrs (the host's: they are not
    in a layer), files of megabytes. Without ``root`` everything stays readable to its owner;
    ``closed``: but not all of it writable.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        sockets: bool = False,
        whiteout_names: bool = False,
        large: bool = False,
        trusted: bool = False,
        root: bool = ROOT,
        closed: bool = False,
    ) -> None:
        self.rng = rng
        self.root = root
        self.dir_modes = MODES if root else [0o755, 0o700, 0o2775] + [0o555, 0o500, 0o1577] * closed
        self.file_modes = MODES if root else [0o644, 0o755, 0o600] + [0o444, 0o400] * closed
        self.root_xattrs = (ROOT_XATTRS + (TRUSTED_XATTRS if trusted else [])) if root else []
        self.kinds = ["dir"] * 5 + ["file"] * 8 + ["symlink"] * 2 + ["fifo"]
        self.kinds += ["char", "block"] if root else []
        self.kinds += ["socket"] if sockets else []
        self.names = NAMES + (WHITEOUT_NAMES if whiteout_names else [])
        self.sizes = SIZES + (LARGE_SIZES if large else [])

    def often(self, probability: float) -> bool:
        return self.rng.random() < probability

    def name(self) -> bytes:
        if self.often(0.6):
            return self.rng.choice(self.names)
        return bytes(self.rng.choice(b"abcxyz-._") for _ in range(self.rng.randint(1, 3))).strip(b".") or b"z"

    def node(self, kind: str | None = None) -> Node:
        kind = kind or self.rng.choice(self.kinds)
        node = Node(kind, self.mode(kind), self.id(), self.id(), self.mtime())
        if kind == "file":
            node.size, node.seed, node.holes = self.rng.choice(self.sizes), self.rng.randint(0, 9), self.often(0.15)
        elif kind == "symlink":
            node.link, node.mode = self.rng.choice(TARGETS), 0o777
        elif kind in ("char", "block"):
            node.rdev = self.rng.choice(DEVICES)
        if self.often(0.3):
            node.xattrs = self.xattrs(kind)
        return node

    def mode(self, kind: str = "dir") -> int:
        return self.rng.choice(self.dir_modes if kind == "dir" else self.file_modes)

    def id(self) -> int:
        return self.rng.choice(IDS) if self.root else os.geteuid()

    def mtime(self) -> int:
        return self.rng.choice(TIMES) if self.often(0.7) else self.rng.randint(-(10**18), 4 * 10**18)

    def xattrs(self, kind: str) -> dict[bytes, bytes]:
        choices = list(self.root_xattrs)
        if kind in ("file", "dir"):
            choices += FILE_XATTRS + [(b"system.posix_acl_access", value) for value in ACLS]
        if kind == "dir":
            choices += [(b"system.posix_acl_default", value) for value in ACLS]
        if kind == "file" and self.root:
            choices += [(b"security.capability", value) for value in CAPABILITIES]
        return dict(self.rng.choice(choices) for _ in range(self.rng.randint(1, 3))) if choices else {}

    def free_path(self, tree: Tree, *, outside: bytes | None = None) -> bytes:
        """A path with a directory as parent and nothing there, not below ``outside``."""
        dirs = [d for d in tree.dirs() if outside is None or not (d + b"/").startswith(outside + b"/")]
        while True:
            parent = self.rng.choice(dirs)
            path = parent + b"/" + self.name() if parent else self.name()
            if path not in tree:
                return path
            dirs = [*dirs, b""]
            path += b"%d" % self.rng.randint(0, 10**6)
            if path not in tree and len(path.rpartition(b"/")[2]) <= 255:
                return path

    def tree(self, count: int) -> Tree:
        tree = Tree({b"": self.node("dir")})
        for _ in range(count):
            self.add(tree)
        if self.often(0.1):
            self.chain(tree)
        return tree

    def pair(self, size: int) -> tuple[Tree, Tree]:
        a = self.tree(self.rng.randint(0, size))
        b = a.clone()
        for _ in range(self.rng.randint(0, max(2, size // 2))):
            self.rng.choice(EDITS)(self, b)
        return a, b

    # ---- edits; each leaves a whole tree, and does nothing where it cannot

    def add(self, tree: Tree) -> None:
        path = self.free_path(tree)
        others = tree.others()
        tree[path] = tree[self.rng.choice(others)] if others and self.often(0.2) else self.node()

    def chain(self, tree: Tree) -> None:
        """A deep path, sometimes longer than PATH_MAX."""
        path = self.free_path(tree)
        name = self.rng.choice([b"p", b"deep" * 10, b"w" * 250])
        for _ in range(self.rng.randint(5, 25)):
            tree[path] = self.node("dir")
            path += b"/" + name
        tree[path] = self.node()

    def remove(self, tree: Tree) -> None:
        if path := self._some(tree):
            tree.remove(path)

    def touch(self, tree: Tree) -> None:
        self._any(tree).mtime_ns = self.mtime()

    def touch_directory(self, tree: Tree) -> None:
        tree[self.rng.choice(tree.dirs())].mtime_ns = self.mtime()

    def chmod(self, tree: Tree) -> None:
        node = self._any(tree)
        node.mode = node.mode if node.kind == "symlink" else self.mode(node.kind)

    def chown(self, tree: Tree) -> None:
        node = self._any(tree)
        node.uid, node.gid = self.id(), self.id()

    def set_xattrs(self, tree: Tree) -> None:
        node = self._any(tree)
        node.xattrs = self.xattrs(node.kind) if self.often(0.6) else {}

    def rewrite(self, tree: Tree) -> None:
        """New bytes; size and mtime as they were in half of the cases."""
        files = [node for node in tree.values() if node.kind == "file"]
        if files:
            node = self.rng.choice(files)
            node.seed += 1
            if self.often(0.5):
                node.size, node.mtime_ns = self.rng.choice(self.sizes), self.mtime()

    def retarget(self, tree: Tree) -> None:
        for node in tree.values():
            if node.kind == "symlink" and self.often(0.5):
                node.link = self.rng.choice(TARGETS)
            elif node.kind in ("char", "block") and self.often(0.5):
                node.rdev = self.rng.choice(DEVICES)

    def replace(self, tree: Tree) -> None:
        """Another inode, mostly of another type, at a path; a directory gets a few children."""
        if path := self._some(tree):
            tree.remove(path)
            tree[path] = self.node()
            for _ in range(self.rng.randint(0, 3) if tree[path].kind == "dir" else 0):
                tree[path + b"/" + self.name()] = self.node()

    def move(self, tree: Tree) -> None:
        if path := self._some(tree):
            to = self.free_path(tree, outside=path)
            for below in [p for p in tree if p == path or p.startswith(path + b"/")]:
                tree[to + below[len(path) :]] = tree.pop(below)

    def swap(self, tree: Tree) -> None:
        """Two names change places: regroups hard links."""
        if len(others := tree.others()) > 1:
            one, two = self.rng.sample(others, 2)
            tree[one], tree[two] = tree[two], tree[one]

    def link(self, tree: Tree) -> None:
        if others := tree.others():
            tree[self.free_path(tree)] = tree[self.rng.choice(others)]

    def merge(self, tree: Tree) -> None:
        """A name becomes a link to another, sometimes with the same attributes and bytes as before."""
        if len(others := tree.others()) > 1:
            one, two = self.rng.sample(others, 2)
            tree[one] = tree[two]

    def split(self, tree: Tree) -> None:
        """A name gets an inode of its own, equal in all else."""
        if path := self._some_linked(tree):
            tree[path] = copy.deepcopy(tree[path])

    def unlink(self, tree: Tree) -> None:
        if path := self._some_linked(tree):
            del tree[path]

    def _any(self, tree: Tree) -> Node:
        return tree[self.rng.choice(list(tree))]

    def _some(self, tree: Tree) -> bytes | None:
        paths = [path for path in tree if path]
        return self.rng.choice(paths) if paths else None

    def _some_linked(self, tree: Tree) -> bytes | None:
        names: dict[int, list[bytes]] = defaultdict(list)
        for path in tree.others():
            names[id(tree[path])].append(path)
        linked = [path for group in names.values() if len(group) > 1 for path in group]
        return self.rng.choice(linked) if linked else None


EDITS = [
    Generator.add, Generator.add, Generator.chain, Generator.remove, Generator.touch, Generator.touch_directory,
    Generator.chmod, Generator.chown, Generator.set_xattrs, Generator.rewrite, Generator.rewrite, Generator.retarget,
    Generator.replace, Generator.replace, Generator.move, Generator.swap, Generator.link, Generator.merge,
    Generator.split, Generator.split, Generator.unlink,
]  # fmt: skip


def random_pair(seed: int, size: int = 40, **options: bool) -> tuple[Tree, Tree]:
    """The models of A and B; the same for the same arguments."""
    return Generator(random.Random(seed), **options).pair(size)


def tree_pairs(size: int = 12, **options: bool) -> st.SearchStrategy[tuple[Tree, Tree]]:
    return st.randoms(use_true_random=False).map(lambda rng: Generator(rng, **options).pair(size))


# ---- the picture of a tree --------------------------------------------------------------------


class Picture(NamedTuple):
    """Everything one path of a tree has. ``names``: all paths of the tree that are this inode."""

    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: str
    link: bytes
    rdev: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...]
    names: frozenset[bytes]


_HOST_XATTRS = (b"security.selinux", b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT")  # XFS shows ACLs twice
_TYPES = {
    stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFSOCK: "socket",
}  # fmt: skip


def snapshot(path: str | bytes) -> dict[bytes, Picture]:
    """Every path below (the root is ``b""``) with everything it has. Access times are left alone where permitted."""
    found: dict[bytes, Picture] = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _look(fd, b".", b"", found, inodes)
        _look_below(fd, b"", found, inodes)
    finally:
        os.close(fd)
    groups: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    for name, inode in inodes.items():
        groups[inode].add(name)
    return {name: picture._replace(names=frozenset(groups[inodes[name]])) for name, picture in found.items()}


def _look_below(fd: int, path: bytes, found: dict[bytes, Picture], inodes: dict[bytes, tuple[int, int]]) -> None:
    for text in os.listdir(fd):
        name = os.fsencode(text)
        whole = path + b"/" + name if path else name
        _look(fd, name, whole, found, inodes)
        if found[whole].type == "dir":
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                _look_below(inner, whole, found, inodes)
            finally:
                os.close(inner)


def _look(fd: int, name: bytes, path: bytes, found: dict[bytes, Picture], inodes: dict[bytes, tuple[int, int]]) -> None:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    device = kind in ("char", "block")
    found[path] = Picture(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        content=_digest(fd, name) if kind == "file" else "",
        link=os.readlink(name, dir_fd=fd) if kind == "symlink" else b"",
        rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)) if device else (0, 0),
        xattrs=_xattrs(fd, name),
        names=frozenset(),
    )
    inodes[path] = (status.st_dev, status.st_ino)


def _digest(dir_fd: int, name: bytes) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    with os.fdopen(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(fd: int, name: bytes) -> tuple[tuple[bytes, bytes], ...]:
    where = b"/proc/self/fd/%d/%s" % (fd, name)
    try:
        keys = [os.fsencode(key) for key in os.listxattr(where, follow_symlinks=False)]
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    return tuple(
        (key, os.getxattr(where, key, follow_symlinks=False)) for key in sorted(keys) if key not in _HOST_XATTRS
    )


def differences(left: Any, right: Any, *, ignore: Collection[str] = ()) -> list[str]:
    """One line for each path and field that differs; trees are directories or snapshots."""
    one = left if isinstance(left, dict) else snapshot(left)
    two = right if isinstance(right, dict) else snapshot(right)
    lines = []
    for path in sorted(one.keys() | two.keys()):
        if path not in one or path not in two:
            lines.append(
                f"{path!r}: only in the {'second' if path in two else 'first'}: {one.get(path) or two.get(path)}"
            )
            continue
        for name in Picture._fields:
            was, now = getattr(one[path], name), getattr(two[path], name)
            if was != now and name not in ignore:
                lines.append(f"{path!r}: {name}: {_show(was)} != {_show(now)}")
    return lines


def _show(value: Any) -> str:
    return repr(sorted(value) if isinstance(value, frozenset) else value)[:300]


def assert_same_tree(left: Any, right: Any, *, ignore: Collection[str] = ()) -> None:
    """Fails with the first differences, a line each. ``ignore``: names of ``Picture`` fields."""
    lines = differences(left, right, ignore=ignore)
    if lines:
        more = f"\n... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise AssertionError("trees differ:\n" + "\n".join(lines[:20]) + more)
