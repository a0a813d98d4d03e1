"""A volume plugin as a driver (``volume/driver.py``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fastlayer.errors import DriverError, NotFoundError, show_path
from fastlayer.volume.driver import Scope
from fastlayer.volume.plugin.client import PluginError, call
from fastlayer.volume.plugin.discovery import Plugin
from fastlayer.volume.plugin.protocol import ACTIVATE, DRIVER, KIND
from fastlayer.volume.subpath import is_path


class PluginDriver:
    """Asks the plugin for everything; it counts its users itself, by their ids."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    @cached_property
    def _active(self) -> Plugin:
        """The plugin, once it has said what it is. Raises ``DriverError`` unless it is one for volumes."""
        kinds = call(self._plugin, ACTIVATE, {}).get("Implements")
        if not isinstance(kinds, list) or KIND not in kinds:
            raise DriverError(f"{self._plugin}: is no volume plugin: it implements no {KIND}")
        return self._plugin

    @cached_property
    def scope(self) -> Scope:
        """As its ``Capabilities`` say; one that has none is ``local``, as for Docker."""
        try:
            found = self._call("Capabilities", {}).get("Capabilities")
        except PluginError:
            return "local"
        return "global" if isinstance(found, dict) and found.get("Scope") == "global" else "local"

    def create(self, name: str, options: Mapping[str, str]) -> None:
        self._call("Create", {"Name": name, "Opts": dict(options)})

    def remove(self, name: str) -> None:
        try:
            self._call("Remove", {"Name": name})
        except PluginError:
            if self._get(name) is not None:
                raise

    def mount(self, name: str, user: str) -> Path:
        answer = self._call("Mount", {"Name": name, "ID": user})
        place = self._place(answer)
        if place is None:
            raise DriverError(f"{self._plugin}: mounts {name} and does not say where")
        return place

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        try:
            self._call("Unmount", {"Name": name, "ID": user})
        except PluginError:
            found = self._get(name)
            if found is not None and self._place(found) is not None:
                raise

    def path(self, name: str) -> Path | None:
        try:
            return self._place(self._call("Path", {"Name": name}))
        except PluginError:
            return None

    def status(self, name: str) -> Mapping[str, Any]:
        try:
            found = self._ask(name)
        except PluginError as exc:  # which may have another reason than that there is none
            raise NotFoundError(f"volume {name}: {exc}") from None
        if found is None:
            raise NotFoundError(f"volume {name}: {self._plugin} has no such volume")
        status = found.get("Status")
        return status if isinstance(status, dict) else {}

    def names(self) -> list[str]:
        found = self._call("List", {}).get("Volumes") or []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise DriverError(f"{self._plugin}: lists no volumes but nonsense")
        return [str(item["Name"]) for item in found if isinstance(item.get("Name"), str)]

    def _get(self, name: str) -> dict[str, Any] | None:
        """What the plugin says of a volume; None when it has none of that name."""
        try:
            return self._ask(name)
        except PluginError:
            return None

    def _ask(self, name: str) -> dict[str, Any] | None:
        """The same. Raises ``PluginError`` with what it says against it."""
        found = self._call("Get", {"Name": name}).get("Volume")
        return found if isinstance(found, dict) and found.get("Name") == name else None

    def _place(self, answer: Mapping[str, Any]) -> Path | None:
        text = answer.get("Mountpoint") or ""
        if not isinstance(text, str) or not is_path(text) or (text and not os.path.isabs(text)):
            raise DriverError(
                f"{self._plugin}: says a volume is at {show_path(str(text)[:200])}: that is no absolute path"
            )
        return Path(text) if text else None

    def _call(self, method: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return call(self._active, f"{DRIVER}{method}", value)
