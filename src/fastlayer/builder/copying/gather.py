"""One COPY or ADD from end to end: what it names, fetched and opened, its key, and the plan of its layer.

    gathered = gather(command, tree, ...)      the tree below its layer is not asked
    gathered.key()                             equal for equal contents
    copying = gathered.place(lower, ...)       .facts, and .rows() for the table

Variables in the instruction are filled in already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.context.waiting import Check, beside, never
from fastlayer.builder.copying.filter import Filter
from fastlayer.builder.copying.folder import Folder
from fastlayer.builder.copying.ownership import Mode, resolve_owner
from fastlayer.builder.copying.rows import Copying, Part, Row
from fastlayer.builder.copying.sources import Hidden, Pick, Selection, explain_unmatched, select
from fastlayer.builder.copying.target import Target
from fastlayer.builder.copying.trees import Tree, encode, link_of, resolve
from fastlayer.builder.dockerfile.instructions import Add, Copy
from fastlayer.errors import DockerfileError, OperandError

if TYPE_CHECKING:
    from fastlayer.builder.context.sources import GitPlace
    from fastlayer.builder.copying.addresses import Addresses
    from fastlayer.builder.copying.remote import Fetched, Known

_FILE = "file"  # what was fetched
_MAX_USERS = 16 << 20  # bytes of /etc/passwd or /etc/group


class Staging(NamedTuple):
    """Where things are put that are fetched or extracted. ``fresh``: makes an empty directory that lives until the
    layer is done, and gives its descriptor and its path. ``addresses``: what they gave in earlier builds. ``check`` is
    called while servers are waited for."""

    fresh: Callable[[], tuple[int, str]]
    addresses: Addresses | None = None
    check: Check = never


class _Source(NamedTuple):
    """``archive``: the one pick of the selection is extracted. Instead of a selection: ``pin``, its key, and ``later``,
    which gets it when a layer is made."""

    selection: Selection | None
    keep_owner: bool
    pin: str | None = None
    archive: bool = False
    later: Callable[[], _Source] | None = None


class Gathered:
    """``warnings``: lines about sources that name nothing."""

    def __init__(self, command: Copy | Add, staging: Staging) -> None:
        self.command = command
        self.warnings: list[str] = []
        self.roots: list[int] = []
        self._staging = staging
        self._mode = Mode(command.chmod) if command.chmod else None
        self._sources: list[_Source] = []

    @property
    def ignores_lower(self) -> bool:
        """Whether nothing of the tree below its layer is looked at (BuildKit: not together with --chmod)."""
        return self.command.link and not self.command.chmod

    @property
    def needs_lower(self) -> bool:
        """Whether ``place`` must be given the tree below; with ``--link`` only for the names of ``--chown``."""
        return not self.ignores_lower or any(part and not part.isdigit() for part in self.command.chown.split(":"))

    @property
    def is_remote(self) -> bool:
        """Whether something came from elsewhere than the tree."""
        return any(source.pin is not None for source in self._sources)

    def add(self, source: _Source) -> None:
        self._sources.append(source)

    def key(self) -> bytes:
        """32 bytes: the contents, their names and how they are treated; neither target nor --chown."""
        return self._key(Selection.key)

    def quick_key(self) -> bytes:
        """32 bytes that are equal only when ``key`` is, in no time, however many files patterns choose from."""
        return self._key(Selection.quick_key)

    def _key(self, key_of: Callable[[Selection], bytes]) -> bytes:
        from fastlayer import _backend

        hashed = _backend.hashing().Sha256()
        for source in self._sources:
            content = (source.pin or "").encode() if source.selection is None else key_of(source.selection)
            how = repr((source.keep_owner, source.archive, self.command.chmod))
            hashed.update(len(content).to_bytes(4, "big") + content + how.encode())
        return bytes.fromhex(hashed.hexdigest())

    def picked(self) -> Iterator[tuple[Tree, bytes]]:
        """The things that are copied whole, of a context, stage or image: tree and path."""
        for selection in (source.selection for source in self._sources):
            if selection is not None and not isinstance(selection.tree, Folder):
                yield from ((selection.tree, pick.path) for pick in selection.picks if pick.filter is None)

    def place(self, lower: Tree | None, *, workdir: str, created_ns: int) -> Copying:
        """Plans the layer onto ``lower`` (None: nothing is below); fetches what was only asked about, and extracts
        archives. ``roots``: descriptors, by the numbers in the rows. Raises ``DockerfileError`` when things cannot be
        put there, and what ``gather`` raises."""
        owner = resolve_owner(self.command.chown, _reader(lower)) if self.command.chown else None
        target = Target(None if self.ignores_lower else lower, self.command.sources.target, workdir)
        self.roots = []
        parts = [self._part(source) for source in self._sources]
        return Copying(target, parts, owner=owner, created_ns=created_ns)

    def _part(self, source: _Source) -> Part:
        source = source.later() if source.later is not None else source
        selection, mode = source.selection, self._mode
        assert selection is not None
        if source.archive:
            from fastlayer.builder.copying.archives import extract

            pick = selection.picks[0]
            directory, _ = self._staging.fresh()
            selection, mode = extract(selection.tree, pick, directory, name=os.fsdecode(pick.name)), None
        if selection.tree.fd not in self.roots:
            self.roots.append(selection.tree.fd)
        root = self.roots.index(selection.tree.fd)
        return Part(selection, root, source.keep_owner or source.archive, mode, source.archive)


def everything(tree: Tree, path: bytes, *, keep_owner: bool) -> Iterator[list[Row]]:
    """The rows that copy what is in a directory of a tree to an empty root; of a file: to ``file`` in it."""
    entry = tree.find(path)
    if entry is None:
        raise DockerfileError(f"/{os.fsdecode(path)}: is not there: name something that is")
    selection = Selection(tree, (Pick(path, b"file", entry),))
    return Copying(Target(None, "/", "/"), [Part(selection, 0, keep_owner)], created_ns=0).rows()


def _reader(lower: Tree | None) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        if lower is None:
            return None
        real = resolve(encode(path), link_of(lower))
        return Folder(lower.fd).read(real, _MAX_USERS)

    return read


def gather(
    command: Copy | Add,
    tree: Tree | None,
    staging: Staging,
    *,
    keep_owner: bool = False,
    hidden: Hidden | None = None,
    env: Mapping[str, str] | None = None,
    created_ns: int = 0,
) -> Gathered:
    """What the instruction names. ``tree``: the build context, or what ``--from`` names; None when neither is needed.

    ``keep_owner``: the tree is a stage or an image, whose owners are kept. ``env``: for here-documents. Of addresses
    it asks no more than what decides the key: http ones without ``--checksum`` are fetched, of repositories the commit
    is found out. Raises ``DockerfileError``, ``OperandError``, ``DigestMismatchError``, ``LimitError``.
    """
    found = Gathered(command, staging)
    _Collector(found, tree, staging, keep_owner, hidden).add_all(command.sources.paths)
    if command.sources.contents:
        from fastlayer.builder.copying.contents import text_of, write_contents

        fd, _ = staging.fresh()
        values = env or {}
        written = write_contents(fd, command.sources.contents, lambda doc: text_of(doc, values), created_ns)
        found.add(_Source(written, keep_owner=False))
    return found


class _Collector:
    def __init__(
        self, found: Gathered, tree: Tree | None, staging: Staging, keep_owner: bool, hidden: Hidden | None
    ) -> None:
        self._found = found
        self._tree = tree
        self._staging = staging
        self._keep_owner = keep_owner
        self._hidden = hidden

    def add_all(self, sources: Sequence[str]) -> None:
        """Neighbours that are paths are looked for together."""
        command = self._found.command
        paths: list[str] = []
        for source in sources:
            if ("://" in source or "@" in source) and self._add_address(source, paths):
                paths = []
            else:
                paths.append(source)
        self._add_paths(paths)
        if isinstance(command, Add) and command.checksum and paths:
            raise DockerfileError("--checksum: is for http and git addresses only")

    def _add_address(self, source: str, before: Sequence[str]) -> bool:
        """Whether it was one; ``before``: paths in front of it, which are added first."""
        from fastlayer.builder.context.fetch import without_password
        from fastlayer.builder.copying.git import parse_repository

        command = self._found.command
        repository = parse_repository(source)
        if repository is None and not source.startswith(("http://", "https://")):
            return False
        if isinstance(command, Copy):
            raise DockerfileError(f"COPY {without_password(source)}: is an address, which only ADD fetches")
        if command.checksum and len(command.sources.paths) > 1:
            raise DockerfileError("--checksum: can be given for one source only")
        self._add_paths(before)
        if repository is not None:
            self._add_repository(command, repository)
        else:
            self._add_file(command, source)
        return True

    def _add_paths(self, sources: Sequence[str]) -> None:
        command = self._found.command
        if not sources:
            return
        if self._tree is None:
            raise DockerfileError(f"{sources[0]}: there is no build context to take it from")
        parents = isinstance(command, Copy) and command.parents
        selection = select(self._tree, sources, parents=parents, exclude=command.exclude, hidden=self._hidden)
        for pattern in selection.unmatched:
            self._found.warnings.append(explain_unmatched(selection, pattern, self._hidden))
        if isinstance(command, Copy) or command.unpack is False:
            self._found.add(_Source(selection, self._keep_owner))
            return
        for pick in selection.picks:
            self._found.add(_perhaps_archive(selection._replace(picks=(pick,)), self._keep_owner))

    def _add_file(self, command: Add, url: str) -> None:
        from fastlayer.builder.copying.remote import check_checksum, file_name

        check_checksum(command.checksum)
        download = _Download(self._staging, url, command)
        digest = command.checksum or download.ask()
        pin = repr((file_name(url), digest, bool(command.unpack)))
        self._found.add(_Source(None, False, pin, later=download.source))

    def _add_repository(self, command: Add, place: GitPlace) -> None:
        from fastlayer.builder.copying.git import check_out, find_commit

        if command.keep_git_dir is not None:
            place = place._replace(keep_git=command.keep_git_dir)
        if command.checksum and place.commit and command.checksum != place.commit:
            raise DockerfileError("--checksum: the address names another commit")
        place = place._replace(commit=command.checksum or place.commit)
        if place.commit and not re.fullmatch("[0-9a-f]{7,64}", place.commit):
            raise DockerfileError(f"--checksum={place.commit}: use the hexadecimal digits of a commit")
        commit = find_commit(place, self._staging.check)

        def later() -> _Source:
            fd, path = self._staging.fresh()
            below = check_out(place, commit, path, self._staging.check)
            folder = Folder(fd)
            entry = folder.find(below)
            assert entry is not None
            chosen = Filter((), tuple(command.exclude)) if command.exclude else None
            return _Source(Selection(folder, (Pick(below, b"", entry, chosen),)), False)

        pin = repr((commit, place.subdir, place.keep_git, place.submodules, command.exclude))
        self._found.add(_Source(None, False, pin, later=later))


class _Download:
    """A file that ADD fetches, as early as it must be."""

    def __init__(self, staging: Staging, url: str, command: Add) -> None:
        self._staging = staging
        self._url = url
        self._command = command
        self._fetched: Fetched | None = None
        self._directory = -1

    def ask(self) -> str:
        """Its digest. It is fetched, unless the server says that it is what was fetched before."""
        addresses = self._staging.addresses
        return self._fetch(addresses.known(self._url) if addresses is not None else None).digest

    def _fetch(self, known: Known | None) -> Fetched:
        from fastlayer.builder.copying.remote import fetch

        self._directory, _ = self._staging.fresh()
        directory = os.dup(self._directory)  # for who may be at it for longer than this one is open

        def work(check: Check) -> Fetched:
            try:
                return fetch(self._url, directory, _FILE, checksum=self._command.checksum, known=known, check=check)
            finally:
                os.close(directory)

        found = beside(work, self._staging.check)
        addresses = self._staging.addresses
        if addresses is not None and found.known is not None and not found.unchanged:
            addresses.keep(self._url, found.known, self._directory, _FILE)
        self._fetched = found
        return found

    def _remembered(self) -> Fetched | None:
        """Of what ``--checksum`` names, when it was fetched before."""
        from fastlayer.builder.copying.remote import Fetched, file_name

        addresses = self._staging.addresses
        known = addresses.known(self._url) if addresses is not None else None
        if known is None or known.digest != self._command.checksum:
            return None
        self._directory, _ = self._staging.fresh()
        return Fetched(file_name(self._url), known.digest, 0, known.mtime_ns, known, True)

    def source(self) -> _Source:
        """The file, here now."""
        fetched, addresses = self._fetched or self._remembered(), self._staging.addresses
        if fetched is None:
            fetched = self._fetch(None)
        elif fetched.unchanged and not (addresses and addresses.put(fetched.digest, self._directory, _FILE)):
            asked = fetched.digest
            fetched = self._fetch(None)
            if fetched.digest != asked:
                raise OperandError(f"{fetched.name}: has changed while it was fetched: try again")
        folder = Folder(self._directory)
        entry = folder.find(_FILE.encode())
        if entry is None:
            raise OperandError(f"{fetched.name}: what was fetched is gone: try again")
        pick = Pick(entry.path, encode(fetched.name), entry._replace(uid=0, gid=0, mtime_ns=fetched.mtime_ns))
        selection = Selection(folder, (pick,))
        return _perhaps_archive(selection, False) if self._command.unpack else _Source(selection, False)


def _perhaps_archive(selection: Selection, keep_owner: bool) -> _Source:
    from fastlayer.builder.copying.archives import is_archive

    return _Source(selection, keep_owner, archive=is_archive(selection.tree, selection.picks[0].entry))
