"""``RUN --mount``: what is put into the container of one step and leaves nothing in its layer."""

from __future__ import annotations

import csv
from collections.abc import Callable

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.values import FALSE, TRUE, nearest, size
from fastlayer.errors import DockerfileError

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_SOURCES = ("type", "from", "source", "target", "readonly", "readwrite")
_ALL = (*_SOURCES, "required", "size", "id", "sharing", "mode", "uid", "gid", "env", *_NAMES)
_SWITCHES = ("readonly", "readwrite", "required")
_ONLY = {  # what only some types have
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "sharing": ("cache",),
    "env": ("secret",),
    "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"),
    "gid": ("cache", "secret", "ssh"),
}


class RunMount(NamedTuple):
    """One mount. ``source`` and ``target`` as written; ``size``: bytes, 0: no limit; ``mode``, ``uid``, ``gid``: None:
    the default of its type; ``env``: the variable that gets the secret; None: there is none."""

    type: str = "bind"
    source_of: str = ""
    source: str = ""
    target: str = ""
    readonly: bool = True
    required: bool = False
    size: int = 0
    id: str = ""
    sharing: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None


def check_mount(text: str) -> None:
    """What can be said before variables are known. Raises ``DockerfileError``."""
    fields = _fields(text)
    if "$" in text:
        if "$" in fields.get("from", ""):
            raise DockerfileError(f"--mount={text}: `from` takes no variables: name the stage with FROM ... AS NAME")
        for name in fields:
            _known(text, name)
        return
    parse_mount(text, lambda value: value)


def parse_mount(text: str, expand: Callable[[str], str]) -> RunMount:
    """The mount that ``--mount=text`` means, with the variables filled in. Raises ``DockerfileError``."""
    fields = {name: expand(value) for name, value in _fields(text).items()}
    kind = fields.pop("type", "bind").lower()
    if kind not in TYPES:
        raise DockerfileError(f"--mount={text}: no type {kind}{nearest(kind, TYPES)}")
    for name in fields:
        _known(text, name)
        if kind not in _ONLY.get(name, TYPES):
            raise DockerfileError(f"--mount={text}: {name} means nothing for the type {kind}")
    mount = RunMount(
        kind,
        fields.get("from", ""),
        fields.get("source", ""),
        fields.get("target", ""),
        _readonly(text, fields, kind),
        "required" in fields and _truth(text, "required", fields["required"]),
        size(fields["size"], "size") if "size" in fields else 0,
        fields.get("id", ""),
        fields.get("sharing", "").lower(),
        _number(text, fields, "mode", 8),
        _number(text, fields, "uid", 10),
        _number(text, fields, "gid", 10),
        fields.get("env"),
    )
    _check(text, mount)
    return mount


def source_of(text: str) -> str:
    """What ``from`` says, in which there are no variables; empty when it is not there."""
    return _fields(text).get("from", "")


def _fields(text: str) -> dict[str, str]:
    """As comma-separated values, with their quotes; later ones win. Switches alone mean true."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as exc:
        raise DockerfileError(f"--mount={text}: {exc}") from None
    fields: dict[str, str] = {}
    for field in rows[0] if rows else []:
        name, equals, value = field.partition("=")
        name = name.lower()
        name = _NAMES.get(name, name)
        if not equals:
            if name not in _SWITCHES:
                raise DockerfileError(f"--mount={text}: {field} has no `=`: write NAME=VALUE")
            value = "true"
        fields.pop("readonly" if name == "readwrite" else "readwrite" if name == "readonly" else "", None)
        fields[name] = value
    return fields


def _known(text: str, name: str) -> None:
    if name not in _ALL:
        raise DockerfileError(f"--mount={text}: unknown {name}{nearest(name, _ALL)}")


def _readonly(text: str, fields: dict[str, str], kind: str) -> bool:
    if "readonly" in fields:
        return _truth(text, "readonly", fields["readonly"])
    if "readwrite" in fields:
        return not _truth(text, "readwrite", fields["readwrite"])
    return kind not in ("cache", "tmpfs")


def _truth(text: str, name: str, value: str) -> bool:
    if value not in (*TRUE, *FALSE):
        raise DockerfileError(f"--mount={text}: {name} is true or false")
    return value in TRUE


def _number(text: str, fields: dict[str, str], name: str, base: int) -> int | None:
    if name not in fields:
        return None
    try:
        value = int(fields[name], base) if fields[name].isalnum() and fields[name].isascii() else -1
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        what = "an octal number" if base == 8 else "a number"
        raise DockerfileError(f"--mount={text}: {name}={fields[name]}: use {what}")
    return value


def _check(text: str, mount: RunMount) -> None:
    if mount.sharing and mount.sharing not in SHARING:
        raise DockerfileError(f"--mount={text}: sharing is one of {', '.join(SHARING)}")
    if mount.type == "secret":
        if mount.source_of:
            raise DockerfileError(f"--mount={text}: a secret comes from no stage: leave out `from`")
        if not (mount.source or mount.target or mount.id or mount.env):
            raise DockerfileError(f"--mount={text}: which secret? give id=NAME")
        if mount.source and mount.id:
            raise DockerfileError(f"--mount={text}: source and id are the same: give one of them")
    if mount.type in ("bind", "cache", "tmpfs") and not mount.target:
        raise DockerfileError(f"--mount={text}: give target=PATH")
