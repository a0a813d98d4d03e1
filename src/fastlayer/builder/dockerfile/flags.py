"""The ``--flags`` of one instruction."""

from __future__ import annotations

from fastlayer.builder.dockerfile.parser import Instruction
from fastlayer.builder.dockerfile.values import nearest
from fastlayer.errors import DockerfileError


class Flags:
    """The flags of an instruction that may have those named: ``boolean``, ``one`` value, or ``many``.

    Raises ``DockerfileError`` for any other, for one that is given twice, and for a value that is missing or none.
    """

    def __init__(
        self,
        found: Instruction,
        *,
        boolean: tuple[str, ...] = (),
        one: tuple[str, ...] = (),
        many: tuple[str, ...] = (),
    ) -> None:
        self._values: dict[str, list[str]] = {}
        self._keyword = found.keyword.upper()
        for flag in found.flags:
            name, equals, value = flag[2:].partition("=")
            if name not in (*boolean, *one, *many):
                raise DockerfileError(f"{self._keyword} has no flag --{name}{nearest(name, (*boolean, *one, *many))}")
            if name in self._values and name not in many:
                raise DockerfileError(f"{self._keyword}: --{name} can be given once only")
            if name in boolean:
                value = self._truth(name, value.lower() if equals else "true")
            elif not equals:
                raise DockerfileError(f"{self._keyword}: --{name} needs a value: --{name}=VALUE")
            self._values.setdefault(name, []).append(value)

    def _truth(self, name: str, value: str) -> str:
        if value not in ("true", "false"):
            raise DockerfileError(f"{self._keyword}: --{name} is true or false")
        return value

    def boolean(self, name: str) -> bool | None:
        """None when it was not given."""
        return self._values[name][0] == "true" if name in self._values else None

    def text(self, name: str) -> str:
        """Empty when it was not given."""
        return self._values.get(name, [""])[0]

    def texts(self, name: str) -> tuple[str, ...]:
        """All of them, in order."""
        return tuple(self._values.get(name, ()))
