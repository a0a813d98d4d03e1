"""``--allow``: what a Dockerfile may do only with leave of whoever builds it (BuildKit's entitlements)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.errors import DockerfileError, UsageError

if TYPE_CHECKING:
    from fastlayer.builder.dockerfile.instructions import Run

_PLAIN = ("security.insecure", "network.host", "device")
_EVERYBODY = ("fs", "fs.read", "fs.write", "ssh")  # of buildx, about what is not restricted here


class Leave(NamedTuple):
    """``devices``: names of CDI devices, and what the Dockerfile calls them."""

    insecure: bool = False
    host_network: bool = False
    all_devices: bool = False
    devices: Mapping[str, str] = MappingProxyType({})

    def has_device(self, *names: str) -> bool:
        return self.all_devices or any(name in self.devices for name in names)

    def meant(self, name: str) -> str:
        """The device that a Dockerfile calls ``name``."""
        return next((device for device, alias in self.devices.items() if alias == name), name)


def parse_leave(words: Iterable[str]) -> Leave:
    """``security.insecure``, ``network.host``, ``device[=NAME[,alias=NAME]]``. Raises ``UsageError``."""
    found = Leave()
    for word in words:
        name, equals, value = word.partition("=")
        if name == "device" and equals:
            device, alias = _device(word, value)
            found = found._replace(devices={**found.devices, device: alias})
        elif word in _PLAIN:
            found = _with(found, word)
        elif name not in _EVERYBODY:
            raise UsageError(f"--allow {word!r}: use {', '.join(_PLAIN)} or device=NAME")
    return found


def _with(leave: Leave, word: str) -> Leave:
    if word == "security.insecure":
        return leave._replace(insecure=True)
    return leave._replace(host_network=True) if word == "network.host" else leave._replace(all_devices=True)


def _device(word: str, value: str) -> tuple[str, str]:
    from fastlayer.running.cdi import is_device_name

    name, comma, rest = value.partition(",")
    key, _, alias = rest.partition("=")
    if not is_device_name(name) or (comma and (key != "alias" or not alias)):
        raise UsageError(f"--allow {word!r}: give device=VENDOR/CLASS=NAME[,alias=NAME]")
    return name, alias or name


def check_leave(command: Run, leave: Leave, network: str) -> None:
    """Raises ``DockerfileError`` when it asks for more. ``network``: of the build.

    The host's network is what every RUN has, so it is only more where the build has none.
    """
    if command.security == "insecure" and not leave.insecure:
        raise DockerfileError("RUN --security=insecure is not allowed: give --allow security.insecure to build")
    if command.network == "host" and network == "none" and not leave.host_network:
        raise DockerfileError(
            "RUN --network=host is not allowed in a build with --network none: give --allow network.host, too"
        )
