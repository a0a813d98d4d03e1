"""``-v``, ``--mount`` and ``--tmpfs``: what is mounted in a container, as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from fastlayer._values import NamedTuple
from fastlayer.errors import UsageError

Kind = Literal["bind", "volume", "tmpfs", "image"]
_KINDS = ("bind", "volume", "tmpfs", "image")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")  # Go's ParseBool
PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
# words of -v that say the same thing: at most one of each (moby, volume/mounts/linux_parser.go)
_GROUPS = (
    ("ro", "rw"),
    ("z", "Z"),
    ("nocopy",),
    ("cached", "delegated", "consistent"),
    PROPAGATIONS,
    ("rbind", "bind"),
)
_TMPFS_FLAGS = (
    ("rw", "ro"),
    ("noexec", "exec"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("async", "sync"),
    ("dirsync",),
    ("atime", "noatime"),
    ("diratime", "nodiratime"),
    ("relatime", "norelatime", "strictatime", "nostrictatime"),
)
_TMPFS_NUMBERS = ("uid", "gid", "nr_inodes", "nr_blocks")
_RECURSIVE = ("enabled", "disabled", "writable", "readonly")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class MountOption(NamedTuple):
    """One mount. ``source``: a path, a volume's name, an image's, or empty. ``short``: given by ``-v`` or ``--tmpfs``.

    ``size``, ``mode``, ``words``: of a tmpfs; the last are words of mount(8). ``make``: a directory that is not there
    is made (``-v``), else it is an error. ``subpath``: of a volume or image. ``text``: the options as they were given.
    ``anonymous``: a volume that nobody has named: its name was made up. ``driver``, ``options``, ``labels``: of a
    volume that is made now. ``propagation``, ``recursive``: of a bind, Docker's words.
    """

    kind: Kind
    target: str
    source: str = ""
    readonly: bool = False
    short: bool = False
    make: bool = False
    size: int | None = None
    mode: int = 0o1777
    subpath: str = ""
    nocopy: bool = False
    text: str = ""
    anonymous: bool = False
    words: tuple[str, ...] = ()
    driver: str = ""
    options: Mapping[str, str] = _NOTHING
    labels: Mapping[str, str] = _NOTHING
    propagation: str = ""
    recursive: str = ""

    def as_bind(self) -> str:
        """As ``HostConfig.Binds`` has it."""
        return ":".join(filter(None, (self.source, self.target, self.text)))

    def to_dict(self) -> dict[str, Any]:
        """As ``HostConfig.Mounts`` has it."""
        found: dict[str, Any] = {"Type": self.kind, "Target": self.target}
        if self.source:
            found["Source"] = self.source
        if self.readonly:
            found["ReadOnly"] = True
        if self.kind == "tmpfs" and (self.size is not None or self.mode != 0o1777):
            found["TmpfsOptions"] = {"SizeBytes": self.size or 0, "Mode": self.mode}
        for key, value in (("BindOptions", self._bind_options()), ("VolumeOptions", self._volume_options())):
            if value:
                found[key] = value
        if self.kind == "image" and self.subpath:
            found["ImageOptions"] = {"Subpath": self.subpath}
        return found

    def _bind_options(self) -> dict[str, Any]:
        return {
            **({"Propagation": self.propagation} if self.propagation else {}),
            **({"NonRecursive": True} if self.recursive == "disabled" else {}),
            **({"ReadOnlyNonRecursive": True} if self.recursive == "writable" else {}),
            **({"ReadOnlyForceRecursive": True} if self.recursive == "readonly" else {}),
        }

    def _volume_options(self) -> dict[str, Any]:
        if self.kind != "volume":
            return {}
        driver = {"Name": self.driver, "Options": dict(self.options)} if self.driver or self.options else None
        return {
            **({"NoCopy": True} if self.nocopy else {}),
            **({"Labels": dict(self.labels)} if self.labels else {}),
            **({"DriverConfig": driver} if driver else {}),
            **({"Subpath": self.subpath} if self.subpath else {}),
        }


def to_record(mount: MountOption) -> dict[str, Any]:
    """For the container's file: complete, and read by ``of_record``."""
    return {**mount._asdict(), "options": dict(mount.options), "labels": dict(mount.labels)}


def of_record(value: Mapping[str, Any]) -> MountOption:
    found = MountOption(**{key: value[key] for key in MountOption._fields if key in value})
    return found._replace(words=tuple(found.words))


# ---- -v --------------------------------------------------------------------------------------------


