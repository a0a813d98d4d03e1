"""A stack of layer tars as one tree: what ``apply`` would make of it, without making it.

Layers are read once, lowest first, and entries are put into a tree in memory by the rules of ``apply``: whiteouts
hide what lower layers have and nothing of their own layer, parents are resolved inside the tree, the last of equal
names wins.
File contents pass by; their blake3 keys stay. When this tree is B of a layer, the contents come from the tar
itself (a single uncompressed one) or from a spool, an unlinked temporary file, filled at once for a stream and in a
second reading for a file.
"""

from __future__ import annotations

import os
import stat
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Any

from fastlayer import _backend
from fastlayer.errors import (
    FileChangedError,
    LayerError,
    LayerFormatError,
    StorageError,
    UnsafeEntryError,
    show_path,
)
from fastlayer.layer.expand import MAX_RATIO, Expansion
from fastlayer.layer.progress import Reporter
from fastlayer.layer.reading import open_quietly
from fastlayer.layer.source import Source, is_stream

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_META = b".wh..wh."
_MAX_LINKS = 40  # symbolic links in one path, as in the kernel
_NS = 1_000_000_000
_TYPES = {
    "0": stat.S_IFREG,
    "2": stat.S_IFLNK,
    "3": stat.S_IFCHR,
    "4": stat.S_IFBLK,
    "5": stat.S_IFDIR,
    "6": stat.S_IFIFO,
}
_XATTR = Struct("=HI")
_HAS_KEY, _NO_CTIME = 1, 2  # csrc/fl_entry.h
_ZEROS = bytes(1 << 16)


class Node:
    """An inode of the tree. ``item`` is its tar entry, None for a directory that only its children imply."""

    __slots__ = ("children", "clean", "item", "key", "names", "number", "spool_off")

    def __init__(self, item: Any, number: int, *, is_dir: bool) -> None:
        self.item = item
        self.number = number
        self.children: dict[bytes, Name] | None = {} if is_dir else None
        self.clean = -1  # the layer whose opaque marker has already been carried out here
        self.key: bytes | None = None
        self.spool_off = 0
        self.names = 0


class Name:
    """A name in a directory: what it stands for and the layer that put it there."""

    __slots__ = ("layer", "node")

    def __init__(self, node: Node, layer: int) -> None:
        self.node = node
        self.layer = layer


def _components(path: bytes) -> list[bytes]:
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UnsafeEntryError(f"{show_path(path)}: a name with `..`: do not use this layer")
    return parts


