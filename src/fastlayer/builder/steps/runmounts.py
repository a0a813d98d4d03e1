"""``RUN --mount``: directories and files that a command sees and no layer holds."""

from __future__ import annotations

import os
import posixpath
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastlayer.builder import cachemounts
from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.builder.dockerfile.mounts import RunMount, parse_mount
from fastlayer.builder.dockerfile.shell import Lexer
from fastlayer.errors import DockerfileError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.stage import StageRun
    from fastlayer.builder.steps.origins import Origin
    from fastlayer.builder.steps.step import Task

_SECRETS = "/run/secrets"
_AGENTS = "/run/buildkit"
_AGENT = "SSH_AUTH_SOCK"
_STRICTER = ("shared", "private", "locked")


class Mounts:
    """The mounts of one RUN. What is opened to look at their content stays so until ``ends`` does."""

    def __init__(self, stage: StageRun, task: Task, command: Run, ends: ExitStack) -> None:
        lexer = Lexer(task.shop.given.escape)
        self._stage = stage
        self._shop = task.shop
        self._state = task.state
        self._ends = ends
        self._all = [parse_mount(text, lambda word: lexer.word(word, task.state.env)) for text in command.mounts]
        self._origins: dict[int, Origin] = {}
        self._caches: dict[int, Path] = {}  # by number, when they are taken

    def inputs(self) -> list[dict[str, Any]]:
        """What of them decides the result: content that is bound, or that caches begin with; not what caches hold,
        secrets, agents."""
        return [self._input(number, mount) for number, mount in enumerate(self._all)]

    def _input(self, number: int, mount: RunMount) -> dict[str, Any]:
        value: dict[str, Any] = {
            "type": mount.type,
            "target": self._target(number, mount),
            "readonly": mount.readonly,
            "id": mount.id,
            "env": mount.env,
            "required": mount.required,
            **_given(mount),
        }
        if mount.type != "bind" and not (mount.type == "cache" and mount.source_of):
            return value
        origin = self._origin(number, mount)
        value["source"] = mount.source
        if origin.chain:
            return {**value, "from": origin.chain}
        path = _source(origin, mount)
        digest = origin.tree().digest(path).hex()
        return {**value, "content": digest, "_details": [[path.decode("utf-8", "surrogateescape"), digest]]}

    def made(self, ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        """The mounts for a command that runs now, until ``ends`` does, and the variables that some of them set."""
        mounts: list[Any] = []
        variables: dict[str, str] = {}
        self._take_caches(ends)
        for number, mount in enumerate(self._all):
            make = {
                "bind": self._bind,
                "cache": self._cache,
                "tmpfs": self._tmpfs,
                "secret": self._secret,
                "ssh": self._ssh,
            }[mount.type]
            found, more = make(number, mount, ends)
            mounts += found
            variables = {**more, **variables} if mount.type == "ssh" else {**variables, **more}  # the first agent's
        return mounts, variables

    def _target(self, number: int, mount: RunMount) -> str:
        """Absolute. What needs none has a place of its own."""
        target = mount.target
        if not target and mount.type == "secret":
            if mount.env is not None:
                return ""
            target = f"{_SECRETS}/{posixpath.basename(mount.id or mount.source)}"
        elif not target and mount.type == "ssh":
            target = f"{_AGENTS}/ssh_agent.{sum(before.type == 'ssh' for before in self._all[:number])}"
        path = posixpath.normpath(posixpath.join("/", self._state.directory, target))
        return "/" + path.lstrip("/")

    def _origin(self, number: int, mount: RunMount) -> Origin:
        from fastlayer.builder.steps.origins import origin_of

        if number not in self._origins:
            self._origins[number] = origin_of(self._stage, mount.source_of, self._ends)
        return self._origins[number]

    # ---- one by one ----------------------------------------------------------------------------

    def _bind(self, number: int, mount: RunMount, ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        """Writing to a copy leaves the original as it is, and is lost in the end."""
        from fastlayer.running.spec import Bind

        origin = self._origin(number, mount)
        path = _source(origin, mount)
        copied = not mount.readonly or origin.hidden is not None or (origin.chain and not detached_can_be_bound())
        place = self._copied(origin, path) if copied else None
        if place is None:
            place = _found(origin.tree().fd, path, mount.source, ends)
        return [Bind(place, self._target(number, mount), readonly=mount.readonly)], {}

    def _copied(self, origin: Origin, path: bytes) -> str:
        """What is bound without what .dockerignore leaves out, or to be written to."""
        from fastlayer.builder.steps.staged import copy_out

        return copy_out(self._shop, origin, path)

    def _cache(self, number: int, mount: RunMount, _ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        from fastlayer.running.spec import Bind

        return [Bind(os.fspath(self._caches[number]), self._target(number, mount), readonly=mount.readonly)], {}

    def _take_caches(self, ends: ExitStack) -> None:
        """All directories of cache mounts, each once, in the order of their ids: no two steps wait for each other, and
        none for itself."""
        wanted: dict[str, list[tuple[int, RunMount]]] = {}
        for number, mount in enumerate(self._all):
            if mount.type == "cache":
                wanted.setdefault(self._identity(number, mount), []).append((number, mount))
        for identity, mounts in sorted(wanted.items()):
            sharing = max((mount.sharing or "shared" for _, mount in mounts), key=_STRICTER.index)
            self._shop.will_have(identity)
            use = cachemounts.use(self._shop.store, identity, sharing, self._access(*mounts[0]), self._shop.check)
            place = ends.enter_context(use)
            self._caches |= {number: place for number, _ in mounts}

    def _identity(self, number: int, mount: RunMount) -> str:
        """The id of a cache mount: its own or its target, and what a new one would be besides an empty directory of
        root's. Who asks for another one gets another one (as BuildKit, whose key is the id and what it is made from).
        """
        words = [mount.id or self._target(number, mount)]
        if mount.source_of:
            origin = self._origin(number, mount)
            words += [f"from={(origin.chain or origin.tree().digest(_source(origin, mount)).hex())[-12:]}"]
            words += [f"source={mount.source}"] if origin.chain and mount.source else []
        words += [f"{name}={value}" for name, value in (("uid", mount.uid), ("gid", mount.gid)) if value]
        words += [f"mode={mount.mode:04o}"] if mount.mode not in (None, cachemounts.MODE) else []
        return ",".join(words)

    def _access(self, number: int, mount: RunMount) -> cachemounts.Access:
        seed = None
        if mount.source_of:
            origin = self._origin(number, mount)
            seed = _seeder(self._shop, origin, mount)
        mode = mount.mode if mount.mode is not None else cachemounts.MODE
        return cachemounts.Access(mode, mount.uid or 0, mount.gid or 0, seed)

    def _tmpfs(self, number: int, mount: RunMount, _ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        from fastlayer.running.spec import Tmpfs

        return [Tmpfs(self._target(number, mount), mount.size or None)], {}

    def _secret(self, number: int, mount: RunMount, ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        from fastlayer.builder.secrets import secret_file, secret_value
        from fastlayer.running.spec import Bind

        identity = mount.id or mount.source or posixpath.basename(mount.target) or mount.env or ""
        value = secret_value(self._shop.options.secrets, identity)
        if value is None:
            if mount.required:
                raise DockerfileError(f"the secret {identity!r} is required: give --secret id={identity},src=FILE")
            return [], {}
        variables = {mount.env: value.decode("utf-8", "surrogateescape")} if mount.env else {}
        target = self._target(number, mount)
        if not target:
            return [], variables
        place = secret_file(value, mount, ends)
        return [Bind(place, target, readonly=True)], variables

    def _ssh(self, number: int, mount: RunMount, ends: ExitStack) -> tuple[list[Any], dict[str, str]]:
        from fastlayer.builder.agents import agent_socket
        from fastlayer.running.spec import Bind

        identity, target = mount.id or "default", self._target(number, mount)
        # also when there is no agent, as Docker has it; what ENV says stays
        variables = {} if _AGENT in self._state.env else {_AGENT: target}
        given = next((ssh for ssh in self._shop.options.ssh if ssh.id == identity), None)
        if given is not None and given.socket:
            place = agent_socket(given.socket, mount, self._shop.directory(), ends)
            return [Bind(place, target, readonly=True)], variables
        if mount.required:
            raise DockerfileError(f"the agent {identity!r} is required: give --ssh {identity}[=SOCKET]")
        return [], variables


def _given(mount: RunMount) -> dict[str, int]:
    """The options that say how it is seen, those that are given."""
    options = {"mode": mount.mode, "uid": mount.uid, "gid": mount.gid, "size": mount.size or None}
    return {name: value for name, value in options.items() if value is not None}


def detached_can_be_bound() -> bool:
    """Whether a part of a mount that is attached nowhere can be mounted (open_tree(2): from Linux 6.15 on)."""
    release = os.uname().release.split(".")
    numbers = tuple(int(part) for part in release[:2] if part.isdigit())
    return numbers >= (6, 15)


def _source(origin: Origin, mount: RunMount) -> bytes:
    """Where the source is in what it comes from: its root is that of all links, and ``..`` stops there.

    No link is left in it, so that it is the content that is in a key and in a copy. Raises ``DockerfileError``.
    """
    from fastlayer.builder.copying.trees import clean, encode, link_of, resolve

    return resolve(clean(encode(mount.source)), link_of(origin.tree()))


def _found(root: int, path: bytes, source: str, ends: ExitStack) -> str:
    """The path of something below a descriptor that cannot lead out of it: that of its own descriptor."""
    from fastlayer.builder.context.beneath import open_beneath

    try:
        fd = open_beneath(root, os.fsdecode(path) or ".", os.O_PATH)
    except OSError as exc:
        raise DockerfileError(f"--mount: source={source}: {exc.strerror}: name something that is there") from exc
    ends.callback(os.close, fd)
    return f"/proc/{os.getpid()}/fd/{fd}"  # which other processes can follow, too


def _seeder(shop: Any, origin: Origin, mount: RunMount) -> Any:
    from fastlayer.builder.steps.staged import fill

    def seed(place: Path) -> None:
        try:
            fill(shop, origin, _source(origin, mount), place)
        except FastlayerError as exc:
            raise DockerfileError(f"--mount=type=cache: {exc}") from exc

    return seed
