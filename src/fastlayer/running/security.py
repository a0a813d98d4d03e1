"""``--security-opt``: what a program may gain, and the profile of its system calls."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError
from fastlayer.running.seccomp.profile import Profile

_OFF = ("apparmor=unconfined", "label=disable", "label:disable")  # which is how it is here
_TRUTHS = {"": True, "true": True, "1": True, "false": False, "0": False}


class SecurityOptions(NamedTuple):
    """As ``Spec`` has them."""

    seccomp: Profile | Literal["unconfined"] | None = None
    no_new_privileges: bool = False


def parse_security_options(words: Iterable[str]) -> SecurityOptions:
    """``seccomp=FILE|unconfined|builtin``, ``no-new-privileges[=true|false]``. Raises ``UsageError``."""
    found = SecurityOptions()
    for word in words:
        name, sign, value = word.partition("=" if "=" in word else ":")
        if name == "seccomp" and value:
            found = found._replace(seccomp=_profile(value))
        elif name == "no-new-privileges" and value in _TRUTHS and bool(sign) == bool(value):
            found = found._replace(no_new_privileges=_TRUTHS[value])
        elif word not in _OFF:
            known = "seccomp=FILE, seccomp=unconfined, seccomp=builtin and no-new-privileges"
            raise UsageError(f"--security-opt {word!r}: use {known}; there are no other profiles here")
    return found


def _profile(value: str) -> Profile | Literal["unconfined"] | None:
    if value == "unconfined":
        return "unconfined"
    return None if value == "builtin" else _read(value)


def _read(path: str) -> Profile:
    from fastlayer.running.seccomp.reading import LARGEST, read_profile

    try:
        # a fifo would never end, or begin
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as exc:
        raise UsageError(f"{path}: cannot read the seccomp profile: {exc.strerror}") from exc
    if data is None or len(data) > LARGEST:
        raise UsageError(f"{path}: a seccomp profile has at most {LARGEST >> 20} MiB")
    return read_profile(data, path)