def parse_volume(text: str) -> MountOption:
    """``SOURCE:TARGET[:OPTIONS]``, or ``TARGET`` alone: an anonymous volume. Raises ``UsageError``."""
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"invalid volume specification: {text!r}: give SOURCE:TARGET[:OPTIONS]")
    if len(parts) == 1:
        return MountOption("volume", _target(text, parts[0]), short=True)
    words = parts[2].split(",") if len(parts) == 3 else []
    _check_words(text, words)
    kind: Kind = "bind" if parts[0].startswith(("/", ".", "~")) else "volume"
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    if (propagation and kind == "volume") or ("nocopy" in words and kind == "bind"):
        wrong = propagation if kind == "volume" else "nocopy"
        raise UsageError(f"invalid volume specification: {text!r}: {wrong} is nothing for a {kind}")
    source = os.path.abspath(os.path.expanduser(parts[0])) if kind == "bind" else _volume_name(text, parts[0])
    return MountOption(
        kind,
        _target(text, parts[1]),
        source,
        "ro" in words,
        True,
        kind == "bind",
        text=",".join(words),
        nocopy="nocopy" in words,
        propagation=propagation,
    )


def _check_words(text: str, words: list[str]) -> None:
    for word in words:
        same = next((group for group in _GROUPS if word in group), None)
        if same is None:
            raise UsageError(f"invalid volume specification: {text!r}: invalid mode: {word}")
        if sum(words.count(other) for other in same) > 1:
            raise UsageError(f"invalid volume specification: {text!r}: give one of {', '.join(same)}, once")


def _volume_name(text: str, name: str) -> str:
    import re

    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name):
        raise UsageError(
            f"{text!r}: {name!r} includes invalid characters for a local volume name: a directory's path begins with /"
        )
    return name


def _target(text: str, path: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"invalid volume specification: {text!r}: invalid mount path: {path!r} must be absolute")
    clean = os.path.normpath("/" + path.lstrip("/"))
    if clean == "/":
        raise UsageError(f"invalid volume specification: {text!r}: destination can't be '/'")
    return clean


# ---- --mount ---------------------------------------------------------------------------------------


def parse_mount(text: str) -> MountOption:
    """``type=bind,source=PATH,target=PATH[,readonly]`` and the like. Raises ``UsageError``."""
    fields = _fields(text)
    kind = fields.pop("type", "volume").lower()
    if kind not in _KINDS:
        raise UsageError(f"--mount {text!r}: type {kind!r} is unknown: use {', '.join(_KINDS)}")
    target = fields.pop("target", "")
    if not target:
        raise UsageError(f"--mount {text!r}: target is required")
    source = fields.pop("source", "")
    readonly = _truth(text, "readonly", fields.pop("readonly", "false"))
    found = MountOption(kind, _target(text, target), source, readonly or kind == "image")  # type: ignore[arg-type]
    found = _KIND_FIELDS[kind](text, found, fields)
    if fields:
        key = next(iter(fields))
        if other := next((kind for kind in _KINDS if key.startswith(f"{kind}-")), ""):
            raise UsageError(f"--mount {text!r}: cannot mix '{other}-*' options with mount type '{kind}'")
        raise UsageError(f"--mount {text!r}: unexpected key {key!r} in the mount of type {kind}")
    return found


_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_ALONE = ("readonly", "volume-nocopy", "bind-nonrecursive")  # means true without a value
_REPEATED = ("volume-label", "volume-opt")


