"""The files below a step, opened to be looked at: where its target is, who its users are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlayer.errors import DockerfileError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.context.tree import DirectoryTree
    from fastlayer.builder.state import State
    from fastlayer.builder.workshop import Workshop
    from fastlayer.running.users import Ids

_MAX_USERS = 16 << 20  # bytes of /etc/passwd or /etc/group


class Lower:
    """``tree``: None when there is nothing below."""

    def __init__(self, tree: DirectoryTree | None) -> None:
        self.tree = tree

    def read(self, path: str) -> bytes | None:
        """A small file of it, links followed inside; None when it is not there."""
        from fastlayer.builder.copying.folder import Folder
        from fastlayer.builder.copying.trees import encode, link_of, resolve

        if self.tree is None:
            return None
        return Folder(self.tree.fd).read(resolve(encode(path), link_of(self.tree)), _MAX_USERS)

    def user(self, text: str) -> Ids:
        """Whom USER means. Raises ``DockerfileError`` for a name that is not there."""
        from fastlayer.running.users import resolve

        try:
            return resolve(text, self.read)
        except FastlayerError as exc:
            raise DockerfileError(f"USER {text}: {exc}") from exc


@contextmanager
def opened(shop: Workshop, state: State) -> Iterator[Lower]:
    """The files of a state, for the block."""
    from fastlayer.builder.context.tree import open_tree

    if state.chain is None:
        yield Lower(None)
        return
    with shop.tree(state) as path, open_tree(os.fspath(path), jobs=shop.options.jobs) as tree:
        yield Lower(tree)
