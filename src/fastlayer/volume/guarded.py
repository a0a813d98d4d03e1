"""A driver that a package brings along, not trusted: what it raises is one line, what it answers is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.errors import DriverError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.volume.driver import Options, Scope, VolumeDriver

T = TypeVar("T")
_SHOWN = 300  # characters of what it says


class Guarded:
    """See ``driver.py`` for what the methods promise."""

    def __init__(self, name: str, driver: VolumeDriver) -> None:
        self._name = name
        self._driver = driver

    @property
    def scope(self) -> Scope:
        found = self._asked("scope", lambda: self._driver.scope)
        return found if found in ("local", "global") else self._answered("scope", found)

    def create(self, name: str, options: Options) -> None:
        self._asked("create", lambda: self._driver.create(name, options))

    def remove(self, name: str) -> None:
        self._asked("remove", lambda: self._driver.remove(name))

    def mount(self, name: str, user: str) -> Path:
        found = self._asked("mount", lambda: self._driver.mount(name, user))
        return found if isinstance(found, Path) else self._answered("mount", found)

    def unmount(self, name: str, user: str, *, last: bool) -> None:
        self._asked("unmount", lambda: self._driver.unmount(name, user, last=last))

    def path(self, name: str) -> Path | None:
        found = self._asked("path", lambda: self._driver.path(name))
        return found if found is None or isinstance(found, Path) else self._answered("path", found)

    def status(self, name: str) -> Mapping[str, Any]:
        found = self._asked("status", lambda: self._driver.status(name))
        try:
            status: dict[str, Any] = json.loads(json.dumps(dict(found), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            self._answered("status", found)
        return status

    def names(self) -> list[str]:
        found = self._asked("names", lambda: list(self._driver.names()))
        return found if all(isinstance(name, str) for name in found) else self._answered("names", found)

    def _asked(self, what: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except FastlayerError:
            raise
        except Exception as exc:  # anybody's code
            raise DriverError(f"volume driver {self._name}: {what}: {said(exc)}") from exc

    def _answered(self, what: str, found: object) -> Any:
        shown = _line(repr(found))
        raise DriverError(
            f"volume driver {self._name}: answers {what} with {shown}: see fastlayer.testing.volume_suite"
        )


def said(exc: Exception) -> str:
    """What went wrong, as a part of one line."""
    return _line(f"{type(exc).__name__}: {exc}")


def _line(text: str) -> str:
    shown = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _SHOWN]).split())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
