"""Scanning a directory into a table; what .dockerignore leaves out is not in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastlayer import _backend
from fastlayer.builder.context.blame import Blame
from fastlayer.builder.context.table import BATCH, Batch, Table, gathered, in_memory
from fastlayer.builder.dockerfile import ignore
from fastlayer.errors import FileChangedError, StorageError

XATTRS: _backend.XattrPolicy = "docker"  # what COPY keeps


class Scan:
    """One walk. ``sockets``: how many were left out."""

    def __init__(
        self, fd: int, blame: Blame, patterns: Sequence[str] = (), *, only: Sequence[bytes] | None = None
    ) -> None:
        self.sockets = 0
        self._blame = blame
        self._fd = fd
        self._patterns = patterns
        self._only = only

    def table(self, old: Table | None = None) -> Table:
        """The tree as it is; batches that are as they were in ``old`` are that table's own."""
        try:
            return self._once(old)
        except FileChangedError:  # a directory was replaced just now: look once more
            return self._once(old)

    def _once(self, old: Table | None) -> Table:
        return gathered(self.batches() if old is None else self._sharing(old))

    def _sharing(self, old: Table) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches()):
            same = number < len(old.batches) and old.batches[number].same(batch)
            old.relax(number)
            yield old.batches[number] if same else batch

    def batches(self) -> Iterator[Batch]:
        """One by one, nothing kept."""
        program = ignore.program(self._patterns) if self._patterns else None
        make = _backend.engine().scan.Scanner
        try:
            scanner = make(self._fd, xattrs=XATTRS, only=self._only, ignore=program)
            while (found := scanner.next_batch(BATCH)) is not None:
                yield in_memory(*found)
        except StorageError as exc:
            raise self._blame.unreadable(exc) from exc
        self.sockets = int(scanner.skipped_sockets)