class Tree:
    """The tree while layers are put onto it. ``begin_layer``, then ``put`` for each entry."""

    def __init__(self) -> None:
        self.root = Node(None, 0, is_dir=True)
        self._layer = -1
        self._count = 0

    def begin_layer(self) -> None:
        self._layer += 1

    def put(self, item: Any) -> Node | None:
        """Carries out one entry. Returns the node of a regular file, whose data follows, else None."""
        parts = _components(item.path)
        if not parts:
            self._put_root(item)
            return None
        name = parts.pop()
        if any(part.startswith(_WHITEOUT) for part in parts):
            return None
        if name.startswith(_WHITEOUT):
            self._whiteout(item.path, parts, name)
            return None
        parent = self._directory(parts, item.path, create=True)
        assert parent is not None and parent.children is not None
        old = parent.children.get(name)
        node = self._link_target(item) if item.type == "1" else self._new(item, old)
        if item.type == "1" and old is not None and old.node is node:
            raise UnsafeEntryError(f"{show_path(item.path)}: hard link to itself: do not use this layer")
        parent.children[name] = Name(node, self._layer)
        return node if item.type == "0" else None

    def _new(self, item: Any, old: Name | None) -> Node:
        if item.type == "5" and old is not None and old.node.children is not None:
            old.node.item = item
            return old.node
        self._count += 1
        return Node(item, self._count, is_dir=item.type == "5")

    def _put_root(self, item: Any) -> None:
        if item.type != "5":
            if not item.path:
                raise LayerFormatError("an entry without a name: the layer is damaged, fetch it again")
            raise UnsafeEntryError(f"{show_path(item.path)}: would replace the root: do not use this layer")
        self.root.item = item

    def _link_target(self, item: Any) -> Node:
        parts = _components(item.link)
        parent = self._directory(parts[:-1], item.link, create=False) if parts else None
        found = parent.children.get(parts[-1]) if parent is not None and parent.children is not None else None
        if found is None or found.node.children is not None:
            raise UnsafeEntryError(
                f"{show_path(item.path)}: hard link to {show_path(item.link)}, which is no file of the layers so far"
            )
        return found.node

    def _directory(self, parts: Sequence[bytes], path: bytes, *, create: bool) -> Node | None:
        """The directory at ``parts``, links resolved inside the tree; None when it is not there and not created."""
        trail = [self.root]
        todo = list(reversed(parts))
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                if len(trail) > 1:
                    trail.pop()
                continue
            here = trail[-1].children
            assert here is not None
            found = here.get(part)
            if found is None:
                if not create:
                    return None
                self._count += 1
                found = here[part] = Name(Node(None, self._count, is_dir=True), self._layer)
            if found.node.children is not None:
                trail.append(found.node)
                continue
            if found.node.item.type != "2":
                if not create:
                    return None
                self._count += 1
                here[part] = Name(Node(None, self._count, is_dir=True), self._layer)
                trail.append(here[part].node)
                continue
            links += 1
            if links > _MAX_LINKS:
                if not create:
                    return None
                raise UnsafeEntryError(f"{show_path(path)}: too many symbolic links: do not use this layer")
            target = found.node.item.link
            if target.startswith(b"/"):
                del trail[1:]
            todo += [piece for piece in reversed(target.split(b"/")) if piece not in (b"", b".")]
        return trail[-1]

    # ---- whiteouts ----

    def _whiteout(self, path: bytes, parts: list[bytes], name: bytes) -> None:
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise UnsafeEntryError(f"{show_path(path)}: a whiteout of nothing: do not use this layer")
        if name.startswith(_META) and name != _OPAQUE:
            return
        parent = self._directory(parts, path, create=False)
        if parent is None or parent.children is None:
            return
        if name == _OPAQUE:
            self._prune_children(parent)
        elif (found := parent.children.get(hidden)) is not None and self._prune(found):
            del parent.children[hidden]

    def _prune(self, name: Name) -> bool:
        """Removes what is older than this layer at and below a name. True when the name itself has to go."""
        if name.node.children is not None:
            self._prune_children(name.node)
        if name.layer == self._layer:
            return False
        if not name.node.children:
            return True
        name.node.item = None  # it was hidden, and is made again by what this layer puts below it
        name.layer = self._layer
        return False

    def _prune_children(self, top: Node) -> None:
        """Depth first, without recursion: trees may be deeper than the stack."""
        if top.clean == self._layer:
            return
        order = [top]
        for node in order:
            assert node.children is not None
            node.clean = self._layer
            order += [n.node for n in node.children.values() if n.node.children is not None]
        for node in reversed(order):
            assert node.children is not None
            for part, name in list(node.children.items()):
                if name.layer == self._layer:
                    continue
                if name.node.children:
                    name.node.item = None
                    name.layer = self._layer
                else:
                    del node.children[part]

    def entries(self) -> Iterator[tuple[bytes, Node]]:
        """All paths, in no particular order; the root only when a layer had an entry for it."""
        if self.root.item is not None:
            yield b"", self.root
        todo = [(b"", self.root)]
        while todo:
            path, node = todo.pop()
            assert node.children is not None
            for part, name in node.children.items():
                yield path + part, name.node
                if name.node.children is not None:
                    todo.append((path + part + b"/", name.node))


# ---- contents --------------------------------------------------------------------------------------


