"""What the store knows of base images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.builder.lint.stages import Base, Bases
from fastlayer.errors import FastlayerError

if TYPE_CHECKING:
    from fastlayer.store.store import Store


def bases_of(store: Store) -> Bases:
    """For ``check`` and ``warnings_of``. An image that is not there, or damaged, is not known."""
    from fastlayer.image.images import Images
    from fastlayer.oci.platform import parse_platform

    images = Images(store)

    def known(name: str, platform: str) -> Base | None:
        try:
            config = images.config(images.find(name, parse_platform(platform) if platform else None))
        except FastlayerError:
            return None
        env = dict(entry.partition("=")[::2] for entry in config.run.env)
        return Base(env, config.run.shell, config.run.on_build, str(config.platform))

    return known
