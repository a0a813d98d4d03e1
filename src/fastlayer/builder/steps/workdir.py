"""WORKDIR: the directory is made when it is not there, owned by the user the next steps run as."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastlayer.builder import effects
from fastlayer.builder.dockerfile.instructions import Workdir
from fastlayer.builder.steps.layers import created_ns, lay
from fastlayer.builder.steps.lower import Lower, opened
from fastlayer.builder.steps.step import Task, carry_out

if TYPE_CHECKING:
    from fastlayer.builder.copying.target import Target
    from fastlayer.builder.state import State
    from fastlayer.image.images import LayerInfo

Row = tuple[Any, ...]


def workdir_step(task: Task, command: Workdir) -> State:
    """A step with a layer only when a directory has to be made."""
    shop = task.shop
    state = effects.workdir(task.state, command, shop.given)
    task = task._replace(state=state, history=f"WORKDIR {state.directory}")
    if state.directory == "/":
        return state.explained(task.history)
    inputs = {
        "step": "workdir",
        "parent": state.chain,
        "target": state.directory,
        "user": state.run.user,
        "epoch": shop.options.epoch,
    }

    def do() -> LayerInfo | None:
        with opened(shop, state) as lower:
            return _make(task, lower)

    return carry_out(task, inputs, do)


def _make(task: Task, lower: Lower) -> LayerInfo | None:
    from fastlayer.builder.copying.target import Target

    shop, state = task.shop, task.state
    target = Target(lower.tree, state.directory + "/", "/")
    if target.is_directory:
        return None
    ids = lower.user(state.run.user)
    rows = list(_rows(target, ids.uid, ids.gid, created_ns(shop)))
    return lay(shop, state, [rows], [], f"WORKDIR {state.directory}")


def _rows(target: Target, uid: int, gid: int, moment: int) -> Iterator[Row]:
    mode = stat.S_IFDIR | 0o755
    for path, entry in [*target.parents, (target.path, None)]:
        if entry is None:
            yield "A", path, mode, uid, gid, 0, moment, (0, 0), b"", (), 0, b"", 0, 0
        else:
            yield (
                "P", path, entry.mode, entry.uid, entry.gid, 0, entry.mtime_ns, (0, 0), b"", entry.xattrs,
                0, b"", 0, 0,
            )  # fmt: skip
