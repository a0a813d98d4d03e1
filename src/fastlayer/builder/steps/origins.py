"""Where COPY, ADD and RUN --mount take files from: the context, a named context, a stage, an image."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.builder.graph import SCRATCH
from fastlayer.builder.state import scratch
from fastlayer.oci.platform import host_platform

if TYPE_CHECKING:
    from fastlayer.builder.copying.sources import Hidden
    from fastlayer.builder.stage import StageRun
    from fastlayer.builder.state import State


class Origin:
    """``chain``: the stack of layers it is, which never changes; empty for a directory. ``keep_owner``: files belong to
    whom they belong there; in a context all are root's."""

    chain = ""
    keep_owner = False
    hidden: Hidden | None = None

    def tree(self) -> Any:
        """The tree, opened when it is asked for."""
        raise NotImplementedError


class _Directory(Origin):
    def __init__(self, context: Any) -> None:
        self._context = context
        if context.patterns:
            self.hidden = self._is_hidden

    def tree(self) -> Any:
        return self._context.tree

    def _is_hidden(self, path: str) -> bool:
        from fastlayer.builder.dockerfile.ignore import Matcher

        return Matcher(self._context.patterns).excludes(path)


class _Layers(Origin):
    keep_owner = True

    def __init__(self, stage: StageRun, state: State, ends: ExitStack) -> None:
        self.chain = state.chain or "scratch"
        self._stage = stage
        self._state = state
        self._ends = ends
        self._tree: Any = None

    def tree(self) -> Any:
        from fastlayer.builder.context.tree import open_tree

        if self._tree is None:
            path = self._ends.enter_context(self._stage.shop.tree(self._state))
            self._tree = self._ends.enter_context(open_tree(os.fspath(path)))
        return self._tree


def origin_of(stage: StageRun, name: str, ends: ExitStack) -> Origin:
    """What ``--from=name`` means; empty: the build context; ``scratch``: nothing at all.

    What is opened stays so until ``ends`` does.
    """
    from fastlayer.builder import bases

    shop = stage.shop
    if not name:
        return _Directory(shop.context)
    number = stage.number_of(name)
    if number is not None:
        return _Layers(stage, stage.solver.state_of(number), ends)
    named = shop.named_context(name)
    if named is not None:
        return _Directory(named)
    if name == SCRATCH:
        return _Layers(stage, scratch(shop.options.platform or host_platform()), ends)
    return _Layers(stage, bases.state_of(shop, bases.find(shop, name, shop.options.platform)), ends)
