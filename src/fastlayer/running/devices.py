"""``--device``: a device of the host, or one that is described by a CDI specification, for a program."""

from __future__ import annotations

from collections.abc import Iterable

from fastlayer.errors import UsageError
from fastlayer.running.cdi import edits, find, is_device_name, no_such_device, registry
from fastlayer.running.cdiedits import Edits
from fastlayer.running.spec import Device


def device_edits(words: Iterable[str]) -> Edits:
    """What they bring. ``PATH[:TARGET][:rwm]`` or ``VENDOR/CLASS=NAME``. Raises ``UsageError``, ``RunError``."""
    total, known = Edits(), None
    for word in words:
        if word.startswith("/"):
            total = total.and_also(Edits(devices=(_host_device(word),)))
            continue
        check_device(word)
        known = known or registry()
        found = find(known, word)
        if not found:
            raise no_such_device(known, word)
        total = total.and_also(edits(found))
    return total


def check_device(word: str) -> None:
    """What can be said without looking for it. Raises ``UsageError``."""
    if word.startswith("/"):
        _host_device(word)
    elif not is_device_name(word):
        raise UsageError(f"--device {word!r}: give PATH[:TARGET], or VENDOR/CLASS=NAME of a CDI specification")


def _host_device(word: str) -> Device:
    source, *rest = word.split(":")
    access = rest.pop() if rest and not rest[-1].startswith("/") else "rwm"
    if access not in ("rw", "rwm"):
        raise UsageError(f"--device {word!r}: access is rwm: less needs a cgroup, which there is none of")
    if len(rest) > 1:
        raise UsageError(f"--device {word!r}: give PATH[:TARGET][:rwm]")
    return Device(source, rest[0] if rest else source)
