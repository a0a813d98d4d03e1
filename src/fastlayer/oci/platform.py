"""Platforms: what an image runs on, written ``os/architecture[/variant]``.

Parsing, normal forms and the order of preference are containerd's (``platforms``: Parse, Normalize, Only).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from fastlayer._values import NamedTuple
from fastlayer.errors import ReferenceFormatError, show_path

T = TypeVar("T")

_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?", re.ASCII)
_SYSTEM = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_SYSTEMS = """
    aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos
"""
_ARCHITECTURES = """
    386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le
    ppc riscv riscv64 s390 s390x sparc sparc64 wasm
"""
_KNOWN_OS = frozenset(_SYSTEMS.split())
_KNOWN_ARCHITECTURES = frozenset(_ARCHITECTURES.split())
# uname -m -> architecture, variant, where the rules of _normal do not know the name
_MACHINES = {
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}


class Platform(NamedTuple):
    """An operating system, an architecture and what qualifies them (image-spec image-index.md, "platform")."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``os/architecture[/variant]``, what ``parse_platform`` reads."""
        return "/".join(part for part in (self.os or "unknown", self.architecture, self.variant) if part)

    def check(self) -> Platform:
        """Itself. Raises ``ValueError`` for a property that could be no part of ``os/architecture/variant``."""
        for key, part in (("os", self.os), ("architecture", self.architecture), ("variant", self.variant)):
            if part and not (_PART if key != "os" else _SYSTEM).fullmatch(part):
                raise ValueError(f"{key} is {_shown(part)}, which is no name of one")
        return self

    def normal(self) -> Platform:
        """The same platform by its usual names: ``x86_64`` is ``amd64``, ``arm64/v8`` is ``arm64``."""
        architecture, variant = _normal(self.architecture, self.variant)
        features = tuple(sorted(set(self.os_features)))
        return Platform(_normal_os(self.os), architecture, variant, self.os_version, features)

    def matches(self, image: Platform) -> bool:
        """Whether an image made for ``image`` is exactly for this platform; see ``preference`` for what also runs."""
        mine, other = self.normal(), image.normal()
        if mine[:3] != other[:3] or not set(other.os_features) <= set(mine.os_features):
            return False
        return mine.os != "windows" or _same_build(mine.os_version, other.os_version)

    def preference(self) -> list[Platform]:
        """Itself, then what it runs as well, best first (containerd's ``platforms.Only``)."""
        normal = self.normal()
        others = [normal._replace(architecture=arch, variant=variant) for arch, variant in _compatible(normal)]
        return [normal, *others]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of the specification, keys in its order."""
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    @classmethod
    def from_dict(cls, value: Any) -> Platform:
        """Reads the JSON object; raises ``ValueError`` when a property has the wrong type."""
        if not isinstance(value, Mapping):
            raise ValueError("platform is not an object")
        parts = [value.get(key) or "" for key in ("os", "architecture", "variant", "os.version")]
        features = value.get("os.features") or []
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("a property of a platform is not a string")
        if not isinstance(features, list) or not all(isinstance(item, str) for item in features):
            raise ValueError("os.features of a platform is not an array of strings")
        system, architecture, variant, version = parts
        return cls(system, architecture, variant, version, tuple(features))


def parse_platform(specifier: str) -> Platform:
    """``OS``, ``ARCH`` or ``OS/ARCH[/VARIANT]``; what is missing is this machine's. OS may be ``OS(VERSION+FEATURE)``.

    Raises ``ReferenceFormatError``.
    """
    parts = specifier.split("/", 3)
    head = _OS.fullmatch(parts[0])
    if head is None or len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts[1:]):
        raise ReferenceFormatError(
            f"{_shown(specifier)}: not a platform: write OS/ARCH[/VARIANT], such as linux/arm64/v8"
        )
    system = _normal_os(head[1])
    features = tuple(_decoded(part) for part in (head[3] or "").split("+") if part)
    if len(parts) == 1:
        return _parse_alone(specifier, system)._replace(os_version=_decoded(head[2] or ""), os_features=features)
    architecture, variant = _normal(parts[1], parts[2] if len(parts) == 3 else "")
    if len(parts) == 2 and (architecture, variant) == ("arm", "v7"):
        variant = ""
    if len(parts) == 3 and (architecture, variant) == ("arm64", ""):
        variant = "v8"
    return Platform(system, architecture, variant, _decoded(head[2] or ""), features)


@lru_cache(maxsize=64)
def stored_platform(text: str) -> Platform:
    """What ``str`` made of a platform once. Never fails: what is none is its own name, on one line."""
    try:
        return parse_platform(text)
    except ReferenceFormatError:
        return Platform(show_path(text), "")


def _parse_alone(specifier: str, system: str) -> Platform:
    """One word: a known operating system, else a known architecture."""
    here = host_platform()
    if system in _KNOWN_OS:
        return Platform(system, here.architecture, here.variant)
    architecture, variant = _normal(specifier, "")
    if architecture not in _KNOWN_ARCHITECTURES:
        raise ReferenceFormatError(f"{_shown(specifier)}: no operating system or architecture: write OS/ARCH[/VARIANT]")
    return Platform(here.os, architecture, "" if (architecture, variant) == ("arm", "v7") else variant)


def host_platform() -> Platform:
    """What this machine is, by uname(2). The finer amd64 and arm64 variants are left out, as in Docker."""
    machine = os.uname().machine.lower()
    architecture, variant = _MACHINES.get(machine) or _normal(machine, "")
    return Platform("linux", architecture, "" if (architecture, variant) == ("arm", "v7") else variant)


def choose(wanted: Platform, offered: Iterable[tuple[Platform | None, T]]) -> list[T]:
    """What of ``offered`` runs on ``wanted``, best first; equals in their order.

    Things without a platform come last: what they are for stands in their configurations.
    """
    vector = wanted.preference()
    ranked: list[tuple[int, T]] = []
    for platform, thing in offered:
        if platform is None:
            ranked.append((len(vector), thing))
            continue
        rank = next((number for number, mine in enumerate(vector) if mine.matches(platform)), None)
        if rank is not None:
            ranked.append((rank, thing))
    return [thing for _, thing in sorted(ranked, key=lambda pair: pair[0])]


# ---- rules -----------------------------------------------------------------------------------------


def _normal_os(name: str) -> str:
    lowered = name.lower()
    return {"": "linux", "macos": "darwin"}.get(lowered, lowered)


def _normal(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    match architecture:
        case "i386":
            return "386", ""
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            return "arm64", "" if variant in ("8", "v8") else variant
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            return "arm", {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    return architecture, variant


def _compatible(normal: Platform) -> list[tuple[str, str]]:
    """What else the architecture runs: its lower variants, then its 32-bit ones."""
    match normal.architecture:
        case "amd64":
            below = [("amd64", f"v{version}") for version in range(_version(normal.variant) - 1, 0, -1)]
            return [*below, ("386", "")]
        case "arm":
            return _arm(normal.variant)
        case "arm64":
            variant = normal.variant or "v8"
            arm = "v8" if variant.startswith(("v8.", "v9.")) else variant
            return [*_arm64(variant), ("arm", arm), *_arm(arm)]
    return []


def _arm(variant: str) -> list[tuple[str, str]]:
    return [("arm", f"v{version}") for version in range(_version(variant) - 1, 4, -1)]


def _arm64(variant: str) -> list[tuple[str, str]]:
    """v9.x runs what v9.0 to v9.(x-1) and v8.0 to v8.(x+5) run; v8.x what is below it."""
    found = re.fullmatch(r"v?([89]|[1-9][0-9])(?:\.([0-9]))?", variant)
    if found is None:
        return []
    major, minor = int(found[1]), int(found[2] or 0)
    names: list[str] = []
    if major == 9:
        names += [f"v9.{below}" if below else "v9" for below in range(minor - 1, -1, -1)]
        major, minor = 8, minor + 5
        names.append(f"v8.{minor}")
    names += [f"v{major}.{below}" if below else f"v{major}" for below in range(minor - 1, -1, -1)]
    return [("arm64", name) for name in names]


def _version(variant: str) -> int:
    """The number of a variant; 0 where there is none."""
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 else 0


def _same_build(mine: str, other: str) -> bool:
    """Windows images run on the build they were made for (major.minor.build); one without a version runs anywhere."""
    return not mine or not other or mine.split(".")[:3] == other.split(".")[:3]


def _decoded(option: str) -> str:
    if "%" not in option:
        return option
    from urllib.parse import unquote

    return unquote(option)


def _shown(specifier: str) -> str:
    return ascii(specifier[:100])
