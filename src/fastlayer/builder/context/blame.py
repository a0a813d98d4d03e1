"""How errors about a tree are told: whose file it is, and what can be done."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.errors import FileChangedError, StorageError, show_path


class Blame(NamedTuple):
    """``name``: the tree in messages; ``hint``: what its owner can do about a file in it."""

    name: str
    hint: str = ""

    def changed(self, path: bytes) -> FileChangedError:
        """For a file that is not what it was."""
        return self._other(path, "changed while it was read: try again when nothing writes to it")

    def gone(self, path: bytes) -> FileChangedError:
        """For what was there a moment ago."""
        return self._other(path, "was removed while it was read: try again when nothing writes there")

    def _other(self, path: bytes, what: str) -> FileChangedError:
        way_out = f", or {self.hint}" if self.hint else ""
        return FileChangedError(f"{self.name}: {show_path(path)}: {what}{way_out}")

    def unreadable(self, error: StorageError) -> StorageError:
        """With the tree's name."""
        hint = f"make it readable, or {self.hint}" if self.hint else ""
        return StorageError(error.errno or 0, error.op, error.filename, within=self.name, hint=hint)