class _Contents:
    """Follows the data of files as it goes by: their keys, and their place in the spool."""

    def __init__(self, *, keys: bool, spool: int | None) -> None:
        self.size = 0  # of the spool, also when nothing is written
        self.sparse = False  # some file is not stored as it is
        self._keys = keys
        self._spool = spool
        self._node: Node | None = None
        self._hasher: Any = None
        self._at = 0

    def begin(self, node: Node, item: Any) -> None:
        self._node, self._at = node, 0
        node.spool_off = self.size
        self.size += item.size
        self.sparse = self.sparse or item.sparse
        if self._keys:
            import blake3

            self._hasher = blake3.blake3()

    def data(self, piece: memoryview, pos: int) -> None:
        assert self._node is not None
        if self._hasher is not None:
            self._zeros(pos)
            self._hasher.update(piece)
            self._at = pos + len(piece)
        if self._spool is not None:
            _write_at(self._spool, piece, self._node.spool_off + pos)

    def end(self) -> None:
        assert self._node is not None
        if self._hasher is not None:
            self._zeros(self._node.item.size)
            self._node.key = self._hasher.digest()

    def finish(self) -> None:
        if self._spool is not None:
            os.ftruncate(self._spool, self.size)

    def _zeros(self, until: int) -> None:
        while self._at < until:
            step = min(until - self._at, len(_ZEROS))
            self._hasher.update(_ZEROS[:step])
            self._at += step


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while len(data):
        try:
            count = os.pwrite(fd, data, offset)
        except OSError as exc:
            raise StorageError(exc.errno or 0, "spool", tempfile.gettempdir()) from exc
        data, offset = data[count:], offset + count


def _open_spool() -> int:
    try:
        with tempfile.TemporaryFile(prefix="fastlayer-") as file:
            return os.dup(file.fileno())
    except OSError as exc:
        raise StorageError(exc.errno or 0, "spool", tempfile.gettempdir()) from exc


# ---- reading -----------------------------------------------------------------------------------------


class TarTree:
    """A stack that has been read. ``columns`` for a differ, ``contents()`` for an encoder; ``close`` when done."""

    def __init__(self, name: str, columns: _backend.Columns, open_contents: Callable[[], int]) -> None:
        self.name = name
        self.columns = columns
        self._open_contents = open_contents
        self._fd = -1

    def contents(self) -> int:
        """A descriptor of the file that ``columns.data_off`` points into."""
        if self._fd < 0:
            self._fd = self._open_contents()
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_stack(values: Sequence[Any], *, contents: bool, keys: bool, report: Reporter, jobs: int) -> TarTree:
    """Reads layers, lowest first: paths, descriptors or file objects.

    ``contents``: they will be needed, so fill a spool in the same reading if one is needed. ``keys``: hash the files.
    Raises what a damaged or unsafe layer raises, with its name.
    """
    again = all(_can_be_read_again(value) for value in values)
    single = len(values) == 1 and again
    spool = _open_spool() if (contents and not single) or not again else None
    try:
        tree, seen, codecs = _scan(values, _Contents(keys=keys, spool=spool), report, jobs)
        direct = single and codecs == ["none"] and not seen.sparse
        columns = to_columns(tree, direct=direct)
    except BaseException:
        if spool is not None:
            os.close(spool)
        raise

    def open_contents() -> int:
        if spool is not None:
            return spool
        return _reopen(values[0]) if direct else _respool(values, seen.size, report, jobs)

    found = TarTree(" + ".join(Source.describe(value) for value in values), columns, open_contents)
    if spool is not None:
        found.contents()
    return found


def _can_be_read_again(value: Any) -> bool:
    if is_stream(value) or isinstance(value, int):
        return False
    try:
        return stat.S_ISREG(os.stat(value).st_mode)
    except OSError:
        return True  # Source says what is wrong


def _reopen(value: Any) -> int:
    return open_quietly(value)


def _respool(values: Sequence[Any], size: int, report: Reporter, jobs: int) -> int:
    spool = _open_spool()
    try:
        _, seen, _ = _scan(values, _Contents(keys=False, spool=spool), report, jobs)
        if seen.size != size:
            raise FileChangedError(f"{Source.describe(values[0])}: changed while it was read: try again")
    except BaseException:
        os.close(spool)
        raise
    return spool


