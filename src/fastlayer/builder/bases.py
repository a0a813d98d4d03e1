"""Where a stage begins: another stage, nothing, or an image of the store, a registry, a layout, a named context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.context.sources import context_name
from fastlayer.builder.dockerfile.instructions import Command, Copy, From, understand
from fastlayer.builder.dockerfile.parser import parse_one
from fastlayer.builder.graph import SCRATCH
from fastlayer.builder.state import State, begin, scratch
from fastlayer.errors import DockerfileError
from fastlayer.oci.platform import Platform, host_platform, parse_platform

if TYPE_CHECKING:
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import Image

_IMAGES = ("image", "layout", "stage")  # kinds of named contexts that are no directory
LAYOUT = "oci:"  # FROM oci:PATH[:TAG], as skopeo writes it


class Base(NamedTuple):
    """``state``: what the stage begins with; ``triggers``: its ONBUILD instructions, which are carried out first;
    ``name``: for people; ``directory``: whether ``triggers`` is not of an image, but copies what a context has."""

    state: State
    triggers: tuple[Command, ...]
    name: str
    directory: bool = False


def of_stage(state: State, name: str, escape: str) -> Base:
    """Goes on from another stage, whose ARGs it has, too."""
    return Base(begin(state), _triggers(state, escape), name)


def of_image(shop: Workshop, name: str, platform: str) -> Base:
    """Goes on from an image. Raises ``NotFoundError``, ``DockerfileError`` for a platform or name that is none."""
    wanted = parse_platform(platform) if platform else shop.options.platform
    given = shop.options.contexts.get(context_name(name))
    if name == SCRATCH and given is None:
        return Base(scratch(wanted or host_platform()), (), SCRATCH)
    if given is not None and given.kind not in _IMAGES:
        return Base(scratch(wanted or host_platform()), (_copied(name, shop.given.escape),), name, directory=True)
    state = state_of(shop, find(shop, name, wanted))
    return Base(begin(state), _triggers(state, shop.given.escape), name)


def _copied(name: str, escape: str) -> Command:
    """A directory is a base image of one layer."""
    found = understand(parse_one(f"COPY --from={name} . /", "FROM", escape))
    assert isinstance(found, Copy)
    return found


def find(shop: Workshop, name: str, platform: Platform | None) -> Image:
    """The image of that name: of a named context, a layout, the store, or a registry. Raises ``NotFoundError``, and
    what pulling raises."""
    from fastlayer.builder import pulling

    given = shop.options.contexts.get(context_name(name))
    if given is not None and given.kind == "layout":
        return _of_layout(shop, given.place, platform)
    if given is not None and given.kind == "image":
        name = given.place
    elif name.startswith(LAYOUT):
        return _of_layout(shop, name.removeprefix(LAYOUT), platform)
    image = pulling.find(shop, name, platform)
    shop.looked_up(name, image)
    return image


def _of_layout(shop: Workshop, text: str, platform: Platform | None) -> Image:
    """``PATH[:TAG|@DIGEST]``. Loaded once for a build; it gets no name."""
    from fastlayer.builder.layouts import load_layout

    shop.repeatable = False
    return shop.once(f"layout {text}", lambda _: load_layout(shop.store, text, platform))


def state_of(shop: Workshop, image: Image) -> State:
    """An image as something to go on from."""
    from fastlayer.image.images import Images

    config = Images(shop.store).config(image)
    return State(
        config.platform,
        config.run,
        {},
        {},
        image.layers,
        config.explained,
        config.author,
        base_layers=len(image.layers),
    )


def _triggers(state: State, escape: str) -> tuple[Command, ...]:
    found: list[Command] = []
    for text in state.run.on_build:
        try:
            command = understand(parse_one(text, "ONBUILD", escape))
        except DockerfileError as exc:
            raise DockerfileError(f"ONBUILD {text}: {exc}") from None
        if isinstance(command, From):
            raise DockerfileError(f"ONBUILD {text}: the base image asks for what is not allowed")
        found.append(command)
    return tuple(found)
