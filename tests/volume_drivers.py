"""Volume drivers for tests: one of plain directories, and ours through the whole store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastlayer.errors import NotFoundError, UsageError
from fastlayer.volume.driver import Scope
from fastlayer.volume.volumes import Volumes


class Folders:
    """A directory per volume: what somebody else's package might bring along."""

    scope: Scope = "global"

    def __init__(self, place: Path) -> None:
        self.place = place

    def create(self, name: str, options: Mapping[str, str]) -> None:
        if set(options) - {"color"}:
            raise UsageError(f"unknown options {sorted(options)}: use color")
        (self.place / name).mkdir()

    def remove(self, name: str) -> None:
        shutil.rmtree(self.place / name, ignore_errors=True)

    def mount(self, name: str, user: str) -> Path:
        return self._found(name)

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        pass

    def path(self, name: str) -> Path | None:
        return self.place / name if (self.place / name).is_dir() else None

    def status(self, name: str) -> Mapping[str, Any]:
        return {"Files": len(list(self._found(name).iterdir()))}

    def names(self) -> list[str]:
        return [path.name for path in self.place.iterdir()]

    def _found(self, name: str) -> Path:
        if not (self.place / name).is_dir():
            raise NotFoundError(f"volume {name}: no such directory")
        return self.place / name


class ThroughStore:
    """Any driver as the store uses it, with its books."""

    def __init__(self, volumes: Volumes, driver: str, scope: Scope = "local") -> None:
        self.volumes = volumes
        self.driver = driver
        self.scope = scope

    def create(self, name: str, options: Mapping[str, str]) -> None:
        self.volumes.create(name, driver=self.driver, options=options)

    def remove(self, name: str) -> None:
        self.volumes.remove(name, force=True)

    def mount(self, name: str, user: str) -> Path:
        return self.volumes.acquire(name, user)

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        self.volumes.release(user, name)

    def path(self, name: str) -> Path | None:
        try:
            return self.volumes.path(self.volumes.find(name))
        except NotFoundError:
            return None

    def status(self, name: str) -> Mapping[str, Any]:
        return self.volumes.details(name).status

    def names(self) -> list[str]:
        return [volume.name for volume in self.volumes.all()]
