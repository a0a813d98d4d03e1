"""What `create`, `run` and `start` have in common: from the words of a command to a container, and to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fastlayer.cli import output, stores

if TYPE_CHECKING:
    from fastlayer.container.attach import Outcome
    from fastlayer.container.containers import Container
    from fastlayer.store.store import Store
    from fastlayer.transfer.policies import Policy

CANNOT = 125  # the exit status of docker run when it, not the program, has failed


def created(store: Store, given: dict[str, Any], asked: Any) -> Container:
    """A new container, of an image that may have to be pulled before."""
    from fastlayer.container.create import create as make
    from fastlayer.container.pulling import with_image

    warnings: list[str] = []
    platform = stores.platform(given)
    row = with_image(
        store,
        given["image"],
        platform,
        given["pull"],
        lambda: make(
            store, given["image"], given["words"], asked, name=given["name"], platform=platform, warnings=warnings
        ),
        lambda policy: _pull(store, given, policy),
    )
    output.warn(warnings, given.get("quiet", False))
    return row


def _pull(store: Store, given: dict[str, Any], policy: Policy) -> None:
    from fastlayer.cli import registries
    from fastlayer.cli.transfer_progress import TransferReporter
    from fastlayer.transfer.pull import PullOptions, pull

    options = PullOptions(platform=stores.platform(given), policy=policy, wishes=registries.few_wishes(given))
    quiet = given.get("quiet", False)
    with TransferReporter("auto", quiet=quiet) as shown:
        found = pull(store, given["image"], options, observe=shown.observe)
    output.warn(found.warnings, quiet)


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
