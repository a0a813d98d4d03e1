from collections.abc import Sequence

from fastlayer._backend import RunMonitor, RunProgram, RunStep

def start(
    keeper: Sequence[RunStep],
    child: Sequence[RunStep],
    program: RunProgram,
    *,
    namespaces: int,
    whole_tree: bool,
    slots: Sequence[int],
    life: int,
    report: int,
) -> int: ...
def watch(
    keeper: Sequence[RunStep],
    child: Sequence[RunStep],
    program: RunProgram,
    monitor: RunMonitor,
    *,
    namespaces: int,
    whole_tree: bool,
    slots: Sequence[int],
    life: int,
) -> None: ...
