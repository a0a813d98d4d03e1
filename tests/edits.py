"""Random edits of a real directory, made with system calls, as a container would: for tests of what finds changes
without looking everywhere. Root only. ``Editor(random.Random(seed), root).edit(times)``."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

_FICLONE = 0x40049409
_EXCHANGE = 2
_PUNCH, _KEEP_SIZE = 2, 1
_libc = ctypes.CDLL(None, use_errno=True)
NAMES = [b"a", b"a-b", b"a.b", b"b", b"c", b"d", b"new\nline", b"\xff\xfe", b"n" * 100, b"x" * 255, b"A", b"0"]


class Editor:
    """``nested``: makes a subvolume of the directory it is given (btrfs)."""

    def __init__(self, rng: random.Random, root: Path, *, nested: Callable[[bytes], None] | None = None) -> None:
        self.rng = rng
        self.root = os.fsencode(root)
        self.nested = nested
        self.log: list[str] = []

    def edit(self, times: int) -> None:
        for _ in range(times):
            operation = self.rng.choice(OPERATIONS)
            self.log.append(operation.__name__)
            try:
                operation(self)
            except OSError as exc:
                if exc.errno not in (
                    errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.EINVAL, errno.EXDEV, errno.ENOTDIR,
                    errno.EISDIR, errno.EPERM, errno.ENAMETOOLONG, errno.EMLINK, errno.ENODATA, errno.EBUSY,
                    errno.EOPNOTSUPP,
                ):  # fmt: skip
                    raise

    # ---- choosing

    def paths(self) -> list[tuple[bytes, int]]:
        found = []
        for folder, names, files in os.walk(self.root):
            found += [(p, os.lstat(p).st_mode) for p in (os.path.join(folder, n) for n in sorted(names + files))]
        return sorted(found)

    def some(self, kind: int | None = None) -> bytes:
        found = [path for path, mode in self.paths() if kind is None or stat.S_IFMT(mode) == kind]
        if not found:
            raise FileNotFoundError(errno.ENOENT, "nothing to edit")
        return self.rng.choice(found)

    def directory(self) -> bytes:
        return self.rng.choice([self.root, *(path for path, mode in self.paths() if stat.S_ISDIR(mode))])

    def place(self) -> bytes:
        return os.path.join(self.directory(), self.rng.choice(NAMES))

    def data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice([0, 1, 100, 3000, 4096, 5000, 70_000, 200_000]))

    # ---- edits

    def write_new(self) -> None:
        with open(self.place(), "xb") as file:
            file.write(self.data())

    def overwrite(self) -> None:
        with open(self.some(stat.S_IFREG), "r+b") as file:
            file.seek(self.rng.randint(0, 5000))
            file.write(self.data())

    def overwrite_quietly(self) -> None:
        """The size and the times stay."""
        path = self.some(stat.S_IFREG)
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.write(self.rng.randbytes(min(before.st_size, 50)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def write_the_same(self) -> None:
        path = self.some(stat.S_IFREG)
        before = os.stat(path)
        with open(path, "r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def truncate(self) -> None:
        path = self.some(stat.S_IFREG)
        os.truncate(path, self.rng.choice([0, 1, os.stat(path).st_size // 2, 150_000]))

    def punch(self) -> None:
        with open(self.some(stat.S_IFREG), "r+b") as file:
            _check(_libc.fallocate(file.fileno(), _PUNCH | _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(8192)))

    def reflink(self) -> None:
        with open(self.some(stat.S_IFREG), "rb") as source, open(self.place(), "xb") as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())

    def chmod(self) -> None:
        os.chmod(self.some(), self.rng.choice([0o600, 0o755, 0o4711, 0o1777]))

    def chmod_and_back(self) -> None:
        path = self.some(stat.S_IFREG)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        os.chmod(path, 0o700)
        os.chmod(path, mode)

    def chown(self) -> None:
        os.chown(self.some(), self.rng.choice([0, 1, 1000]), 5, follow_symlinks=False)

    def set_xattr(self) -> None:
        kind = self.rng.choice([stat.S_IFREG, stat.S_IFDIR])
        value = self.rng.randbytes(self.rng.choice([1, 2000]))
        os.setxattr(self.some(kind), self.rng.choice([b"user.a", b"user.b", b"security.other"]), value)

    def remove_xattr(self) -> None:
        path = self.some(stat.S_IFREG)
        for name in os.listxattr(path):
            os.removexattr(path, name)

    def touch(self) -> None:
        os.utime(self.some(), ns=(1, self.rng.randint(0, 10**18)), follow_symlinks=False)

    def read(self) -> None:
        Path(os.fsdecode(self.some(stat.S_IFREG))).read_bytes()

    def unlink(self) -> None:
        os.unlink(self.some())

    def unlink_open(self) -> None:
        """A file that has no name any more, but is still there."""
        path = self.some(stat.S_IFREG)
        with open(path, "r+b") as file:
            os.unlink(path)
            file.write(b"gone")

    def unlink_and_make_again(self) -> None:
        path = self.some(stat.S_IFREG)
        data = Path(os.fsdecode(path)).read_bytes()
        os.unlink(path)
        Path(os.fsdecode(path)).write_bytes(data if self.rng.random() < 0.5 else self.data())

    def remove_tree(self) -> None:
        shutil.rmtree(self.some(stat.S_IFDIR), ignore_errors=True)

    def remove_tree_and_make_again(self) -> None:
        path = self.some(stat.S_IFDIR)
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
        Path(os.fsdecode(path), "again").write_bytes(self.data())

    def mkdir(self) -> None:
        os.mkdir(self.place())

    def make_tree(self) -> None:
        path = self.place()
        os.mkdir(path)
        for name in NAMES[:3]:
            os.mkdir(os.path.join(path, name))
            Path(os.fsdecode(path), os.fsdecode(name), "f").write_bytes(self.data())

    def rename(self) -> None:
        os.rename(self.some(), self.place())

    def rename_directory(self) -> None:
        os.rename(self.some(stat.S_IFDIR), self.place())

    def rename_over(self) -> None:
        os.rename(self.some(stat.S_IFREG), self.some(stat.S_IFREG))

    def rename_and_back(self) -> None:
        path, place = self.some(), self.place()
        os.link(path, place, follow_symlinks=False)
        os.unlink(path)
        os.rename(place, path)

    def exchange(self) -> None:
        """Also of two directories, or a directory and a file."""
        _check(_libc.renameat2(-100, self.some(), -100, self.some(), _EXCHANGE))

    def link(self) -> None:
        os.link(self.some(stat.S_IFREG), self.place(), follow_symlinks=False)

    def link_many(self) -> None:
        """More names than fit into one item."""
        path, folder = self.some(stat.S_IFREG), self.directory()
        for number in range(40):
            os.link(path, os.path.join(folder, b"l" * 200 + b"%d" % number))

    def link_over(self) -> None:
        path, victim = self.some(stat.S_IFREG), self.some(stat.S_IFREG)
        if path != victim:
            os.unlink(victim)
            os.link(path, victim)

    def change_type(self) -> None:
        path = self.some()
        shutil.rmtree(path, ignore_errors=True) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)
        self.make_special(path)

    def special(self) -> None:
        self.make_special(self.place())

    def make_special(self, path: bytes) -> None:
        kind = self.rng.randrange(6)
        if kind == 0:
            os.mkdir(path)
        elif kind == 1:
            os.symlink(self.rng.choice([b"a", b"../b", b"t" * 300]), path)
        elif kind == 2:
            os.mkfifo(path)
        elif kind == 3:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, self.rng.choice([3, 5, 7])))
        elif kind == 4:
            os.mknod(path, stat.S_IFSOCK | 0o600)
        else:
            with open(path, "xb") as file:
                file.write(self.data())

    def make_nested(self) -> None:
        if self.nested is None or self.rng.random() < 0.5:
            return
        path = self.place()
        self.nested(path)
        Path(os.fsdecode(path), "inside").write_bytes(self.data())

    def commit(self) -> None:
        """What was edited before and what comes after are in different transactions."""
        if self.rng.random() < 0.3:
            fd = os.open(self.root, os.O_RDONLY)
            _libc.syncfs(fd)
            os.close(fd)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "edit")


OPERATIONS: tuple[Callable[[Editor], None], ...] = tuple(
    value
    for name, value in vars(Editor).items()
    if callable(value) and not name.startswith("_")
    and name not in ("edit", "paths", "some", "directory", "place", "data", "make_special")
)  # fmt: skip
