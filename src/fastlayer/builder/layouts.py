"""Images of OCI layouts and archives as bases: ``FROM oci:PATH[:TAG]``, ``--build-context NAME=oci-layout://PATH``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fastlayer.errors import NotFoundError, show_path
from fastlayer.image.images import Image, Images

if TYPE_CHECKING:
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store


def load_layout(store: Store, text: str, platform: Platform | None) -> Image:
    """The image of ``PATH[:TAG|@DIGEST]``, loaded without a name. Raises ``NotFoundError`` when it is not in it."""
    from fastlayer.image.load import Options, load

    path, wanted = split(text)
    loaded = load(store, path, Options(platform=platform, unpack=False, nameless=True, only=wanted))
    if len(loaded) != 1:
        what = f"no image {wanted}" if wanted else f"{len(loaded)} images: say which one with oci:PATH:TAG"
        raise NotFoundError(f"{show_path(path)}: has {what}")
    return Images(store).by_target(loaded[0].target, (), platform)


def split(text: str) -> tuple[str, str]:
    """The path, and the tag or digest behind it; a path that exists as it stands has none."""
    if os.path.exists(text):
        return text, ""
    path, at, digest = text.rpartition("@")
    if at:
        return path, digest
    path, colon, tag = text.rpartition(":")
    return (path, tag) if colon and "/" not in tag else (text, "")
