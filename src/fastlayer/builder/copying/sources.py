"""Which files of a tree the sources of COPY and ADD name (BuildKit: fsutil copy, dockerfile2llb convert_copy).

Sources are paths below the tree's root, wherever they begin; ``..`` stops there. Links in them are followed, inside the
root. Of a directory the content is copied. A wildcard that matches nothing copies nothing; a name must be there.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence

from fastlayer import _backend
from fastlayer._values import NamedTuple
from fastlayer.builder.copying.filter import Chosen, Filter
from fastlayer.builder.copying.match import has_wildcards, matcher, unescaped
from fastlayer.builder.copying.trees import Entry, Tree, clean, decode, encode, join, link_of, parent, resolve
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.errors import DockerfileError, show_path

Hidden = Callable[[str], bool]


class Pick(NamedTuple):
    """One thing that is copied. ``path``: free of links; ``name``: as it was called, for a file that goes into a
    directory; ``filter``: of what is below a directory, None for all of it."""

    path: bytes
    name: bytes
    entry: Entry
    filter: Filter | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.entry.mode)


class Selection(NamedTuple):
    """``picks`` in the order they are copied; ``unmatched``: sources with wildcards that name nothing."""

    tree: Tree
    picks: tuple[Pick, ...]
    unmatched: tuple[str, ...] = ()

    def key(self) -> bytes:
        """32 bytes that are equal when the same would be copied under the same names; no times, no owner of the
        directories whose content is copied. Without filters it asks for one digest per pick and name right below it.
        """
        hashed = _backend.hashing().Sha256()
        for pick in self.picks:
            for relative, digest in self._digests(pick):
                for part in (relative, digest):
                    hashed.update(len(part).to_bytes(4, "big") + part)
        return bytes.fromhex(hashed.hexdigest())

    def _digests(self, pick: Pick) -> Iterator[tuple[bytes, bytes]]:
        if not pick.is_directory:
            yield b"file " + pick.name, self.tree.digests([pick.path])[0]
            return
        yield b"directory", b""
        if pick.filter is None:
            names = self.tree.names(pick.path)
            digests = self.tree.digests([join(pick.path, name) for name in names])
            yield from ((b"all " + name, digest) for name, digest in zip(names, digests, strict=True))
            return
        digested, whole = [], set[bytes]()
        for chosen in pick.filter.chosen(self.tree, pick.path, whole):
            entry = chosen.entry
            facts: tuple[object, ...] = ()
            if stat.S_ISDIR(entry.mode) and entry.path not in whole:
                facts = (chosen.implied, entry.mode, entry.uid, entry.gid, entry.xattrs)
            else:
                digested.append(entry.path)
            yield b"one " + chosen.relative, repr(facts).encode()
        for digest in self.tree.digests(digested):
            yield b"content", digest

    def quick_key(self) -> bytes:
        """32 bytes that are equal only when ``key`` is; of all that patterns choose from, so that nothing has to be
        matched, and other contents may give the same ``key``."""
        hashed = _backend.hashing().Sha256()
        for pick in self.picks:
            patterns = (pick.filter.include, pick.filter.exclude) if pick.filter is not None else ()
            what = repr((pick.name, pick.is_directory, patterns)).encode()
            hashed.update(len(what).to_bytes(4, "big") + what)
            for relative, digest in self._digests(pick._replace(filter=None)):
                for part in (relative, digest):
                    hashed.update(len(part).to_bytes(4, "big") + part)
        return bytes.fromhex(hashed.hexdigest())

    def below(self, pick: Pick) -> Iterator[Chosen]:
        """What is copied of a directory, not itself; each directory before what is in it."""
        if pick.filter is not None:
            yield from pick.filter.chosen(self.tree, pick.path)
            return
        start = len(pick.path) + 1 if pick.path else 0
        for entry in self.tree.below(pick.path):
            yield Chosen(entry.path[start:], entry, False)


def select(
    tree: Tree,
    sources: Sequence[str],
    *,
    parents: bool = False,
    exclude: Sequence[str] = (),
    hidden: Hidden | None = None,
) -> Selection:
    """What the sources name.

    ``parents``: the directories in a source are kept, those before ``/./`` in it are not. ``exclude``: patterns as in
    .dockerignore, relative to the directory that is copied. ``hidden``: whether .dockerignore leaves a path out, for
    the message. Raises ``DockerfileError`` for a source that is not there or a pattern that means nothing.
    """
    finder = _Finder(tree, tuple(exclude), hidden)
    if parents:
        return finder.with_parents(sources)
    picks: list[Pick] = []
    unmatched = []
    for source in sources:
        found = finder.named(source)
        if not found and has_wildcards(source):
            unmatched.append(source)
        picks += [pick for pick, relative in found if not finder.is_excluded(relative)]
    return Selection(tree, tuple(picks), tuple(unmatched))


class _Finder:
    def __init__(self, tree: Tree, exclude: tuple[str, ...], hidden: Hidden | None) -> None:
        self._tree = tree
        self._hidden = hidden
        self._link_of = link_of(tree)
        self._filter = Filter((), exclude) if exclude else None

    def is_excluded(self, relative: str) -> bool:
        return self._filter is not None and bool(relative) and self._filter.excludes(relative)

    def named(self, source: str) -> list[tuple[Pick, str]]:
        """What a source names, each with its path below the last directory without wildcards."""
        parts = decode(clean(encode(source))).split("/")
        plain = 0
        while plain < len(parts) and not has_wildcards(parts[plain]):
            plain += 1
        base = "/".join(parts[:plain])
        if plain == len(parts):
            path = self._existing(base, source)
            pick = self._pick(path, path.rpartition(b"/")[2], source)
            return [(pick, "" if pick.is_directory else parts[-1])]
        start = self._start(base)
        return [
            (self._pick(join(start, path), path.rpartition(b"/")[2], source), decode(path))
            for path in self._matching(start, parts[plain:])
        ]

    def _existing(self, base: str, source: str) -> bytes:
        """The path of a plain name."""
        path = self._plain(base)
        if path is None:
            raise DockerfileError(self._missing(encode(unescaped(base)), source))
        return path

    def _plain(self, base: str) -> bytes | None:
        """What is there: as it is written, else with its escapes taken for what they mean."""
        for name in dict.fromkeys((base, unescaped(base))):
            path = encode(name)
            if self._tree.find(resolve(path, self._link_of)) is not None:
                return path
        return None

    def _start(self, base: str) -> bytes:
        """The directory in front of wildcards, free of links."""
        path = self._plain(base)
        return resolve(encode(base) if path is None else path, self._link_of)

    def _pick(self, path: bytes, name: bytes, source: str) -> Pick:
        real = resolve(path, self._link_of)
        entry = self._tree.find(real)
        if entry is None:
            where = f"/{show_path(path)} is a symbolic link to /{show_path(real)}, which is not there"
            raise DockerfileError(f"{source}: {where}{self._why_hidden(real)}")
        return Pick(real, name, entry, self._filter if stat.S_ISDIR(entry.mode) else None)

    def _matching(self, start: bytes, patterns: Sequence[str]) -> list[bytes]:
        """Paths below ``start``, one component for each pattern; links on the way are not entered."""
        found = [b""]
        for pattern in patterns:
            if not has_wildcards(pattern):
                places = [join(above, encode(unescaped(pattern))) for above in found]
                found = [path for path in places if self._tree.find(join(start, path)) is not None]
                continue
            fits = matcher(pattern)
            found = [
                join(above, name)
                for above in found
                for name in self._tree.names(join(start, above))
                if fits(decode(name))
            ]
        return found

    # ---- --parents -----------------------------------------------------------------------------

    def with_parents(self, sources: Sequence[str]) -> Selection:
        """Sources that begin at the same directory are one pick: the tree is walked once for them."""
        wanted: dict[bytes, list[str]] = {}
        exclude = self._filter.exclude if self._filter is not None else ()
        unmatched = []
        for source in sources:
            pivot, cut, pattern = source.partition("/./")
            base, pattern = (pivot, pattern) if cut else ("", source)
            pattern = decode(clean(encode(pattern)))
            found = [pick for pick, _ in self.named(base)]
            if found and not any(pick.is_directory for pick in found):
                raise DockerfileError(f"{source}: {base} is not a directory: --parents needs one before `/./`")
            roots = [pick.path for pick in found if pick.is_directory]
            if not has_wildcards(base) and not has_wildcards(pattern):
                self._require(join(roots[0], encode(unescaped(pattern))), source)
            if not roots:
                unmatched.append(source)
            for root in roots:
                wanted.setdefault(root, []).append(pattern)
        picks = []
        for root, patterns in wanted.items():
            entry = self._tree.find(root)
            assert entry is not None
            everything = not all(patterns) and not exclude
            picks.append(Pick(root, b"", entry, None if everything else Filter(tuple(patterns), exclude)))
        return Selection(self._tree, tuple(picks), tuple(unmatched))

    def _require(self, path: bytes, source: str) -> None:
        if self._tree.find(path) is not None:
            return
        real = resolve(path, self._link_of)
        if self._tree.find(real) is not None:
            raise DockerfileError(
                f"{source}: goes through a symbolic link, which --parents does not follow: write /{show_path(real)}"
            )
        raise DockerfileError(self._missing(path, source))

    # ---- messages ------------------------------------------------------------------------------

    def _missing(self, path: bytes, source: str) -> str:
        found = self._tree.find(path)
        if found is not None and found.link:
            return f"{source}: not found: it is a link to {show_path(found.link)}, and nothing is there"
        directory = resolve(parent(path), self._link_of)
        names = [decode(name) for name in self._tree.names(directory)]
        close = nearest(decode(path.rpartition(b"/")[2]), names)
        return f"{source}: not found{self._why_hidden(path) or close or self._where(directory)}"

    def _where(self, directory: bytes) -> str:
        found = self._tree.find(directory)
        if found is None:
            return f": there is no directory /{show_path(directory)}"
        return "" if stat.S_ISDIR(found.mode) else f": /{show_path(directory)} is not a directory"

    def _why_hidden(self, path: bytes) -> str:
        if self._hidden is not None and path and self._hidden(decode(path)):
            return ": .dockerignore leaves it out: take it back with a line that begins with `!`"
        return ""


def explain_unmatched(selection: Selection, source: str, hidden: Hidden | None = None) -> str:
    """A line about a source with wildcards that named nothing: what is near, or that .dockerignore may hide it."""
    directory, _, last = decode(clean(encode(source))).rpartition("/")
    line = f"{source}: matches nothing"
    tree = selection.tree
    if tree.find(resolve(clean(encode(source)), link_of(tree))) is not None:
        return f"{line}: to name the file that is called so escape its *, ? and [ with a backslash"
    if has_wildcards(directory):
        return line
    names = [decode(name) for name in tree.names(resolve(encode(directory), link_of(tree)))]
    plain = "".join(char for char in last if char not in "*?[]\\")
    if hidden is not None and hidden(directory + "/" + plain if directory else plain):
        return f"{line}: .dockerignore leaves it out"
    return line + nearest(plain, names)
