"""A stack of layer tars as one tree: what ``apply`` would make of it, without making it.

Entries are put into a tree in memory: whiteouts hide what lower layers have and nothing of their own layer, parents
are resolved inside the tree, the last of equal names wins. One object for each inode and each name.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from fastlayer._baseline import whiteouts
from fastlayer._baseline.paths import normalise
from fastlayer._baseline.tarread import TarItem, TarScanner
from fastlayer._baseline.tree import FLAG_HAS_KEY, FLAG_NO_CTIME, pack_xattrs
from fastlayer.errors import LimitError, UnsafeEntryError, UsageError, show_path

_MAX_LINKS = 40  # symbolic links in one path, as in the kernel
_MAX_NAME = 255
_NS = 1_000_000_000
_IMPLIED = stat.S_IFDIR | 0o755
_TYPES = {
    "0": stat.S_IFREG,
    "2": stat.S_IFLNK,
    "3": stat.S_IFCHR,
    "4": stat.S_IFBLK,
    "5": stat.S_IFDIR,
    "6": stat.S_IFIFO,
}
# name and array type, in the order of Columns
_COLUMNS = (
    ("dev", "Q"),
    ("ino", "Q"),
    ("size", "Q"),
    ("mtime_sec", "q"),
    ("ctime_sec", "q"),
    ("path_off", "Q"),
    ("mtime_nsec", "I"),
    ("ctime_nsec", "I"),
    ("mode", "I"),
    ("uid", "I"),
    ("gid", "I"),
    ("nlink", "I"),
    ("rdev_major", "I"),
    ("rdev_minor", "I"),
    ("path_len", "I"),
    ("link_len", "I"),
    ("xattr_len", "I"),
    ("flags", "I"),
)


class Node:
    """An inode of the tree. ``item`` is its tar entry, None for a directory that only its children imply."""

    __slots__ = ("children", "clean", "data_off", "item", "key", "names", "number")

    def __init__(self, item: TarItem | None, number: int, *, is_dir: bool) -> None:
        self.item = item
        self.number = number
        self.children: dict[bytes, Name] | None = {} if is_dir else None
        self.clean = -1  # the layer whose opaque marker has already been carried out here
        self.key: bytes | None = None
        self.data_off = 0
        self.names = 0


class Name:
    """A name in a directory: what it stands for and the layer that put it there."""

    __slots__ = ("layer", "node")

    def __init__(self, node: Node, layer: int) -> None:
        self.node = node
        self.layer = layer


class Tree:
    """The tree while layers are put onto it. ``begin_layer``, then ``put`` for each entry."""

    def __init__(self) -> None:
        self.root = Node(None, 0, is_dir=True)
        self.nodes = [self.root]
        self._layer = -1

    def begin_layer(self) -> None:
        self._layer += 1

    def put(self, item: TarItem) -> Node | None:
        """Carries out one entry. Returns the node of a regular file, whose data follows, else None."""
        parts = normalise(item.path)
        if whiteouts.is_bookkeeping(parts):
            return None
        marker = whiteouts.marker(parts, item.path)
        if marker is not None:
            self._carry_out(marker, item)
            return None
        if not parts:
            self._put_root(item)
            return None
        parent = self._directory(parts[:-1], item, create=True)
        assert parent is not None and parent.children is not None
        name = parts[-1]
        old = parent.children.get(name)
        node = self._link_target(item) if item.type == "1" else self._new(item, old)
        if item.type == "1" and old is not None and old.node is node:
            raise UnsafeEntryError(f"{show_path(item.path)}: hard link to itself")
        parent.children[name] = Name(node, self._layer)
        return node if item.type == "0" else None

    def _add(self, item: TarItem | None, *, is_dir: bool) -> Node:
        self.nodes.append(Node(item, len(self.nodes), is_dir=is_dir))
        return self.nodes[-1]

    def _new(self, item: TarItem, old: Name | None) -> Node:
        if item.type == "5" and old is not None and old.node.children is not None:
            old.node.item = item
            return old.node
        return self._add(item, is_dir=item.type == "5")

    def _put_root(self, item: TarItem) -> None:
        if item.type != "5":
            raise UnsafeEntryError(f"{show_path(item.path)}: an entry that would replace the root")
        self.root.item = item

    def _link_target(self, item: TarItem) -> Node:
        parts = normalise(item.link)
        if not whiteouts.is_bookkeeping(parts):
            whiteouts.marker(parts, item.link)
        parent = self._directory(parts[:-1], item, create=False) if parts else None
        found = parent.children.get(parts[-1]) if parent is not None and parent.children is not None else None
        if found is None or found.node.children is not None:
            raise UnsafeEntryError(f"{show_path(item.path)}: hard link to what is no file of the layers so far")
        return found.node

    def _directory(self, parts: Sequence[bytes], item: TarItem, *, create: bool) -> Node | None:
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
            if found is not None and found.node.children is not None:
                trail.append(found.node)
                continue
            target = found.node.item if found is not None else None
            if target is not None and target.type == "2" and links < _MAX_LINKS:
                links += 1
                if target.link.startswith(b"/"):
                    del trail[1:]
                todo += [piece for piece in reversed(target.link.split(b"/")) if piece not in (b"", b".")]
                continue
            if not create:
                return None
            if target is not None and target.type == "2":
                raise UnsafeEntryError(f"{show_path(item.path)}: too many symbolic links")
            if len(part) > _MAX_NAME:
                raise UnsafeEntryError(f"{show_path(part)}: a component of the name is longer than 255 bytes")
            here[part] = Name(self._add(None, is_dir=True), self._layer)
            trail.append(here[part].node)
        return trail[-1]

    # ---- whiteouts

    def _carry_out(self, marker: whiteouts.Marker, item: TarItem) -> None:
        parent = self._directory(marker.directory, item, create=False)
        if parent is None or parent.children is None:
            return
        if marker.name is None:
            self._prune_children(parent)
        elif (found := parent.children.get(marker.name)) is not None and self._prune(found):
            del parent.children[marker.name]

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


class Merger:
    """See ``fastlayer._backend.Merger``."""

    def __init__(
        self,
        *,
        in_place: bool = False,
        max_entries: int = 0,
        max_size: int = 0,
        max_file_size: int = 0,
        max_pax: int = 1 << 20,
    ) -> None:
        self.entries = self.count = self.size = 0
        self.sparse = False
        self._in_place = in_place
        self._limits = (max_entries, max_file_size, max_size)
        self._max_pax = max_pax
        self._tree = Tree()
        self._scanner = TarScanner(max_pax)
        self._entries_before = self._layer_size = 0
        self._following = False  # data events belong to a file of the tree that is not empty
        self._rows: Iterator[tuple[bytes, Node]] | None = None
        self._heap_len = 0

    def begin_layer(self) -> None:
        self._scanner = TarScanner(self._max_pax)
        self._tree.begin_layer()
        self._entries_before, self._layer_size = self.entries, 0
        self._following = False

    def feed(self, buffer: Any) -> list[tuple[Any, ...]]:
        if self._rows is not None:
            raise UsageError("the layers are complete")
        events: list[tuple[Any, ...]] = []
        for event in self._scanner.feed(buffer):
            if event[0] == "entry":
                self._put(event[1], events)
            elif self._following:
                events.append(event)
        return events

    def _put(self, item: TarItem, events: list[tuple[Any, ...]]) -> None:
        self.entries += 1
        self._layer_size += item.size
        given = (self.entries - self._entries_before, item.size, self._layer_size)
        words = ("entries in the layer", "bytes in a file", "bytes in the files of the layer")
        for value, limit, what in zip(given, self._limits, words, strict=True):
            if limit and value > limit:
                raise LimitError(f"{show_path(item.path)}: more than {limit} {what}")
        node = self._tree.put(item)
        self._following = node is not None and item.size > 0
        if node is None:
            return
        node.data_off = item.data_offset if self._in_place else self.size
        if self._following:
            events.append(("file", node.number, item.size, self.size))
        self.size += item.size
        self.sparse = self.sparse or item.sparse

    def set_key(self, number: int, key: bytes) -> None:
        self._tree.nodes[number].key = bytes(key)

    def end_layer(self) -> None:
        self._scanner.finish()

    def finish(self) -> None:
        if self._rows is not None:
            raise UsageError("the layers are complete")
        rows = sorted(self._tree.entries(), key=lambda entry: entry[0])
        for _, node in rows:
            node.names += 1
        self.count = len(rows)
        self._rows = iter(rows)

    def next_batch(self, n: int = 4096) -> tuple[Any, ...] | None:
        if self._rows is None:
            raise UsageError("the layers are not complete")
        columns = {name: array(kind) for name, kind in _COLUMNS}
        heap, keys, offsets = bytearray(), bytearray(), array("Q")
        for path, node in islice(self._rows, n):
            values, variable = _values(path, node)
            values["path_off"] = self._heap_len + len(heap)
            heap += variable
            keys += node.key or bytes(32)
            offsets.append(node.data_off)
            for name, column in columns.items():
                column.append(values.get(name, 0))
        self._heap_len += len(heap)
        return (*columns.values(), heap, keys, offsets) if len(offsets) else None


def _values(path: bytes, node: Node) -> tuple[dict[str, int], bytes]:
    """One path by column, where what is missing is 0, and its variable part."""
    values = {
        "ino": node.number,
        "path_len": len(path),
        "nlink": node.names,
        "flags": FLAG_NO_CTIME | (FLAG_HAS_KEY if node.key is not None else 0),
    }
    item = node.item
    if item is None:
        return values | {"mode": _IMPLIED}, path
    link = item.link if item.type == "2" else b""
    xattrs = pack_xattrs(tuple(pair for pair in item.xattrs if not pair[0].startswith(b"trusted.")))  # apply's rule
    seconds, nanoseconds = divmod(item.mtime_ns, _NS)
    values |= {
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
    }
    return values, path + link + xattrs
