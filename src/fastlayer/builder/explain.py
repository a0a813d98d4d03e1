"""Why a step missed the cache: the first of its inputs that is another one than the last time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastlayer.builder.cache import key_of

Inputs = Mapping[str, Any]
Details = list[list[str]]
Content = Callable[[Details, Details], str]
"""Given what two steps copied (paths and digests): what differs first, in words."""

_NAMES = {
    "parent": "what is below it has changed",
    "facts": "the directories it copies to have changed below it",
    "args": "the command",
    "cwd": "the working directory (WORKDIR)",
    "user": "the user (USER)",
    "network": "the network",
    "security": "--security",
    "ulimits": "--ulimit",
    "capabilities": "the set of capabilities",
    "devices": "--device",
    "given_devices": "--device of the build",
    "hosts": "--add-host",
    "platform": "the platform",
    "epoch": "SOURCE_DATE_EPOCH",
    "target": "the target",
    "owner": "--chown",
    "chmod": "--chmod",
    "link": "--link",
}


def why(inputs: Inputs, known: Iterable[Inputs], content: Content) -> str:
    """``known``: the inputs of steps with the same instruction, the latest first: the nearest is what it is compared
    with."""
    nearest = min(known, key=lambda old: _distance(old, inputs), default=None)
    if nearest is None:
        return "no step with this instruction is in the cache"
    for name in sorted(inputs, key=lambda name: name == "parent"):  # what follows from other steps comes last
        old, new = nearest.get(name), inputs[name]
        if name == "content" and old != new:
            return content(nearest.get("_details") or [], inputs.get("_details") or [])
        if old != new and not name.startswith("_"):
            return _difference(name, old, new, content)
    gone = [name for name in nearest if name not in inputs]
    return f"{gone[0]} was {_short(nearest[gone[0]])}, is not given any more" if gone else "its layer has been removed"


def _distance(old: Inputs, new: Inputs) -> int:
    """Differences, those in what is below count less: they follow from something else."""
    names = {name for name in (*old, *new) if name[0] != "_" and old.get(name) != new.get(name)}
    return 2 * len(names - {"parent"}) + len(names & {"parent"})


def _difference(name: str, old: Any, new: Any, content: Content) -> str:
    if name == "env":
        return _variables(old or {}, new or {})
    if name == "mounts":
        return _mounts(old or [], new or [], content)
    if name in ("parent", "facts"):
        return _NAMES[name]
    return f"{_NAMES.get(name, name)} was {_short(old)}, is {_short(new)}"


def _variables(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    for name in sorted({*old, *new}):
        if name not in old:
            return f"the variable {name} is new"
        if name not in new:
            return f"the variable {name} is gone"
        if old[name] != new[name]:
            return f"the variable {name} was {_short(old[name])}, is {_short(new[name])}"
    return "the variables have another order"


def _mounts(old: list[Any], new: list[Any], content: Content) -> str:
    for before, after in zip(old, new, strict=False):
        if key_of({"mount": before}) != key_of({"mount": after}):
            if before.get("content") != after.get("content"):
                told = content(before.get("_details") or [], after.get("_details") or [])
                return f"--mount at {after.get('target')}: {told}"
            return f"--mount at {after.get('target')} has other options"
    return "the number of mounts has changed"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= 60 else text[:57] + "...")
