"""What a build came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple

if TYPE_CHECKING:
    from fastlayer.builder.lint.rules import LintWarning
    from fastlayer.builder.outputs.notes import Built
    from fastlayer.image.images import Image


class BuildResult(NamedTuple):
    """``image``: what was made; ``steps``: that may change files, and how many of them the cache had; ``saved_ns``:
    what these took when they were done; ``reused``: bytes of files in layers that the cache had; ``names``: those
    it was given, in full; ``base_layers``: how many of its layers came with the base image;
    ``lint``: what the checks of the Dockerfile found."""

    image: Image
    steps: int
    cached: int
    saved_ns: int
    reused: int
    warnings: tuple[str, ...]
    names: tuple[str, ...]
    base_layers: int
    lint: tuple[LintWarning, ...] = ()

    @property
    def built(self) -> Built:
        """What scripts are told of the image in the store."""
        from fastlayer.builder.outputs.notes import Built

        return Built(self.image.target, self.image.id, self.names, self.image.platform)

    @property
    def totals(self) -> dict[str, int]:
        """Its numbers, by name."""
        names = ("steps", "cached", "saved_ns", "reused", "base_layers")
        return {name: getattr(self, name) for name in names}
