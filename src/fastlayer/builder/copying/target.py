"""Where COPY and ADD put things, and what of the tree below decides about it.

Links in the target's path are followed inside the root. Directories that are missing are made, 0755, owned by 0:0 or by
whom ``--chown`` names; those that are there stay as they are.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.trees import Entry, Found, Tree, clean, encode, join, link_of, parent, resolve
from fastlayer.errors import DockerfileError, show_path

Fact = tuple[object, ...]
_MANY = 64  # facts


class Overlap(NamedTuple):
    """What is below the target already, of what is copied onto it. ``known``: entries of the lower tree by path;
    ``moved``: directories that are links there, which archives are extracted through."""

    known: dict[bytes, Entry]
    moved: dict[bytes, bytes]


NOTHING = Overlap({}, {})


class Target:
    """The target of one instruction in the tree below its layer.

    ``lower``: None when nothing is below, or nothing of it is looked at (``--link``). ``path``: free of links.
    ``is_directory``: it was there as one; ``wanted``: it is written as one, with a slash at its end.
    Raises ``DockerfileError`` when there is something on the way that is not a directory.
    """

    def __init__(self, lower: Tree | None, target: str, workdir: str) -> None:
        self._lower = lower
        self._facts: dict[Fact, None] = {}
        self._kinds: dict[bytes, dict[bytes, int]] = {}
        raw = encode(target)
        self.wanted = not raw or raw.endswith(b"/") or raw.rpartition(b"/")[2] == b"."
        self.text = target
        whole = raw if raw.startswith(b"/") else encode(workdir) + b"/" + raw
        self.path = resolve(clean(whole), link_of(lower)) if lower is not None else clean(whole)
        self.wanted = self.wanted or not self.path
        self.parents = list(self._parents())
        self.entry = self.find(self.path) if self.path else None
        self.is_directory = not self.path or (self.entry is not None and stat.S_ISDIR(self.entry.mode))
        if self.wanted and self.entry is not None and not self.is_directory:
            raise DockerfileError(f"/{show_path(self.path)} {what(self.entry)}, not a directory")
        self._facts["target", self.path, self.is_directory] = None

    def _parents(self) -> Iterator[tuple[bytes, Entry | None]]:
        """The directories above, from the top, each with its entry when it is there."""
        parts = self.path.split(b"/")[:-1] if self.path else []
        for number in range(1, len(parts) + 1):
            path = b"/".join(parts[:number])
            found = self.find(path)
            if found is not None and not stat.S_ISDIR(found.mode):
                raise DockerfileError(
                    f"{self.text}: /{show_path(path)} {what(found)}: nothing can be copied to below it"
                )
            if found is not None:
                self.depends(found)
            yield path, found

    @property
    def unknown(self) -> bool:
        """Whether nobody looks at what is below."""
        return self._lower is None

    def find(self, path: bytes) -> Entry | None:
        return self._lower.find(path) if self._lower is not None else None

    def depends(self, entry: Entry) -> None:
        """The layer repeats this directory of the lower tree."""
        self._facts["directory", entry.path, entry.mode, entry.uid, entry.gid, entry.xattrs, entry.mtime_ns] = None

    @property
    def facts(self) -> tuple[Fact, ...]:
        """Everything a layer made with this target depends on in the tree below: two trees with equal facts get the
        same layer. To be asked for when the copy is planned. Very many are one digest."""
        found = sorted(self._facts, key=repr)
        if len(found) <= _MANY:
            return tuple(found)
        return (("target", self.path, self.is_directory), ("all", _digest([repr(fact).encode() for fact in found])))

    def has_directory(self, directory: bytes, name: bytes) -> bool:
        """Whether there is a directory of that name in a directory; reads that as a whole, once."""
        if self._lower is None:
            return False
        if directory not in self._kinds:
            self._kinds[directory] = Folder(self._lower.fd).kinds(directory)
        return self._kinds[directory].get(name) == stat.S_IFDIR

    def overlap(self, tree: Tree, source: bytes, target: bytes, *, replace: bool) -> Overlap:
        """Where the directory ``source`` meets what is in ``target`` already; no more is read of either than the
        directories that both have, and no file is looked at. ``replace``: see ``rows.Part``."""
        if self._lower is None:
            return NOTHING
        folder = Folder(self._lower.fd)
        found = Overlap({}, {})
        waiting = [(source, target)]
        while waiting:
            source, target = waiting.pop()
            kinds = folder.kinds(target)
            files = []
            for name in tree.names(source) if kinds else ():
                kind = kinds.get(name)
                if kind == stat.S_IFREG:
                    found.known[join(target, name)] = Found(join(target, name), kind)
                    files.append(name)
                elif kind is not None:
                    below = self._met(found, tree.find(join(source, name)), join(target, name), replace)
                    if below is not None:
                        waiting.append((join(source, name), below))
            if files:
                self._facts["files", target, _digest(files)] = None
        return found

    def _met(self, found: Overlap, entry: Entry | None, path: bytes, replace: bool) -> bytes | None:
        """Notes the directory or link at ``path``. Returns where to go on when both are directories."""
        lower = self.find(path)
        if lower is None or entry is None:
            return None
        if replace and stat.S_ISDIR(entry.mode) and stat.S_ISLNK(lower.mode):
            path = self._through(found, path)
            lower = self.find(path)
            if lower is None:
                return None
        found.known[path] = lower
        both = stat.S_ISDIR(entry.mode), stat.S_ISDIR(lower.mode)
        if both == (True, True):
            self.depends(lower)
            return path
        if any(both):
            self._facts["other", path, stat.S_IFMT(lower.mode)] = None
        return None

    def _through(self, found: Overlap, path: bytes) -> bytes:
        assert self._lower is not None
        real = resolve(path, link_of(self._lower))
        found.moved[path] = real
        self._facts["link", path, real] = None
        above, missing = parent(real), []
        while above and above not in found.known:
            entry = self.find(above)
            if entry is None or not stat.S_ISDIR(entry.mode):
                missing.append(above)
            else:
                found.known[above] = entry
                self.depends(entry)
            above = parent(above)
        if missing:
            raise DockerfileError(f"/{show_path(path)} is a symbolic link to /{show_path(real)}, which is not there")
        return real


def _digest(names: Sequence[bytes]) -> str:
    hashed = _backend.hashing().Sha256()
    hashed.update(b"\0".join(names))
    return str(hashed.hexdigest())


def what(entry: Entry) -> str:
    """What something is, for a message."""
    mode = entry.mode
    if stat.S_ISLNK(mode):
        return f"is a symbolic link to {show_path(entry.link)}"
    return "is a directory" if stat.S_ISDIR(mode) else "is a file" if stat.S_ISREG(mode) else "is a special file"
