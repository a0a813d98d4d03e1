"""``RUN --device``: which device a command asks for (Dockerfile reference, frontend 1.20 labs)."""

from __future__ import annotations

import csv

from fastlayer._values import NamedTuple
from fastlayer.builder.dockerfile.values import FALSE, TRUE, nearest
from fastlayer.errors import DockerfileError


class RunDevice(NamedTuple):
    """``name``: of a CDI device: ``VENDOR/CLASS=NAME``. One that is not ``required`` may be missing."""

    name: str
    required: bool = False


def parse_device(text: str) -> RunDevice:
    """``[name=]NAME[,required[=BOOL]]``. Raises ``DockerfileError``."""
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError):
        raise DockerfileError(f"--device={text}: give a name: VENDOR/CLASS=NAME") from None
    name, required = "", False
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        if key == "required":
            required = _truth(text, value) if equals else True
        elif key == "name" and equals and not name:
            name = value
        elif not name and key != "name":
            name = field
        else:
            raise DockerfileError(f"--device={text}: unknown {field}{nearest(key, ('name', 'required'))}")
    if not name:
        raise DockerfileError(f"--device={text}: give a name: VENDOR/CLASS=NAME")
    return RunDevice(name, required)


def _truth(text: str, value: str) -> bool:
    if value not in (*TRUE, *FALSE):
        raise DockerfileError(f"--device={text}: required is true or false")
    return value in TRUE
