"""What each instruction says: its flags and arguments, checked (Dockerfile reference, frontend 1.20).

Words are kept as they were written; variables in them are filled in when a stage is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.devices import RunDevice, parse_device
from fastlayer.builder.dockerfile.flags import Flags
from fastlayer.builder.dockerfile.mounts import check_mount
from fastlayer.builder.dockerfile.parser import Heredoc, Instruction, opening
from fastlayer.builder.dockerfile.values import duration, nearest
from fastlayer.errors import DockerfileError

_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*", re.ASCII)
_ONBUILD = re.compile(r"\s*onbuild\s*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")
_TIMES = ("interval", "timeout", "start-period", "start-interval")
Pairs = tuple[tuple[str, str], ...]


class CommandLine(NamedTuple):
    """``shell``: the one text of ``words`` is for the shell, else they are program and arguments. ``files``: the
    here-documents of RUN."""

    words: tuple[str, ...]
    shell: bool
    files: tuple[Heredoc, ...] = ()


class From(NamedTuple):
    """Begins a stage. ``name``: in lower case, empty without AS."""

    at: Instruction
    base: str
    name: str
    platform: str


class Arg(NamedTuple):
    """``values``: None for those without a default."""

    at: Instruction
    values: tuple[tuple[str, str | None], ...]


class Env(NamedTuple):
    at: Instruction
    values: Pairs


class Label(NamedTuple):
    at: Instruction
    values: Pairs


class Run(NamedTuple):
    """``mounts``: the values of ``--mount``, to be parsed when variables are known (``mounts.py``)."""

    at: Instruction
    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[RunDevice, ...] = ()


class Sources(NamedTuple):
    """What COPY and ADD put where. ``contents``: here-documents, each a file of that name."""

    paths: tuple[str, ...]
    contents: tuple[Heredoc, ...]
    target: str


class Copy(NamedTuple):
    """``source``: stage, image or named context; empty for the build context."""

    at: Instruction
    sources: Sources
    source: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()


class Add(NamedTuple):
    """``unpack``: None: local archives yes, those from elsewhere no."""

    at: Instruction
    sources: Sources
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


class Workdir(NamedTuple):
    at: Instruction
    path: str


class User(NamedTuple):
    at: Instruction
    user: str


class Shell(NamedTuple):
    at: Instruction
    words: tuple[str, ...]


class Cmd(NamedTuple):
    at: Instruction
    command: CommandLine


class Entrypoint(NamedTuple):
    at: Instruction
    command: CommandLine


class Healthcheck(NamedTuple):
    """``test``: as in the configuration: ``NONE``, or ``CMD`` or ``CMD-SHELL`` and more. Times in nanoseconds; 0: the
    default."""

    at: Instruction
    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Expose(NamedTuple):
    at: Instruction
    ports: tuple[str, ...]


class Volume(NamedTuple):
    at: Instruction
    paths: tuple[str, ...]


class StopSignal(NamedTuple):
    at: Instruction
    signal: str


class Onbuild(NamedTuple):
    """``trigger``: the instruction as images keep it."""

    at: Instruction
    trigger: str


class Maintainer(NamedTuple):
    at: Instruction
    name: str


Command = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Add
    | Workdir
    | User
    | Shell
    | Cmd
    | Entrypoint
    | Healthcheck
    | Expose
    | Volume
    | StopSignal
    | Onbuild
    | Maintainer
)


def understand(found: Instruction) -> From | Command:
    """The instruction with its meaning. Raises ``DockerfileError``, without file and line."""
    reader = _READERS.get(found.keyword)
    if reader is None:
        raise DockerfileError(
            f"unknown instruction {found.keyword.upper()!r}{nearest(found.keyword.upper(), _READERS)}"
        )
    return reader(found)


# ---- what is alike ---------------------------------------------------------------------------------


def _one(found: Instruction) -> str:
    Flags(found)
    if len(found.args) != 1 or not found.args[0]:
        raise DockerfileError(f"{found.keyword.upper()} needs exactly one argument")
    return found.args[0]


def _some(found: Instruction) -> tuple[str, ...]:
    if not found.args:
        raise DockerfileError(f"{found.keyword.upper()} needs at least one argument")
    return found.args


def _pairs(found: Instruction) -> Pairs:
    Flags(found)
    words = _some(found)
    if not all(words[::2]):
        raise DockerfileError(f"{found.keyword.upper()}: a name is empty")
    return tuple(zip(words[::2], words[1::2], strict=True))


def _command_line(found: Instruction) -> CommandLine:
    return CommandLine(found.args, not found.json, found.heredocs)


def _one_of(value: str, choices: tuple[str, ...], flag: str) -> str:
    if value and value not in choices:
        raise DockerfileError(f"{flag}={value}: use one of {', '.join(choices)}")
    return value or choices[0]


# ---- one by one ------------------------------------------------------------------------------------


def _from(found: Instruction) -> From:
    flags = Flags(found, one=("platform",))
    words = found.args
    if len(words) == 1:
        return From(found, words[0], "", flags.text("platform"))
    if len(words) != 3 or words[1].lower() != "as":
        raise DockerfileError("FROM needs an image, or an image, AS and a name")
    name = words[2].lower()
    if not _STAGE_NAME.fullmatch(name):
        raise DockerfileError(f"{words[2]}: not a name for a stage: a letter, then letters, digits, `-`, `_` and `.`")
    return From(found, words[0], name, flags.text("platform"))


def _arg(found: Instruction) -> Arg:
    Flags(found)
    values: list[tuple[str, str | None]] = []
    for word in _some(found):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError("ARG: a name is empty")
        values.append((name, value if equals else None))
    return Arg(found, tuple(values))


def _run(found: Instruction) -> Run:
    flags = Flags(found, one=("network", "security"), many=("mount", "device"))
    mounts = flags.texts("mount")
    for mount in mounts:
        check_mount(mount)
    command = _command_line(found)
    if not command.words:
        raise DockerfileError("RUN needs a command")
    return Run(
        found,
        command,
        mounts,
        _one_of(flags.text("network"), _NETWORKS, "--network"),
        _one_of(flags.text("security"), _SECURITY, "--security"),
        tuple(map(parse_device, flags.texts("device"))),
    )


def _sources(found: Instruction) -> Sources:
    keyword, words = found.keyword.upper(), found.args
    if len(words) < 2:
        raise DockerfileError(f"{keyword} needs a source and a target")
    if opening(words[-1]) is not None:
        raise DockerfileError(f"{keyword}: a here-document cannot be the target")
    contents = {doc.name: doc for doc in found.heredocs}
    paths, files = [], []
    for word in words[:-1]:
        begun = opening(word)
        if begun is not None and begun.name in contents:
            files.append(contents[begun.name])
        else:
            paths.append(word)
    return Sources(tuple(paths), tuple(files), words[-1])


def _copy(found: Instruction) -> Copy:
    flags = Flags(found, boolean=("link", "parents"), one=("chown", "chmod", "from"), many=("exclude",))
    return Copy(
        found,
        _sources(found),
        flags.text("from"),
        flags.text("chown"),
        flags.text("chmod"),
        bool(flags.boolean("link")),
        bool(flags.boolean("parents")),
        flags.texts("exclude"),
    )


def _add(found: Instruction) -> Add:
    flags = Flags(
        found, boolean=("link", "keep-git-dir", "unpack"), one=("chown", "chmod", "checksum"), many=("exclude",)
    )
    return Add(
        found,
        _sources(found),
        flags.text("chown"),
        flags.text("chmod"),
        bool(flags.boolean("link")),
        flags.texts("exclude"),
        flags.text("checksum"),
        flags.boolean("keep-git-dir"),
        flags.boolean("unpack"),
    )


def _shell(found: Instruction) -> Shell:
    Flags(found)
    if not found.json or not found.args:
        raise DockerfileError('SHELL needs the JSON form: SHELL ["program", "argument"]')
    return Shell(found, found.args)


def _cmd(found: Instruction) -> Cmd:
    Flags(found)
    return Cmd(found, _command_line(found))


def _entrypoint(found: Instruction) -> Entrypoint:
    Flags(found)
    return Entrypoint(found, _command_line(found))


def _healthcheck(found: Instruction) -> Healthcheck:
    kind, *words = _some(found)
    if kind.upper() == "NONE":
        Flags(found)
        if words:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(found, ("NONE",))
    flags = Flags(found, one=(*_TIMES, "retries"))
    if kind.upper() != "CMD":
        raise DockerfileError(f"HEALTHCHECK {kind}: use HEALTHCHECK CMD or HEALTHCHECK NONE")
    if not words:
        raise DockerfileError("HEALTHCHECK CMD needs a command")
    test = ("CMD" if found.json else "CMD-SHELL", *words)
    interval, timeout, period, again = (duration(flags.text(name), f"--{name}") for name in _TIMES)
    return Healthcheck(found, test, interval, timeout, period, again, _retries(flags.text("retries")))


def _retries(text: str) -> int:
    if text and not re.fullmatch(r"\+?[0-9]{1,9}", text, re.ASCII):
        raise DockerfileError(f"--retries={text}: use a number, 0 or more")
    return int(text or 0)


def _expose(found: Instruction) -> Expose:
    Flags(found)
    return Expose(found, tuple(sorted(_some(found))))


def _volume(found: Instruction) -> Volume:
    Flags(found)
    paths = tuple(path.strip() for path in _some(found))
    if not all(paths):
        raise DockerfileError("VOLUME: a path is empty")
    return Volume(found, paths)


def _onbuild(found: Instruction) -> Onbuild:
    Flags(found)
    if found.trigger is None:
        raise DockerfileError("ONBUILD needs an instruction")
    keyword = found.trigger.keyword
    if keyword in ("onbuild", "from", "maintainer"):
        raise DockerfileError(f"ONBUILD {keyword.upper()} is not allowed")
    understand(found.trigger)
    text = _ONBUILD.sub("", found.original, count=1)
    for doc in found.heredocs:
        text += f"\n{doc.content}{doc.name}"
    return Onbuild(found, text)


T = TypeVar("T")


def _of_one(make: Callable[[Instruction, str], T]) -> Callable[[Instruction], T]:
    return lambda found: make(found, _one(found))


def _of_pairs(make: Callable[[Instruction, Pairs], T]) -> Callable[[Instruction], T]:
    return lambda found: make(found, _pairs(found))


_READERS: dict[str, Callable[[Instruction], From | Command]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": _of_pairs(Env),
    "expose": _expose,
    "from": _from,
    "healthcheck": _healthcheck,
    "label": _of_pairs(Label),
    "maintainer": _of_one(Maintainer),
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": _of_one(StopSignal),
    "user": _of_one(User),
    "volume": _volume,
    "workdir": _of_one(Workdir),
}
