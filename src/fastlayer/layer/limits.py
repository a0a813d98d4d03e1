"""What a layer may cost whoever reads it."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

MAX_RATIO = 200


class Limits(NamedTuple):
    """What a layer may cost; 0 means no limit. Exceeding one raises ``LimitError``.

    ``max_size``: bytes of all regular files of a layer; ``max_file_size``: of one; ``max_pax``: of one extended header;
    ``max_ratio``: tar bytes per blob byte, counted once a layer has expanded beyond 1 GiB.
    """

    max_entries: int = 20_000_000
    max_size: int = 1 << 40
    max_file_size: int = 1 << 40
    max_ratio: int = MAX_RATIO
    max_pax: int = 1 << 20


DEFAULT_LIMITS = Limits()


def check_limits(limits: Limits) -> None:
    """Raises ``UsageError`` for what is no limit."""
    for name, value in limits._asdict().items():
        if not 0 <= value < 1 << 63:
            raise UsageError(f"{name}={value} is not a limit: give 0 (none) to 2^63 - 1")
    if not 1 <= limits.max_pax <= 1 << 30:
        raise UsageError(f"max_pax={limits.max_pax} is not a limit: give 1 to 2^30")
