"""Verbs about containers that are there: stop, kill, wait, pause, unpause, rename, rm, prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
    from fastlayer.errors import FastlayerError
    from fastlayer.store.store import Store

_NAMES = declare.argument("names", nargs=-1, required=True, metavar="CONTAINER...")


def _each(given: dict[str, Any], do: Callable[[Store, Container], object]) -> int:
    """Does it with every container that was named; prints the names of those it has worked with."""
    from fastlayer.container import containers
    from fastlayer.errors import FastlayerError

    failed: list[FastlayerError] = []
    with stores.open_store(given) as store:
        for name in given["names"]:
            try:
                said = do(store, containers.find(store, name))
                print(name if said is None else said, flush=True)
            except FastlayerError as exc:
                failed.append(exc)
    return stores.all_failed(failed)


@declare.command("stop")
@_NAMES
@declare.option(
    "-t", "--time", "--timeout", "seconds", type=int, metavar="SECONDS", help="Then it is killed; -1: never."
)
@declare.option("-s", "--signal", "signal_", default="", metavar="SIGNAL", help="What it is sent first.")
@stores.store_options
def stop(**given: Any) -> int:
    """Ask containers to end (SIGTERM, or their stop signal), and after 10 seconds make them."""
    from fastlayer.container import lifecycle

    def do(store: Store, row: Container) -> None:
        lifecycle.stop(store, row, given["seconds"], given["signal_"])

    return _each(given, do)


@declare.command("kill")
@_NAMES
@declare.option("-s", "--signal", "signal_", default="KILL", metavar="SIGNAL", help="Another signal (default: KILL).")
@stores.store_options
def kill(**given: Any) -> int:
    """Send containers a signal, SIGKILL unless another is named."""
    from fastlayer.container import lifecycle
    from fastlayer.running.signals import parse_signal

    number = parse_signal(given["signal_"])

    def do(store: Store, row: Container) -> None:
        lifecycle.kill(store, row, number)

    return _each(given, do)


@declare.command("restart")
@_NAMES
@declare.option(
    "-t", "--time", "--timeout", "seconds", type=int, metavar="SECONDS", help="Then it is killed; -1: never."
)
@stores.store_options
def restart(**given: Any) -> int:
    """Stop containers and start them again."""
    import os

    from fastlayer.container import launch, lifecycle

    as_root(given)

    def do(store: Store, row: Container) -> None:
        lifecycle.stop(store, row, given["seconds"])
        os.close(launch.start(store, row).news)

    return _each(given, do)


@declare.command("wait")
@_NAMES
@stores.store_options
def wait(**given: Any) -> int:
    """Wait until containers have ended; prints their exit statuses."""
    from fastlayer.container import lifecycle

    return _each(given, lambda store, row: lifecycle.wait(store, row).exit_code)


@declare.command("pause")
@_NAMES
@stores.store_options
def pause(**given: Any) -> int:
    """Stop all processes of containers where they are (needs a freezer cgroup)."""
    from fastlayer.container import lifecycle

    return _each(given, lifecycle.pause)


@declare.command("unpause")
@_NAMES
@stores.store_options
def unpause(**given: Any) -> int:
    """Let paused containers go on."""
    from fastlayer.container import lifecycle

    return _each(given, lifecycle.unpause)


@declare.command("rename")
@declare.argument("name", metavar="CONTAINER")
@declare.argument("new", metavar="NEW_NAME")
@stores.store_options
def rename(**given: Any) -> int:
    """Give a container another name."""
    from fastlayer.container import containers, lifecycle

    with stores.open_store(given) as store:
        lifecycle.rename(store, containers.find(store, given["name"]), given["new"])
    return 0


@declare.command("rm")
@declare.argument("names", nargs=-1, required=True, metavar="NAME...")
@declare.option("-f", "--force", is_flag=True, help="Kill and unmount them first; none of that name is no failure.")
@declare.option("-v", "--volumes", is_flag=True, help="Anonymous volumes, too.")
@stores.store_options
def remove(**given: Any) -> int:
    """Remove containers and writable layers: all changes that were made in them, their logs, and nothing else."""
    from fastlayer.errors import FastlayerError, NotFoundError

    as_root(given)
    failed: list[FastlayerError] = []
    with stores.open_store(given) as store:
        for name in given["names"]:
            try:
                _remove(store, name, force=given["force"], with_volumes=given["volumes"])
                print(name)
            except FastlayerError as exc:
                if given["force"] and isinstance(exc, NotFoundError):
                    continue
                failed.append(exc)
    return stores.all_failed(failed)


def _remove(store: Store, name: str, *, force: bool, with_volumes: bool) -> None:
    from fastlayer.container import containers, lifecycle, writable
    from fastlayer.container.mounted import all_mounts
    from fastlayer.container.mounting import unmount
    from fastlayer.errors import NotFoundError

    try:
        container = containers.find(store, name)
    except NotFoundError:
        try:
            layer = writable.find(store, name)
        except NotFoundError:
            known = "`fastlayer ps -a` and `fastlayer mounts` list them"
            raise NotFoundError(f"No such container: {name}, and no writable layer of that name: {known}") from None
        if force and any(found.writable == layer.name for found in all_mounts(store)):
            unmount(store, layer.name, detach=True)
        writable.remove(store, layer.name)
        return
    lifecycle.remove(store, container, force=force, with_volumes=with_volumes)


@declare.command("prune")
@declare.option("-f", "--force", is_flag=True, help="Do not ask.")
@filters.filter_option("until", "label", "label!")
@stores.store_options
def prune(**given: Any) -> int:
    """Remove all containers that do not run."""
    from fastlayer.cli.prune import confirm
    from fastlayer.container import containers, lifecycle

    as_root(given)
    confirm({**given, "dry_run": False}, "all containers that do not run, with what was written to them")
    with stores.open_store(given) as store:
        lifecycle.recover(store)
        chosen = [row for row in containers.all_of(store) if _is_meant(row, given["filters"])]
        gone = lifecycle.prune(store, chosen)
    if gone:
        print("Deleted Containers:")
    for identity in gone:
        print(identity)
    return 0


def _is_meant(row: Container, wanted: filters.Filters) -> bool:
    for value in wanted.get("until", ()):
        if row.created_ns >= filters.until(value).timestamp() * 1e9:
            return False
    has = [_has_label(row, value) for value in wanted.get("label", ())]
    return all(has) and not any(_has_label(row, value) for value in wanted.get("label!", ()))


def _has_label(row: Container, text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in row.labels and (not equals or row.labels[key] == value)
