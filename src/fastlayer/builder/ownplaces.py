"""Directories outside of the store that a build writes for itself alone."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from fastlayer.errors import OperandError, show_path


def refuse_others(place: Path, what: str, sign: str, ours: Collection[str]) -> None:
    """Raises ``OperandError`` for a directory with other things in it, or one that cannot be read.

    ``what``: it is for, in messages. ``sign``: the name that is in every complete one; ``ours``: names that one without
    may have.
    """
    try:
        names = set(os.listdir(place))
    except FileNotFoundError:
        return
    except OSError as exc:
        raise OperandError(f"{show_path(os.fspath(place))}: {exc.strerror}: name a directory for {what}") from exc
    if names - set(ours) and sign not in names:
        raise OperandError(f"{show_path(os.fspath(place))}: holds other things: name a directory for {what} alone")
