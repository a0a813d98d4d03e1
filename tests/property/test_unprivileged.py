"""Round trips without root: directories and files closed to their owner are opened for the work and closed again."""

from __future__ import annotations

import os
import random
import sys
import traceback
from collections.abc import Callable

import pytest

from fastlayer import _backend
from tests import trees
from tests.property.test_roundtrip import ENGINES, Workshop, check_round_trip, workshop

__all__ = ["workshop"]

SOMEBODY = 54321


def as_somebody(work: Workshop, action: Callable[[], None]) -> None:
    """Runs the action without root's powers, in a child process where there are any to lose."""
    if os.geteuid() != 0:
        action()
        return
    for name in ENGINES:  # before the way to the modules may be closed
        _backend._load(name).extract.__name__, _backend._load(name).encode.__name__
    os.chown(work.where, SOMEBODY, SOMEBODY)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
            os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
            action()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see the child's traceback"


@pytest.mark.parametrize("seed", [*range(16), 81, 82, 131])
def test_round_trip_without_root(workshop: Workshop, seed: int) -> None:
    def action() -> None:
        generator = trees.Generator(random.Random(seed), root=False, closed=True)
        check_round_trip(workshop, *generator.pair(40), shared=False)

    workshop.clear()
    as_somebody(workshop, action)
    workshop.clear()
