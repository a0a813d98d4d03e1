"""``fastlayer.run`` and ``fastlayer.create``: containers for Python programs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer._checked import number, text, text_or_none, truth, words
from fastlayer._values import NamedTuple
from fastlayer.container import given
from fastlayer.errors import RunError

if TYPE_CHECKING:
    from fastlayer.container import containers
    from fastlayer.layer import types
    from fastlayer.layer.diff import Change
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store
    from fastlayer.transfer.policies import Policy

_Place = str | os.PathLike[str] | None


class Result(NamedTuple):
    """How a program ended: ``status`` (128 + n: by signal n), and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


class Container:
    """A container of a store. Every method opens the store anew, so that nothing is held between two calls.

    All raise ``NotFoundError`` when it has been removed, and ``UsageError`` for arguments of another kind.
    """

    def __init__(self, identity: str, *, root: _Place = None) -> None:
        self.id = text("identity", identity)
        self._root = root

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    @contextmanager
    def _opened(self) -> Iterator[tuple[Store, containers.Container]]:
        from fastlayer.container import containers
        from fastlayer.store.store import existing_store

        with existing_store(self._root) as store:
            yield store, containers.find(store, self.id)

    @property
    def name(self) -> str:
        with self._opened() as (_, row):
            return row.name

    @property
    def status(self) -> str:
        """``created``, ``running``, ``paused`` or ``exited``."""
        from fastlayer.container import lifecycle

        with self._opened() as (store, row):
            return lifecycle.state_of(store, row).status

    def inspect(self) -> dict[str, Any]:
        """What ``docker inspect`` would show."""
        from fastlayer.container import inspecting

        with self._opened() as (store, row):
            return inspecting.inspect(store, row)

    def start(self) -> None:
        """Starts its program. Raises ``RunError`` when it cannot be started, ``InUseError`` when it runs."""
        from fastlayer.container import launch

        with self._opened() as (store, row):
            os.close(launch.start(store, row).news)

    def wait(self) -> int:
        """Until it has ended; its exit status (128 + n: ended by signal n)."""
        from fastlayer.container import lifecycle

        with self._opened() as (store, row):
            return lifecycle.wait(store, row).exit_code

    def logs(self, *, stdout: bool = True, stderr: bool = True, tail: int | None = None) -> bytes:
        """What it has written; ``tail``: only the last lines, so many."""
        from fastlayer.container import containers, logs

        tail = given.count("tail", tail)
        wanted = {name for name, asked in (("stdout", stdout), ("stderr", stderr)) if asked}
        with self._opened() as (store, row):
            lines = logs.read(containers.directory_of(store, row.id), tail=tail)
            return "".join(line.text for line in lines if line.stream in wanted).encode()

    def exec(
        self,
        *command: str,
        user: str | int = "",
        workdir: str = "",
        env: Mapping[str, str] | Sequence[str] = (),
        stdin: bytes | None = None,
        privileged: bool = False,
    ) -> Result:
        """Runs one more program in it, to its end. Raises ``RunError`` when it cannot be started."""
        from fastlayer.container import client
        from fastlayer.container.execute import ExecOptions, execute

        stdin = given.data("stdin", stdin)
        options = ExecOptions(
            user=given.user("user", user),
            workdir=text("workdir", workdir),
            env=given.environment(env),
            interactive=stdin is not None,
            privileged=truth("privileged", privileged),
        )
        ours, theirs = client.pair()
        with ours:
            with theirs, self._opened() as (store, row):
                os.close(execute(store, row, given.command(command), options, attached=theirs).news)
            return _collected(ours, stdin)

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Sends its program a signal: a name as in signal(7), with or without SIG, or a number."""
        from fastlayer.container import lifecycle
        from fastlayer.running.signals import parse_signal

        wanted = parse_signal(str(int(signal)) if isinstance(signal, int) else text("signal", signal))
        with self._opened() as (store, row):
            lifecycle.kill(store, row, wanted)

    def stop(self, *, timeout: float | None = None) -> int:
        """Asks it to end, makes it after ``timeout`` seconds (default: its own, or 10; below 0: never); its exit
        status."""
        from fastlayer.container import lifecycle

        timeout = None if timeout is None else number("timeout", timeout)
        with self._opened() as (store, row):
            return lifecycle.stop(store, row, timeout).exit_code

    def pause(self) -> None:
        """Stops all its processes where they are."""
        from fastlayer.container import lifecycle

        with self._opened() as (store, row):
            lifecycle.pause(store, row)

    def unpause(self) -> None:
        """Lets them go on."""
        from fastlayer.container import lifecycle

        with self._opened() as (store, row):
            lifecycle.unpause(store, row)

    def commit(
        self,
        name: str | None = None,
        *,
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool | None = None,
    ) -> str:
        """Makes an image of it, and returns the image's id. ``changes``: instructions as ``CMD ["sh"]``.

        ``pause``: whether it is paused meanwhile when it runs; None: where that can be.
        """
        from fastlayer.container import commit, writable
        from fastlayer.container.changes import apply_changes

        name, message, author = text_or_none("name", name), text("message", message), text("author", author)
        changes, pause = words("changes", changes), None if pause is None else truth("pause", pause)
        with self._opened() as (store, row):
            layer = writable.of_container(store, row.id)
            run = apply_changes(commit.run_config(store, layer), changes)
            made = commit.commit(store, layer, name, message=message, author=author, run=run, pause=pause)
            return str(made.id)

    def diff(self) -> list[Change]:
        """What it has written, sorted by path: what ``docker diff`` tells, and more about each."""
        from fastlayer.container import systempoints, writable

        with self._opened() as (store, row), systempoints.changes(store, writable.of_container(store, row.id)) as found:
            return list(found)

    def export(self, output: types.Output, *, warnings: list[str] | None = None) -> None:
        """Writes all its files as a tar to a path (compressed as its extension says), descriptor or binary file."""
        from fastlayer.container import writable
        from fastlayer.container.export import export

        output = given.file("output", output, "write")
        with self._opened() as (store, row):
            found = export(store, writable.of_container(store, row.id), output)
        _tell(found, warnings)

    def copy_to(
        self,
        source: types.LayerSource,
        path: types.Path,
        *,
        follow: bool = False,
        warnings: list[str] | None = None,
    ) -> None:
        """Copies ``source`` into it, with its owners, by the rules of ``docker cp``; a tar that a binary file or
        descriptor gives is unpacked into a directory.

        ``follow``: a link that ``source`` ends with is followed. Raises ``NotFoundError``, ``OperandError``,
        ``StorageError``; nothing has changed then.
        """
        from fastlayer.container import writable
        from fastlayer.container.cp import roots

        source, path = given.file("source", source, "read"), given.path("path", path)
        follow = truth("follow", follow)
        with self._opened() as (store, row):
            found = roots.put(store, writable.of_container(store, row.id), source, path, follow=follow)
        _tell(found, warnings)

    def copy_from(
        self,
        path: types.Path,
        dest: types.Output,
        *,
        follow: bool = False,
        keep_owners: bool = False,
        warnings: list[str] | None = None,
    ) -> None:
        """Copies out of it by the same rules; to a binary file or descriptor as a tar.

        The files are one's own, unless ``keep_owners``; in a tar all have theirs. Raises as ``copy_to``.
        """
        from fastlayer.container import writable
        from fastlayer.container.cp import roots

        path, dest, follow = given.path("path", path), given.file("dest", dest, "write"), truth("follow", follow)
        owner = None if truth("keep_owners", keep_owners) else roots.own_files()
        with self._opened() as (store, row):
            found = roots.get(store, writable.of_container(store, row.id), path, dest, follow=follow, owner=owner)
        _tell(found, warnings)

    def checkpoint(self, name: str) -> None:
        """Keeps what it has written so far under a name."""
        from fastlayer.container import checkpoints, writable

        with self._opened() as (store, row):
            checkpoints.save(store, writable.of_container(store, row.id), text("name", name))

    def rollback(self, name: str) -> None:
        """Goes back to a checkpoint; it must not be running."""
        from fastlayer.container import checkpoints, writable

        with self._opened() as (store, row):
            checkpoints.rollback(store, writable.of_container(store, row.id), text("name", name))

    def fork(self, name: str, *, checkpoint: str | None = None) -> Container:
        """Another container with its configuration and all that it has written, now or at a checkpoint; not started."""
        from fastlayer.container import forking

        name, checkpoint = text("name", name), text_or_none("checkpoint", checkpoint)
        with self._opened() as (store, row):
            return Container(forking.fork(store, row, name, checkpoint=checkpoint).id, root=self._root)

    def rename(self, name: str) -> None:
        """Gives it another name."""
        from fastlayer.container import lifecycle

        with self._opened() as (store, row):
            lifecycle.rename(store, row, text("name", name))

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Removes it with all that was written to it; ``force``: also when it runs; ``volumes``: and its anonymous
        volumes."""
        from fastlayer.container import lifecycle

        force, volumes = truth("force", force), truth("volumes", volumes)
        with self._opened() as (store, row):
            lifecycle.remove(store, row, force=force, with_volumes=volumes)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove(force=True)


