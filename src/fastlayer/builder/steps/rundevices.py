"""``RUN --device``, and ``--device`` of the build: what a command sees of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.builder.dockerfile.instructions import Run
from fastlayer.errors import DockerfileError

if TYPE_CHECKING:
    from fastlayer.builder.dockerfile.devices import RunDevice
    from fastlayer.builder.workshop import Workshop
    from fastlayer.running.cdi import Described, Registry
    from fastlayer.running.cdiedits import Edits


class Devices:
    """Those of one RUN. Raises ``DockerfileError`` for one that needs leave, ``RunError`` for one that is missing."""

    def __init__(self, shop: Workshop, command: Run) -> None:
        self._shop = shop
        self._asked = command.devices
        self._given = shop.options.devices
        self._found: list[Described] = []
        if self._asked:
            from fastlayer.running.cdi import registry

            known = shop.once("devices", lambda _: registry())
            for asked in self._asked:
                self._found += self._described(known, asked)

    def inputs(self) -> dict[str, Any]:
        """What decides the result: what is asked for, as BuildKit has it, not what its description says."""
        found: dict[str, Any] = {}
        if self._asked:
            found["devices"] = [[asked.name, asked.required] for asked in self._asked]
        if self._given:
            found["given_devices"] = list(self._given)
        return found

    def edits(self) -> Edits | None:
        """What they bring; None: nothing."""
        if not self._found and not self._given:
            return None
        from fastlayer.running.cdi import edits
        from fastlayer.running.devices import device_edits

        return device_edits(self._given).and_also(edits({each.name: each for each in self._found}.values()))

    def _described(self, known: Registry, asked: RunDevice) -> list[Described]:
        from fastlayer.running.cdi import AUTO_ALLOW, find, is_device_name, no_such_device

        leave = self._shop.options.leave
        name = leave.meant(asked.name)
        if not is_device_name(name):
            raise DockerfileError(f"--device={asked.name}: not a name of a device: VENDOR/CLASS=NAME")
        found = find(known, name)
        if not found:
            error = no_such_device(known, name)
            if asked.required:
                raise error
            self._shop.warnings.append(f"RUN --device={asked.name}: {error}: goes on without it")
        for device in found:
            free = device.annotations.get(AUTO_ALLOW, "").lower() in ("true", "1", "t")
            if not free and not leave.has_device(name, device.name, device.kind):
                raise DockerfileError(f"RUN --device={asked.name} is not allowed: give --allow device={device.name}")
        return found
