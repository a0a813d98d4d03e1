"""Stages whose place a context of that name takes (``--build-context``; BuildKit, dockerfile2llb)."""

from __future__ import annotations

from collections.abc import Collection

from fastlayer.builder.context.sources import context_name
from fastlayer.builder.dockerfile.stages import Dockerfile, Stage


def overridden(file: Dockerfile, names: Collection[str]) -> Dockerfile:
    """Such a stage is ``FROM NAME`` alone, and has its number only: its name means the context."""
    if not names:
        return file
    return file._replace(stages=tuple(_of(stage, names) for stage in file.stages))


def _of(stage: Stage, names: Collection[str]) -> Stage:
    name = stage.begin.name
    if not name or context_name(name) not in names:
        return stage
    return stage._replace(begin=stage.begin._replace(base=name, name="", platform=""), commands=())


def target_of(file: Dockerfile, target: str | None) -> str | None:
    """The number of the stage that is meant, which stays when its name goes; a target that is none as it is."""
    stage = None if target is None else file.stage(target)
    return target if stage is None else str(stage.number)
