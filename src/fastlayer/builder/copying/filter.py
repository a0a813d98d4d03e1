"""What ``--exclude`` and ``--parents`` leave of a directory: patterns as in .dockerignore, relative to it.

A directory that no pattern asks for is made all the same when something in it is copied (``Chosen.implied``).
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence

from fastlayer._values import NamedTuple
from fastlayer.builder.copying.match import matcher
from fastlayer.builder.copying.trees import Entry, Tree, decode, join
from fastlayer.builder.dockerfile.ignore import Matcher
from fastlayer.builder.dockerfile.text import SPACES


class Chosen(NamedTuple):
    """``relative``: its path below the directory that is copied. ``implied``: only something in it is copied."""

    relative: bytes
    entry: Entry
    implied: bool


class _Above(NamedTuple):
    """A directory on the way: what the patterns say of it, and its entry while it was not yet given out."""

    included: Sequence[bool]
    excluded: Sequence[bool]
    entry: Entry | None


class Filter:
    """``include``: none means everything. Raises ``DockerfileError`` for a pattern that means nothing."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self.include = include
        self.exclude = exclude
        self._include = Matcher(include) if include and all(include) else None
        self._exclude = Matcher(exclude)
        self._ways = [_way(pattern) for pattern in include] if self._include is not None else []
        self._leaving_out = [_way(pattern) for pattern in exclude]

    def excludes(self, path: str) -> bool:
        """Whether a path that was named itself is left out."""
        return self._exclude.excludes(path)

    def chosen(self, tree: Tree, directory: bytes, whole: set[bytes] | None = None) -> Iterator[Chosen]:
        """All below the directory that is copied, directories before what is in them.

        ``whole``: gets the paths in the tree of those that no pattern leads into; what is in them is not given then.
        """
        above: dict[bytes, _Above] = {b"": _Above((), (), None)}
        start = len(directory) + 1 if directory else 0
        for entry in self._entries(tree, directory, above, whole):
            relative = entry.path[start:]
            over = above.get(relative.rpartition(b"/")[0])
            if over is None:
                continue
            text = decode(relative)
            wanted, included = self._include.descend(text, over.included) if self._include else (True, ())
            left_out, excluded = self._exclude.descend(text, over.excluded)
            taken = wanted and not left_out
            if whole is not None and taken and self._takes_all(entry, relative):
                whole.add(entry.path)
            if taken:
                yield from _implied(relative, above)
                yield Chosen(relative, entry, False)
            if stat.S_ISDIR(entry.mode) and (not left_out or self._exclude.takes_back):
                above[relative] = _Above(included, excluded, None if taken else entry)

    def _takes_all(self, entry: Entry, relative: bytes) -> bool:
        return self._include is None and stat.S_ISDIR(entry.mode) and not _lead_into(self._leaving_out, relative)

    def _entries(
        self, tree: Tree, directory: bytes, above: dict[bytes, _Above], whole: set[bytes] | None
    ) -> Iterator[Entry]:
        """All below, or only below directories that matter."""
        ways = self._ways if self._include is not None else self._leaving_out if whole is not None else []
        if not ways or any(way is None or way[0] is None for way in ways):
            yield from tree.below(directory)
            return
        waiting = [b""]
        while waiting:
            relative = waiting.pop()
            inside = []
            for name in tree.names(join(directory, relative)):
                child = join(relative, name)
                entry = tree.find(join(directory, child))
                if entry is None:
                    continue
                yield entry
                if child in above and (any(above[child].included) or _lead_into(ways, child)):
                    inside.append(child)
            waiting += reversed(inside)


_Way = list[Callable[[str], bool] | None]


def _lead_into(ways: Sequence[_Way | None], relative: bytes) -> bool:
    """Whether a pattern may say something of what is in a directory."""
    names = decode(relative).split("/")
    return any(way is None or _begins(way, names) for way in ways)


def _way(pattern: str) -> _Way | None:
    """The components of a pattern, None for those behind ``**``; None when it may lead anywhere."""
    parts = posixpath.normpath(pattern.strip(SPACES)).split("/")
    if parts[0].startswith("!") or any("**" in part and part != "**" for part in parts):
        return None
    way: _Way = []
    for part in parts:
        way.append(None if part == "**" else matcher(part))
        if part == "**":
            break
    return way


def _begins(way: _Way, names: Sequence[str]) -> bool:
    for test, name in zip(way, names, strict=False):
        if test is None:
            return True
        if not test(name):
            return False
    return len(names) < len(way)


def _implied(relative: bytes, above: dict[bytes, _Above]) -> Iterator[Chosen]:
    """The directories above that were not given out, from the top."""
    missing = []
    directory = relative.rpartition(b"/")[0]
    while directory and above[directory].entry is not None:
        missing.append(directory)
        directory = directory.rpartition(b"/")[0]
    for path in reversed(missing):
        entry = above[path].entry
        assert entry is not None
        above[path] = above[path]._replace(entry=None)
        yield Chosen(path, entry, True)
