"""What a stage has come to: configuration, variables, layers, history. Every instruction makes the next one of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import DockerfileError
from fastlayer.oci.chain import chain_id
from fastlayer.oci.config import History, RunConfig

if TYPE_CHECKING:
    from fastlayer.image.images import LayerInfo
    from fastlayer.oci.digest import Digest
    from fastlayer.oci.platform import Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
COMMENT = "buildkit.dockerfile.v0"  # what Docker writes into the history of what it builds


class State(NamedTuple):
    """``env``: the variables that instructions and RUN see, ARGs among them; ``arguments``: the ARGs of this stage and
    of those it goes on from, in order, None: has no value. ``own_cmd``: CMD was given since the base image;
    ``base_layers``: how many layers are those of an image the build began with."""

    platform: Platform
    run: RunConfig
    env: Mapping[str, str]
    arguments: Mapping[str, str | None]
    layers: tuple[LayerInfo, ...] = ()
    history: tuple[History, ...] = ()
    author: str = ""
    own_cmd: bool = False
    base_layers: int = 0

    @property
    def chain(self) -> str | None:
        """The name of the snapshot of all layers; None without layers."""
        return str(chain_id([layer.diff_id for layer in self.layers])) if self.layers else None

    @property
    def diff_ids(self) -> list[Digest]:
        """Of all layers, lowest first."""
        return [layer.diff_id for layer in self.layers]

    @property
    def shell(self) -> tuple[str, ...]:
        """What shell forms are put behind."""
        return self.run.shell or DEFAULT_SHELL

    @property
    def directory(self) -> str:
        """The working directory, absolute."""
        return self.run.working_dir or "/"

    def with_run(self, **changes: object) -> State:
        """With other properties of its configuration."""
        return self._replace(run=self.run._replace(**changes))  # type: ignore[arg-type]

    def explained(self, text: str, *, layer: LayerInfo | None = None, created: str = "") -> State:
        """With one step more in its history, and its layer. Without ``created`` the time is the image's, filled in when
        that is known. Raises ``DockerfileError`` for a text that is not UTF-8."""
        check_text(text)
        step = History(created=created, created_by=text, comment=COMMENT, empty_layer=layer is None)
        layers = self.layers if layer is None else (*self.layers, layer)
        return self._replace(history=(*self.history, step), layers=layers)


def check_text(text: str) -> None:
    """Raises ``DockerfileError`` for what no configuration can hold: it is JSON (image-spec, config.md)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DockerfileError("is not UTF-8, as all text of an image has to be: save the Dockerfile as UTF-8") from None


def scratch(platform: Platform) -> State:
    """The empty image."""
    run = RunConfig(env=(f"PATH={DEFAULT_PATH}",), working_dir="/")
    return State(platform, run, {"PATH": DEFAULT_PATH}, {})


def begin(state: State) -> State:
    """A stage that goes on from ``state``: the variables of its configuration come on top, PATH is always set.

    What an image keeps for those that go on from it (ONBUILD) is for this stage and none after it.
    """
    run = state.run
    if not any(entry.startswith("PATH=") for entry in run.env):
        run = run._replace(env=(*run.env, f"PATH={DEFAULT_PATH}"))
    env = {**state.env, **dict(entry.partition("=")[::2] for entry in run.env)}
    return state._replace(run=run._replace(on_build=()), env=env, own_cmd=False)
