"""What `create`, `run` and `start` have in common: from the words of a command to a container, and to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, stores

if TYPE_CHECKING:
    from fastlayer.container.attach import Outcome
    from fastlayer.container.containers import Container
    from fastlayer.store.store import Store

CANNOT = 125  # the exit status of docker run when it, not the program, has failed


def created(store: Store, given: dict[str, Any], asked: Any) -> Container:
    """A new container, of an image that may have to be pulled before."""
    from fastlayer.errors import NotFoundError

    policy = given["pull"]
    if policy in ("always", "newer"):
        from fastlayer.cli.pulling import pulled

        pulled(store, given, policy)
        return _created(store, given, asked)
    try:
        return _created(store, given, asked)
    except NotFoundError as exc:
        if policy == "never" or _has(store, given):
            raise
        from fastlayer.cli.pulling import pulled

        pulled(store, given, policy, exc)
    return _created(store, given, asked)


def _has(store: Store, given: dict[str, Any]) -> bool:
    from fastlayer.errors import FastlayerError, NotFoundError
    from fastlayer.image.images import Images

    try:
        Images(store).find(given["image"], stores.platform(given))
    except NotFoundError:
        return False
    except FastlayerError:
        return True  # something else is wrong
    return True


def _created(store: Store, given: dict[str, Any], asked: Any) -> Container:
    from fastlayer.container.create import create as make

    warnings: list[str] = []
    row = make(
        store,
        given["image"],
        given["words"],
        asked,
        name=given["name"],
        platform=stores.platform(given),
        warnings=warnings,
    )
    output.warn(warnings, given.get("quiet", False))
    return row


def begin(store: Store, row: Container, given: dict[str, Any]) -> Outcome | None:
    """Starts it; unless it is detached, stays with it until it ends or the keys are typed."""
    from fastlayer.container import attach, client, launch

    warnings: list[str] = []
    if given["detach"]:
        os.close(launch.start(store, row, warnings=warnings).news)
        output.warn(warnings, given["quiet"])
        return None
    ours, theirs = client.pair()
    with ours:
        with theirs:
            size = attach.size_of(1) if given["tty"] else (0, 0)
            os.close(launch.start(store, row, attached=theirs, size=size, warnings=warnings).news)
        output.warn(warnings, given["quiet"])
        return attach.foreground(
            ours,
            stdin=given["interactive"],
            tty=given["tty"],
            proxy=given["sig_proxy"],
            keys=given["detach_keys"],
        )


def finished(store: Store, row: Container, outcome: Outcome | None) -> int:
    """The exit status, when all that belongs to the end has been done."""
    from fastlayer.container import lifecycle
    from fastlayer.errors import RunError

    if outcome is None or (outcome.ended is None and not outcome.lost):
        return 0
    lifecycle.ended(store, row, force=True)
    if outcome.ended is None:
        raise RunError(f"the monitor of container {row.name} was killed: look whether memory ran out (dmesg)")
    return outcome.ended.status
