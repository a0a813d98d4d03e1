"""COPY and ADD: a layer straight from the context, a stage or an image; nothing is run for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.builder.dockerfile.instructions import Add, Copy, Sources
from fastlayer.builder.dockerfile.shell import Lexer
from fastlayer.builder.effects import Given
from fastlayer.builder.steps.layers import created_ns, lay
from fastlayer.builder.steps.lower import opened
from fastlayer.builder.steps.step import Task, carry_out
from fastlayer.errors import DockerfileError

if TYPE_CHECKING:
    from fastlayer.builder.cache import Inputs
    from fastlayer.builder.copying.gather import Gathered, Staging
    from fastlayer.builder.copying.rows import Copying
    from fastlayer.builder.stage import StageRun
    from fastlayer.builder.state import State
    from fastlayer.builder.steps.origins import Origin
    from fastlayer.image.images import LayerInfo


def copy_step(stage: StageRun, task: Task, command: Copy | Add) -> State:
    """The state with what was copied."""
    command = filled_in(command, task.state, task.shop.given)
    with ExitStack() as ends:
        work = _Copy(stage, task, command, ends)
        return carry_out(work.task, work.quick(), work.do, closer=work.closer)


def filled_in(command: Copy | Add, state: State, given: Given) -> Copy | Add:
    """With the variables in its words and flags."""
    lexer = Lexer(given.escape, budget=given.budget)

    def word(text: str) -> str:
        return lexer.word(text, state.env)

    sources = Sources(tuple(map(word, command.sources.paths)), command.sources.contents, word(command.sources.target))
    if not sources.target or not all(sources.paths):
        raise DockerfileError(f"{command.at.keyword.upper()}: a source or the target is empty: set its variable")
    return command._replace(
        sources=sources,
        chown=word(command.chown),
        chmod=word(command.chmod),
        exclude=tuple(map(word, command.exclude)),
    )


class _Copy:
    """One COPY or ADD; what was opened for it is on the stack ``ends``."""

    def __init__(self, stage: StageRun, task: Task, command: Copy | Add, ends: ExitStack) -> None:
        from fastlayer.builder.steps.origins import origin_of

        self.command = command
        self.shop = task.shop
        self.state = task.state
        self.task = task._replace(history=history_text(command))
        self._ends = ends
        self._origin: Origin | None = None
        if command.sources.paths:
            self._origin = origin_of(stage, command.source if isinstance(command, Copy) else "", ends)
        self._gathered: Gathered | None = None
        self._copying: Copying | None = None
        self._created_ns = created_ns(self.shop)

    def quick(self) -> Inputs:
        """What decides it on this very stack. Of a stage or an image its own stack stands for the content."""
        if self._origin is not None and self._origin.chain:
            about: Inputs = {"from": self._origin.chain, "sources": list(self.command.sources.paths)}
            if self.command.sources.contents:
                about = {**about, "content": self.gathered.quick_key().hex()}
        else:
            about = {"content": self.gathered.quick_key().hex()}
        return {"step": "copy", "parent": self.state.chain, **about, **self._flags()}

    def closer(self) -> Inputs:
        """What decides it on any stack: the content, and what it meets there."""
        from fastlayer.builder.steps.contents import details, remember

        facts = [repr(fact) for fact in self.copying.facts]
        remember(self.shop, self.gathered)
        about = {"content": self.gathered.key().hex(), "_details": details(self.gathered)}
        return {"step": "copy", "facts": facts, **about, **self._flags()}

    def do(self) -> LayerInfo | None:
        copying = self.copying
        layer = lay(self.shop, self.state, copying.rows(), self.gathered.roots, self.task.what, repeats=copying.meets)
        if copying.sockets:
            self.task.work.note(f"{copying.sockets} sockets were left out: no layer can hold one")
        return layer

    def _flags(self) -> dict[str, Any]:
        command = self.command
        return {
            "target": command.sources.target,
            "cwd": self.state.directory,
            "owner": command.chown,
            "chmod": command.chmod,
            "link": command.link,
            "parents": isinstance(command, Copy) and command.parents,
            "exclude": list(command.exclude),
            "unpack": command.unpack if isinstance(command, Add) else False,
            "epoch": self.shop.options.epoch,
        }

    @property
    def gathered(self) -> Gathered:
        """What it names, fetched and opened."""
        from fastlayer.builder.copying.gather import gather

        if self._gathered is None:
            origin = self._origin
            self._gathered = gather(
                self.command,
                None if origin is None else origin.tree(),
                self._staging(),
                keep_owner=origin is not None and origin.keep_owner,
                hidden=None if origin is None else origin.hidden,
                env=self.state.env,
                created_ns=self._created_ns,
            )
            self.shop.repeatable &= not self._gathered.is_remote and not self._gathered.warnings
            for warning in self._gathered.warnings:
                self.task.work.note(warning)
        return self._gathered

    @property
    def copying(self) -> Copying:
        """Its plan on what is below."""
        if self._copying is None:
            needed = self.gathered.needs_lower
            lower = self._ends.enter_context(opened(self.shop, self.state)).tree if needed else None
            self._copying = self.gathered.place(lower, workdir=self.state.directory, created_ns=self._created_ns)
        return self._copying

    def _staging(self) -> Staging:
        from fastlayer.builder.copying.addresses import Addresses
        from fastlayer.builder.copying.gather import Staging

        kept = self.shop.store.root / "cache" / "addresses"
        return Staging(_fresh(self.shop.directory, self._ends), Addresses(os.fspath(kept)), self.shop.check)


def _fresh(make: Callable[[], Any], ends: ExitStack) -> Callable[[], tuple[int, str]]:
    def fresh() -> tuple[int, str]:
        place = make()
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        ends.callback(os.close, fd)
        return fd, os.fspath(place)

    return fresh


def history_text(command: Copy | Add) -> str:
    """As Docker's builder writes it."""
    words = [command.at.keyword.upper()]
    if isinstance(command, Copy) and command.parents:
        words.append("--parents")
    words += [f"--chown={command.chown}"] if command.chown else []
    words += [f"--chmod={command.chmod}"] if command.chmod else []
    words += [f"--exclude={pattern}" for pattern in command.exclude]
    words += command.sources.paths
    words += [f"<<{document.name}" for document in command.sources.contents]
    return " ".join([*words, command.sources.target, "# buildkit"])