def _scan(values: Sequence[Any], contents: _Contents, report: Reporter, jobs: int) -> tuple[Tree, _Contents, list[str]]:
    tree, codecs = Tree(), []
    for value in values:
        with Source(value) as source:
            try:
                codecs.append(_scan_layer(tree, source, contents, report, jobs))
            except LayerError as exc:
                raise type(exc)(f"{source.name}: {exc}") from exc
    contents.finish()
    return tree, contents, codecs


def _scan_layer(tree: Tree, source: Source, contents: _Contents, report: Reporter, jobs: int) -> str:
    scanner = _backend.engine().tarread.TarScanner()
    blob = Expansion(source, jobs=jobs, max_ratio=MAX_RATIO, hashed=False)
    following = False  # the data events belong to a file of the tree
    entries = 0

    def sink(buffer: Any) -> None:
        nonlocal following, entries
        view = memoryview(buffer)
        for event in scanner.feed(buffer):
            if event[0] == "entry":
                entries += 1
                node = tree.put(event[1])
                following = node is not None
                if node is not None:
                    contents.begin(node, event[1])
            elif following and event[0] == "data":
                contents.data(view[event[1] : event[2]], event[3])
            elif following:
                contents.end()
        report.update("read", entries, blob.blob_size, source.size)

    tree.begin_layer()
    blob.run(sink)
    scanner.finish()
    return blob.codec


# ---- columns -------------------------------------------------------------------------------------------


def _xattr_blob(xattrs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """csrc/fl_entry.h. ``trusted.*`` is left out, as apply does not set it."""
    return b"".join(
        _XATTR.pack(len(name), len(value)) + name + value for name, value in xattrs if not name.startswith(b"trusted.")
    )


_U64 = ("dev", "ino", "size", "path_off", "data_off")
_I64 = ("mtime_sec", "ctime_sec")
_U32 = [
    "mtime_nsec",
    "ctime_nsec",
    "mode",
    "uid",
    "gid",
    "nlink",
    "rdev_major",
    "rdev_minor",
    "path_len",
    "link_len",
    "xattr_len",
    "flags",
]


def to_columns(tree: Tree, *, direct: bool) -> _backend.Columns:
    """The tree as path-sorted columns. ``direct``: contents are where they are in the tar, else in the spool."""
    entries = sorted(tree.entries(), key=lambda entry: entry[0])
    for _, node in entries:
        node.names += 1
    columns: dict[str, Any] = {name: array("Q") for name in _U64}
    columns |= {name: array("q") for name in _I64} | {name: array("I") for name in _U32}
    heap, keys = bytearray(), bytearray()
    for path, node in entries:
        values = _values(path, node, direct)
        values["path_off"] = len(heap)
        link, xattrs = values.pop("link"), values.pop("xattrs")
        heap += path + link + xattrs
        keys += node.key or bytes(32)
        for name, column in columns.items():
            column.append(values.get(name, 0))
    if not entries:
        for column in columns.values():
            column.append(0)  # an empty array has no aligned address
    return _backend.Columns(count=len(entries), heap=heap, key=keys, racy_ns=0, **columns)


def _values(path: bytes, node: Node, direct: bool) -> dict[str, Any]:
    """One entry, by column; what is missing is 0."""
    values: dict[str, Any] = {
        "dev": 1,
        "ino": node.number,
        "path_len": len(path),
        "nlink": node.names,
        "flags": _NO_CTIME | (_HAS_KEY if node.key is not None else 0),
        "link": b"",
        "xattrs": b"",
    }
    item = node.item
    if item is None:
        return values | {"mode": stat.S_IFDIR | 0o755}
    link = item.link if item.type == "2" else b""
    xattrs = _xattr_blob(item.xattrs)
    seconds, nanoseconds = divmod(item.mtime_ns, _NS)
    return values | {
        "size": len(link) if item.type == "2" else item.size,
        "mtime_sec": seconds,
        "mtime_nsec": nanoseconds,
        "mode": _TYPES[item.type] | item.mode,
        "uid": item.uid,
        "gid": item.gid,
        "rdev_major": item.rdev[0],
        "rdev_minor": item.rdev[1],
        "link_len": len(link),
        "xattr_len": len(xattrs),
        "data_off": item.data_offset if direct else node.spool_off,
        "link": link,
        "xattrs": xattrs,
    }