def _tell(found: Sequence[str], warnings: list[str] | None) -> None:
    if warnings is not None:
        warnings.extend(found)


def create(
    image: str,
    *command: str,
    name: str | None = None,
    platform: str | None = None,
    pull: str | None = None,
    root: _Place = None,
    driver: str | None = None,
    warnings: list[str] | None = None,
    **options: Any,
) -> Container:
    """A container of ``image``, not started. As a context manager it is removed at the end of the block.

    ``pull``: when the image comes from its registry: ``missing`` (if the store has none), ``always``, ``newer``,
    ``never``; None: as ``FASTLAYER_PULL`` says, else ``missing``.
    ``options``: the fields of ``fastlayer.container.options.Options``, with ``env`` as a mapping or ``NAME=value``
    texts, ``volumes`` as ``SOURCE:TARGET[:ro]`` and ``mounts`` as ``type=bind,source=...,target=...`` texts, ``tmpfs``
    as ``TARGET[:OPTIONS]``. What could not be done as asked is added to ``warnings``.

    Raises ``NotFoundError`` for the image, ``AlreadyExistsError`` for the name, ``UsageError`` for options.
    """
    with _made(image, command, name, platform, pull, root, driver, warnings, options) as (_, row):
        return Container(row.id, root=root)


@contextmanager
def _made(
    image: str,
    command: Sequence[str],
    name: str | None,
    platform: str | None,
    pull: str | None,
    root: _Place,
    driver: str | None,
    warnings: list[str] | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[Store, containers.Container]]:
    """A container that has just been made, and its store for the block."""
    from fastlayer.container.create import create as make
    from fastlayer.container.pulling import with_image
    from fastlayer.oci.platform import parse_platform
    from fastlayer.store.store import existing_store, open_store
    from fastlayer.transfer.policies import VARIABLE, parse_policy

    asked, words, image = given.options_of(options), given.command(command), text("image", image)
    policy = parse_policy(text("pull", pull or os.environ.get(VARIABLE) or "missing"))
    wanted = parse_platform(text("platform", platform)) if platform else None
    name = None if name is None else text("name", name)
    with (existing_store if policy == "never" else open_store)(root, driver=driver) as store:
        yield (
            store,
            with_image(
                store,
                image,
                wanted,
                policy,
                lambda: make(store, image, words, asked, name=name, platform=wanted, warnings=warnings),
                lambda how: _pull(store, image, wanted, how, warnings),
            ),
        )


