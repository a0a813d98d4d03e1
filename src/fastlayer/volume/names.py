"""Names of volumes, by Docker's rule, and what marks one without a name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastlayer._checked import text
from fastlayer.errors import UsageError, show_path

ANONYMOUS = "com.docker.volume.anonymous"  # Docker's label of a volume that nobody named
TEMPORARY = "io.fastlayer.temporary"  # label: the process (``books.process_name``) that a volume is made for
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)
LONGEST = 255  # bytes of a directory's name


def check_name(name: str) -> str:
    """The name. Raises ``UsageError`` unless it is one: Docker's ``RestrictedNamePattern``, at least two characters."""
    if not is_name(text("the name of a volume", name)):
        rule = f"2 to {LONGEST} letters, digits, `_`, `.` and `-`, a letter or digit first"
        raise UsageError(f"{show_path(name) or repr(name)}: not the name of a volume: {rule}")
    return name


def is_name(name: str) -> bool:
    """Whether a volume can be called so."""
    return _NAME.fullmatch(name) is not None and len(name) <= LONGEST


def check_state_name(name: str) -> str:
    """The name of a snapshot. Raises ``UsageError`` unless it is one; a letter is enough."""
    if not is_state_name(text("the name of a snapshot", name)):
        rule = f"1 to {LONGEST} letters, digits, `_`, `.` and `-`, a letter or digit first"
        raise UsageError(f"{show_path(name) or repr(name)}: not the name of a snapshot: {rule}")
    return name


def is_state_name(name: str) -> bool:
    """Whether a snapshot can be called so."""
    return is_name(f"a{name}") and name[:1].isalnum() and len(name) <= LONGEST


def new_name() -> str:
    """A name for a volume that has none: 64 hexadecimal digits."""
    return os.urandom(32).hex()


def is_anonymous(labels: Mapping[str, str]) -> bool:
    """Whether nobody has named the volume."""
    return ANONYMOUS in labels
