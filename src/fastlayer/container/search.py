"""Where the mounts of the books are now: each row gets the mount that was made for it, or a copy of that.

First every row is looked for where it was made. A row that is not found there gets a copy (``mount --bind``, of the
whole or of a part) here or in the namespace it was made in, and then one that any process sees: a mount namespace that
is made while something is mounted has a copy of it. Read-only mounts of one image may look the same
(``mounts/signs.py``), so a mount goes to one row only: as long as one of such mounts is anywhere, one of their rows
stays, which keeps the files of all; two rows whose mounts are gone do not keep each other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple

if TYPE_CHECKING:
    import sqlite3

    from fastlayer.mounts.namespaces import View
    from fastlayer.mounts.table import Entry

Key = tuple[str, str]  # driver, key


class Place(NamedTuple):
    """``target``: as it is called there. ``here``: this process sees it; otherwise ``process`` is one that does, or 0.

    ``number``: of the mount; 0: it cannot be seen, but it may be there. ``copy``: of what was mounted.
    """

    target: str
    here: bool
    process: int
    number: int
    copy: bool


def key_of(row: sqlite3.Row) -> Key:
    """What a row is known by."""
    return row["driver"], row["key"]


def places(rows: Sequence[sqlite3.Row], making: Collection[Key], *, everywhere: bool) -> dict[Key, Place]:
    """The rows (all of the books, of this boot) that are there. ``making``: someone is about to mount them.

    ``everywhere``: a row is missing only when no process that can be seen sees it; it costs a look at all processes,
    when there is such a row.
    """
    if not rows:
        return {}
    from fastlayer.mounts import namespaces

    search = _Search(rows)
    search.where_they_were_made()
    search.drop(making)
    if search.missing:
        search.copies(search.views())
    if everywhere and search.missing:
        search.copies(namespaces.others())
    return search.found


class _Search:
    def __init__(self, rows: Sequence[sqlite3.Row]) -> None:
        self.found: dict[Key, Place] = {}
        # Newest first: the number of a mount that is gone is used again.
        self.missing = {key_of(row): row for row in sorted(rows, key=lambda row: -row["created_ns"])}
        self._views: dict[int, View | None] = {}
        self._taken: set[int] = set()  # numbers of mounts that belong to a row
        self._made: set[tuple[str, bytes, int]] = set()  # sign, target, namespace of those where they were made

    def drop(self, keys: Collection[Key]) -> None:
        for key in keys:
            self.missing.pop(key, None)

    def views(self) -> list[View]:
        """Our own, and those of the namespaces that rows were made in."""
        from fastlayer.mounts import namespaces

        found = [self._view(namespaces.current()), *self._views.values()]
        return list({view.namespace: view for view in found if view is not None}.values())

    def where_they_were_made(self) -> None:
        for in_place in (True, False):  # first those that nobody has moved
            for row in list(self.missing.values()):
                view = self._view(row["mount_ns"])
                if view is None:
                    self._note(row, Place(os.fsdecode(row["target"]), False, 0, 0, False))
                    continue
                target = os.fsencode(row["target"])
                for entry in self._free(view):
                    if (entry.target == target or not in_place) and _is(row, entry, target):
                        self._made.add((row["sign"], entry.target, view.namespace))
                        self._take(row, view, entry, copy=False)
                        break

    def copies(self, views: Iterable[View]) -> None:
        from fastlayer.mounts import signs

        for view in views:
            for in_place in (True, False):
                for row in list(self.missing.values()):
                    if signs.tells_copies(row["sign"]):
                        self._copy(row, view, os.fsencode(row["target"]) if in_place else None)
            if not self.missing:
                return

    def _copy(self, row: sqlite3.Row, view: View, target: bytes | None) -> None:
        from fastlayer.mounts import signs

        for entry in self._free(view):
            fits = target in (None, entry.target) and signs.matches(row["sign"], entry)
            if fits and not self._is_of_another(row["sign"], view, entry):
                self._take(row, view, entry, copy=True)
                return

    def _is_of_another(self, sign: str, view: View, entry: Entry) -> bool:
        """A copy, in another namespace, of a row that is where it was made: copies keep their places there."""
        return any(
            (sign, entry.target) == (other, target) and namespace != view.namespace
            for other, target, namespace in self._made
        )

    def _free(self, view: View) -> Iterator[Entry]:
        """What belongs to nobody yet, the top of a place first."""
        return (entry for entry in reversed(view.entries) if entry.number not in self._taken)

    def _take(self, row: sqlite3.Row, view: View, entry: Entry, *, copy: bool) -> None:
        self._taken.add(entry.number)
        here = view.process == 0
        self._note(row, Place(os.fsdecode(entry.target), here, view.process, entry.number, copy))

    def _note(self, row: sqlite3.Row, place: Place) -> None:
        self.found[key_of(row)] = place
        del self.missing[key_of(row)]

    def _view(self, namespace: int) -> View | None:
        from fastlayer.mounts import namespaces

        if namespace not in self._views:
            self._views[namespace] = namespaces.view_of(namespace)
        return self._views[namespace]


def _is(row: sqlite3.Row, entry: Entry, target: bytes) -> bool:
    """Whether it is the mount itself. Who was killed after mounting has noted no number."""
    from fastlayer.mounts import signs

    if row["mount_number"]:
        return bool(entry.number == row["mount_number"]) and signs.matches(row["sign"], entry)
    return entry.target == target and signs.may_be(row["sign"], entry)
