"""What drivers have in common that know no storage options and whose snapshots need nothing before they are mounted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastlayer.snapshot.driver import NO_OPTIONS, Kind, Options, State, refuse_options


class Plain:
    """A part of a driver (``snapshot/driver.py``)."""

    name: str

    @classmethod
    def working_options(cls, root: Path) -> tuple[str, ...]:
        return ()

    def check_options(self, options: Options, kind: Kind) -> None:
        refuse_options(self.name, options)

    def make_ready(self, number: int, parents: Sequence[int], kind: State, options: Options = NO_OPTIONS) -> None:
        """Nothing to do: a directory is there."""

    def sync(self, number: int) -> None:
        """Nothing to do: what programs sync is synced."""