def _fields(text: str) -> dict[str, str]:
    """The last of several of a key counts; those that may be repeated have a key for each, ``volume-opt=type``."""
    import csv

    found: dict[str, str] = {}
    try:
        (words,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as exc:
        raise UsageError(f"--mount {text!r}: is not KEY=VALUE,KEY=VALUE...: {exc}") from None
    for word in words:
        key, equals, value = word.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if not equals and key not in _ALONE:
            raise UsageError(f"--mount {text!r}: invalid field {word!r}: must be a key=value pair")
        if key in _REPEATED:
            name, _, value = value.partition("=")
            key = f"{key}={name}"
        found[key] = value if equals else "true"
    return found


def _truth(text: str, key: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise UsageError(f"--mount {text!r}: invalid value for {key}: {value!r}: give true or false")
    return value in _TRUE


def _choice(text: str, fields: dict[str, str], key: str, choices: tuple[str, ...]) -> str:
    value = fields.pop(key, "").lower()
    if value and value not in choices:
        raise UsageError(f"--mount {text!r}: invalid {key} {value!r}: use {', '.join(choices)}")
    return value


def _bind_fields(text: str, found: MountOption, fields: dict[str, str]) -> MountOption:
    source = found.source
    if not source:
        raise UsageError(f"--mount {text!r}: a bind needs a source")
    if source == "." or source.startswith(("./", "../")):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        raise UsageError(f"--mount {text!r}: invalid mount path: {source!r} mount path must be absolute")
    _choice(text, fields, "consistency", ("default", "consistent", "cached", "delegated"))
    propagation = _choice(text, fields, "bind-propagation", PROPAGATIONS)
    recursive = _choice(text, fields, "bind-recursive", _RECURSIVE)
    if _truth(text, "bind-nonrecursive", fields.pop("bind-nonrecursive", "false")):
        recursive = "disabled"
    if recursive in ("writable", "readonly") and not found.readonly:
        raise UsageError(f"--mount {text!r}: bind-recursive={recursive} goes with readonly")
    if recursive == "readonly" and propagation != "rprivate":
        raise UsageError(f"--mount {text!r}: bind-recursive=readonly goes with bind-propagation=rprivate")
    return found._replace(source=source, propagation=propagation, recursive=recursive)


def _volume_fields(text: str, found: MountOption, fields: dict[str, str]) -> MountOption:
    nocopy = _truth(text, "volume-nocopy", fields.pop("volume-nocopy", "false"))
    if found.source:
        _volume_name(text, found.source)
    pairs: dict[str, dict[str, str]] = {key: {} for key in _REPEATED}
    for key in [key for key in fields if key.partition("=")[0] in _REPEATED]:
        kind, _, name = key.partition("=")
        pairs[kind][name] = fields.pop(key)
    return found._replace(
        nocopy=nocopy,
        subpath=_subpath(text, fields.pop("volume-subpath", "")),
        driver=fields.pop("volume-driver", ""),
        options=pairs["volume-opt"],
        labels=pairs["volume-label"],
    )


def _image_fields(text: str, found: MountOption, fields: dict[str, str]) -> MountOption:
    if not found.source:
        raise UsageError(f"--mount {text!r}: an image mount needs a source: the name of an image")
    return found._replace(subpath=_subpath(text, fields.pop("image-subpath", "")))


def _subpath(text: str, path: str) -> str:
    from fastlayer.volume.subpath import check_subpath

    try:
        return check_subpath(path) if path else ""
    except UsageError as exc:
        raise UsageError(f"--mount {text!r}: {exc}") from None


def _tmpfs_fields(text: str, found: MountOption, fields: dict[str, str]) -> MountOption:
    if found.source:
        raise UsageError(f"--mount {text!r}: a tmpfs has no source")
    size, mode = fields.pop("tmpfs-size", ""), fields.pop("tmpfs-mode", "")
    return found._replace(size=_size(text, size) if size else None, mode=_mode(text, mode) if mode else 0o1777)


_KIND_FIELDS = {"bind": _bind_fields, "volume": _volume_fields, "image": _image_fields, "tmpfs": _tmpfs_fields}


# ---- --tmpfs ---------------------------------------------------------------------------------------


def parse_tmpfs(text: str) -> MountOption:
    """``TARGET[:OPTIONS]``, those of mount(8) for tmpfs. Raises ``UsageError``."""
    path, _, given = text.partition(":")
    found, words = MountOption("tmpfs", _target(text, path), short=True, text=given), list[str]()
    for word in filter(None, given.split(",")):
        key, _, value = word.partition("=")
        if key == "size" and not _is_share(value):
            found = found._replace(size=_size(text, value))
        elif key == "mode":
            found = found._replace(mode=_mode(text, value))
        elif _is_tmpfs_word(word, key, value):
            words.append(word)
        else:
            raise UsageError(f"--tmpfs {text!r}: invalid tmpfs option {word!r}")
    return found._replace(readonly=_last_of(words, ("rw", "ro")) == "ro", words=tuple(words))


def _is_tmpfs_word(word: str, key: str, value: str) -> bool:
    is_flag = any(word in same for same in _TMPFS_FLAGS)
    return is_flag or key == "size" or (key in _TMPFS_NUMBERS and _is_number(value)) or bool(key == "mpol" and value)


def _last_of(words: list[str], same: tuple[str, ...]) -> str:
    return next((word for word in reversed(words) if word in same), "")


def _is_number(value: str) -> bool:
    return value.isascii() and value.rstrip("kmg").isdecimal() and len(value) <= 18


def _is_share(value: str) -> bool:
    """``50%``: of the machine's memory."""
    return value.endswith("%") and value[:-1].isascii() and value[:-1].isdecimal() and len(value) <= 4


def _size(text: str, value: str) -> int:
    units = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    lower = value.lower().removesuffix("b") if value[-1:].isalpha() and value.lower() != "b" else value.lower()
    digits = lower.rstrip("bkmgt")
    unit = lower[len(digits) :]
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 18 or unit not in units:
        raise UsageError(f"{text!r}: {value!r} is not a size: give bytes, or a number with k, m or g")
    return int(digits) * units[unit]


def _mode(text: str, value: str) -> int:
    if not (0 < len(value) < 6 and set(value) <= set("01234567")):
        raise UsageError(f"{text!r}: {value!r} is not a mode: give octal digits")
    return int(value, 8)
