"""What a volume driver is.

A driver keeps the data of volumes and makes it appear as a directory. It knows names and options; who uses a volume,
labels and states are kept by the store (``books.py``), which calls it.

A package brings one along as an entry point::

    [project.entry-points."fastlayer.volume_drivers"]
    mine = "package.module:Driver"

``Driver(place)`` is called with a directory that is its own, ``<root>/volume-drivers/NAME``, which exists. Then
``volume create -d mine`` uses it. ``fastlayer.testing.volume_suite`` checks what is said here.

Rules for every driver:

* It has no memory of its own: a process makes one, calls it and ends. What it must know is in its place, or outside.
* Calls for one volume come one at a time, from any process; those for different volumes at the same time.
* A process may be killed inside any call. The call is made again, or ``remove``, and must do then.
* Errors are ``UsageError`` (options that mean nothing), ``NotFoundError``, ``DriverError`` or ``StorageError``: cause
  and next step in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Scope = Literal["local", "global"]
Options = Mapping[str, str]


class VolumeDriver(Protocol):
    """One driver at work."""

    @property
    def scope(self) -> Scope:
        """``local``: the volumes are this machine's; ``global``: others that have the driver see them, too."""
        ...

    def create(self, name: str, options: Options) -> None:
        """Makes the volume, empty unless the options say otherwise. One that cannot be made leaves nothing behind.

        ``options``: as they were given; raises ``UsageError`` for those it has not.
        """
        ...

    def remove(self, name: str) -> None:
        """Removes the volume with its data, or what a killed ``create`` or ``remove`` left. Nobody uses it.

        A volume that is not there is no error.
        """
        ...

    def mount(self, name: str, user: str) -> Path:
        """The directory of the volume, ready to be used by ``user`` (any text, which names the use).

        Several users may have it at once; a call for the same user again gives the same directory.
        Raises ``NotFoundError``.
        """
        ...

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        """``user`` needs it no more; ``last``: nobody does, so whatever was mounted is to be unmounted.

        A user, or a volume, that is not there is no error.
        """
        ...

    def path(self, name: str) -> Path | None:
        """Where its files are seen now; None while they are nowhere."""
        ...

    def status(self, name: str) -> Mapping[str, Any]:
        """What the driver says of the volume, as JSON values (``Status`` of ``volume inspect``).

        Raises ``NotFoundError`` when it has no such volume.
        """
        ...

    def names(self) -> list[str]:
        """The volumes it has, in any order."""
        ...
