"""The storage driver of a build and the isolation of its steps have to fit: who cannot mount needs directories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.errors import DriverError

if TYPE_CHECKING:
    from fastlayer.builder.graph import Plan
    from fastlayer.running.isolation import Isolation
    from fastlayer.store.store import Store

_WAY_OUT = "use --driver vfs, or btrfs on btrfs, or another --isolation"


def fit(store: Store, wanted: str | None, plan: Plan) -> None:
    """Before anything is done: an isolation that is asked for decides which drivers will do.

    ``wanted``: as ``--isolation`` says it. A driver that is asked for stays: then ``DriverError`` is raised when there
    is a RUN and they do not fit. ``UsageError``: there is no such isolation.
    """
    from fastlayer.running.isolation import asked, isolation

    name = asked(wanted)
    if name is None or isolation(name).mounts:
        return
    unfit = store.prefer_directories()
    if unfit and any(isinstance(command, Run) for needed in plan.needed for command in needed.stage.commands):
        raise _refusal(name, unfit)


def check_fit(store: Store, isolation: Isolation) -> None:
    """The same of an isolation that was found to work. Raises ``DriverError``."""
    from fastlayer.running.isolation import passed_over

    if not isolation.mounts and not store.snapshotter.driver.directories:
        raise _refusal(isolation.name, store.snapshotter.driver.name, passed_over(isolation.name))


def _refusal(isolation: str, driver: str, others: str = "") -> DriverError:
    return DriverError(
        f"isolation {isolation} mounts nothing, and snapshots of the driver {driver} have to be mounted: {_WAY_OUT}"
        + (f" ({others})" if others else "")
    )