def _pull(store: Store, image: str, platform: Platform | None, policy: Policy, warnings: list[str] | None) -> None:
    from fastlayer.transfer.pull import PullOptions, pull

    found = pull(store, image, PullOptions(platform=platform, policy=policy))
    _tell(found.warnings, warnings)


def run(
    image: str,
    *command: str,
    detach: bool = False,
    remove: bool = False,
    stdin: bytes | None = None,
    check: bool = True,
    name: str | None = None,
    platform: str | None = None,
    pull: str | None = None,
    root: _Place = None,
    driver: str | None = None,
    warnings: list[str] | None = None,
    **options: Any,
) -> Container | Result:
    """Runs a program in a new container of ``image``: ``fastlayer.run("debian", "ls", "/").stdout``.

    With ``detach`` it goes on by itself, and its ``Container`` is returned; else it is run to its end, and how it ended
    is returned. ``remove``: the container goes when it has ended. ``stdin``: what it can read. ``check``: an exit
    status that is not 0 raises ``RunError``. The rest is as for ``create``.
    """
    from fastlayer.container import client, launch, lifecycle

    stdin = given.data("stdin", stdin)
    options |= {"detach": detach, "auto_remove": remove, "interactive": stdin is not None or options.get("interactive")}
    with _made(image, command, name, platform, pull, root, driver, warnings, options) as (store, row):
        try:
            if detach:
                os.close(launch.start(store, row).news)
                return Container(row.id, root=root)
            ours, theirs = client.pair()
            with ours:
                with theirs:
                    os.close(launch.start(store, row, attached=theirs, warnings=warnings).news)
                result = _collected(ours, stdin)
        except BaseException:
            if remove:
                lifecycle.remove(store, row, force=True)
            raise
        lifecycle.ended(store, row, force=True)
    if check and result.status:
        last = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:200]
        raise RunError(f"{image}: the program ended with status {result.status}: {last}", status=result.status)
    return result


def _collected(connection: Any, stdin: bytes | None) -> Result:
    """Everything until the end of the program."""
    from fastlayer.container.attach import Attached

    out, err = bytearray(), bytearray()
    source = -1 if stdin is None else _pipe_of(stdin)
    try:
        outcome = Attached(connection, out=out.extend, err=err.extend, stdin=source if source >= 0 else None).run()
    finally:
        if source >= 0:
            os.close(source)
    if outcome.ended is None:
        raise RunError("the monitor of the container was killed: look whether memory ran out (dmesg)")
    return Result(outcome.ended.status, bytes(out), bytes(err))


def _pipe_of(data: bytes) -> int:
    """A descriptor that the data can be read from, however much it is."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
