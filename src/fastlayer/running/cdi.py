"""Devices that are described by files (Container Device Interface, cncf-tags/container-device-interface, SPEC.md).

A specification names devices ``VENDOR/CLASS=NAME`` and says what a program needs to use one: device nodes, files of the
host, variables, groups. Files are looked for in /etc/cdi and /var/run/cdi, or the directories of
``FASTLAYER_CDI_SPEC_DIRS``; a later directory's devices replace those of an earlier one.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError, UsageError
from fastlayer.running.cdiedits import Edits, edits_of

_DIRECTORIES = "/etc/cdi:/var/run/cdi"
_ENDINGS = (".json", ".yaml", ".yml")
_LARGEST = 4 << 20
_VERSION = re.compile(r"[01]\.[0-9]{1,3}\.[0-9]{1,3}", re.ASCII)
_KIND = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)
CLASS = "org.mobyproject.buildkit.device.class"  # an annotation: devices that go by one name
AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"


class Described(NamedTuple):
    """A device as a file describes it. ``edits``: of the device, then of the whole file, as they were read."""

    name: str
    annotations: dict[str, str]
    edits: tuple[Any, ...]
    file: str

    @property
    def kind(self) -> str:
        return self.name.partition("=")[0]


class Registry(NamedTuple):
    """All devices that are described, by name; and what is wrong with files, a line each."""

    devices: dict[str, Described]
    problems: tuple[str, ...]
    directories: tuple[str, ...]


def registry() -> Registry:
    """What the files of this machine describe. A file that is wrong is a problem of those who ask for its devices."""
    directories = tuple(filter(None, os.environ.get("FASTLAYER_CDI_SPEC_DIRS", _DIRECTORIES).split(":")))
    devices: dict[str, Described] = {}
    problems: list[str] = []
    for directory in directories:
        here: dict[str, Described] = {}
        for path in _files(directory):
            try:
                found = _described(path)
            except UsageError as exc:
                problems.append(str(exc))
                continue
            for device in found:
                if device.name in here:
                    problems.append(f"{path}: {device.name} is also in {here[device.name].file}")
                here[device.name] = device
        devices.update(here)
    return Registry(devices, tuple(problems), directories)


def is_device_name(text: str) -> bool:
    """Whether it is ``VENDOR/CLASS``, alone or with ``=NAME`` or ``=*``."""
    kind, equals, name = text.partition("=")
    return bool(_KIND.fullmatch(kind)) and (not equals or name == "*" or bool(_NAME.fullmatch(name)))


def find(known: Registry, name: str) -> list[Described]:
    """The devices that ``name`` means, as BuildKit has it: ``KIND=NAME``, one or a class of that annotation; ``KIND``,
    the first; ``KIND=*``, all. None: there is no such device."""
    kind, _, wanted = name.partition("=")
    alike = [known.devices[each] for each in sorted(known.devices) if known.devices[each].kind == kind]
    if wanted == "*":
        return alike
    if not wanted:
        return alike[:1]
    exact = [device for device in alike if device.name == name]
    return exact or [device for device in alike if device.annotations.get(CLASS) == wanted]


def no_such_device(known: Registry, name: str) -> RunError:
    """With what may be the reason."""
    reason = f"; {known.problems[0]}" if known.problems else ""
    return RunError(f"no CDI device {name} is described in {', '.join(known.directories)}{reason}")


def edits(devices: Iterable[Described]) -> Edits:
    """What a program needs for all of them. Raises ``RunError`` for what cannot be done here."""
    total = Edits()
    seen: set[str] = set()
    for device in devices:
        own, whole = device.edits
        parts = [own] if device.file in seen else [own, whole]
        seen.add(device.file)
        for part in parts:
            total = total.and_also(edits_of(part, f"{device.file}: {device.name}"))
    return total


# ---- files ---------------------------------------------------------------------------------------


def _files(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(_ENDINGS)]


def _described(path: str) -> list[Described]:
    """Raises ``UsageError``."""
    value = _value(path)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a CDI specification")
    if not _VERSION.fullmatch(str(value.get("cdiVersion"))):
        raise UsageError(f"{path}: cdiVersion {value.get('cdiVersion')!r} is not known: 0.3.0 to 1.1.0 are")
    kind, devices = value.get("kind"), value.get("devices")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise UsageError(f"{path}: the kind {kind!r} is not VENDOR/CLASS")
    if not isinstance(devices, list):
        raise UsageError(f"{path}: has no list of devices")
    common, annotations = value.get("containerEdits") or {}, _annotations(path, value)
    found = []
    for device in devices:
        name = device.get("name") if isinstance(device, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"{path}: the name {name!r} is none for a device")
        both = {**annotations, **_annotations(path, device)}
        found.append(Described(f"{kind}={name}", both, (device.get("containerEdits") or {}, common), path))
    return found


def _annotations(path: str, value: dict[str, Any]) -> dict[str, str]:
    found = value.get("annotations") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise UsageError(f"{path}: annotations are texts by name")
    return found


def _value(path: str) -> Any:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UsageError(f"{path}: is not a file")
            data = file.read(_LARGEST + 1)
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    if len(data) > _LARGEST:
        raise UsageError(f"{path}: is larger than {_LARGEST >> 20} MiB")
    try:
        return json.loads(data)  # which is YAML, too
    except (ValueError, RecursionError) as exc:
        if path.endswith(".json"):
            raise UsageError(f"{path}: not JSON: {exc}") from None
    return _yaml(path, data)


def _yaml(path: str, data: bytes) -> Any:
    import importlib

    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        hint = "pip install 'fastlayer[cdi]', or write it as JSON (nvidia-ctk cdi generate --format=json)"
        raise UsageError(f"{path}: YAML is read by PyYAML, which is not installed: {hint}") from None
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise UsageError(f"{path}: not YAML: {' '.join(str(exc).split())}") from None
