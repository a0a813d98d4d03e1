"""``commit --change``: Dockerfile instructions that change a configuration, as `docker commit` takes them.

They are read as those of a Dockerfile, without arguments. Variables of the image's environment stand for their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlayer.errors import DockerfileError, UsageError

if TYPE_CHECKING:
    from fastlayer.builder.state import State
    from fastlayer.oci.config import RunConfig

ALLOWED = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)


def apply_changes(run: RunConfig, instructions: Sequence[str]) -> RunConfig:
    """The configuration after the instructions. Raises ``UsageError`` for one that cannot be used here."""
    if not instructions:
        return run
    from fastlayer.builder.state import State
    from fastlayer.oci.platform import host_platform

    state = State(host_platform(), run, dict(entry.partition("=")[::2] for entry in run.env), {})
    for text in instructions:
        state = _changed(state, text.strip())
    return state.run


def _changed(state: State, text: str) -> State:
    from fastlayer.builder.dockerfile.instructions import From, Workdir, understand
    from fastlayer.builder.dockerfile.parser import parse_one
    from fastlayer.builder.dockerfile.shell import Budget
    from fastlayer.builder.effects import Given, effect, workdir

    word = (text.split(None, 1) or [""])[0]
    if word.upper() not in ALLOWED:
        raise UsageError(f"--change {text!r}: {word} cannot be used: use one of {', '.join(ALLOWED)}")
    nothing = Given({}, {}, "\\", Budget())
    try:
        command = understand(parse_one(text, "--change"))
        assert not isinstance(command, From)
        changed = workdir(state, command, nothing) if isinstance(command, Workdir) else effect(state, command, nothing)
    except DockerfileError as exc:
        raise UsageError(f"--change {text!r}: {str(exc).removeprefix('--change:1: ')}") from None
    assert changed is not None  # every allowed one changes the configuration only
    return changed
