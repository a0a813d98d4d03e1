"""Options of the driver ``local``: Docker's ``type``, ``device``, ``o`` and ``size``, and what a volume is made of.

================  ==========================================================================================
``size``          bytes, or with k, m, g, t (powers of 1024, as Docker's): most that may be in the volume
``type``          a file system (``tmpfs``, ``nfs``, ...), mounted while the volume is used; ``none`` for ``o=bind``
``device``        what is mounted: a device, an address, for a bind an absolute directory
``o``             mount options, separated by commas
``image``         the volume is the tree of an image of the store, and can be written to
``clone``         a copy of another volume
``snapshot``      a copy of the snapshot ``VOLUME@SNAPSHOT``
================  ==========================================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, OperandError, UsageError, show_path
from fastlayer.mounts.mount import Mount

SOURCES = ("image", "clone", "snapshot")
_KNOWN = ("type", "device", "o", "size", *SOURCES)
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,6})?) ?([kmgtp]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_NETWORK = ("nfs", "nfs4", "cifs")
_BINDS = ("bind", "rbind")


class LocalOptions(NamedTuple):
    """What the options mean. ``source``: (kind, name) of what the volume is made of."""

    size: int | None = None
    type: str = ""
    device: str = ""
    words: tuple[str, ...] = ()
    source: tuple[str, str] | None = None

    @property
    def is_mounted(self) -> bool:
        """Whether something is mounted for it: it has no data of its own."""
        return bool(self.type)

    @property
    def is_bind(self) -> bool:
        return self.type == "none"


def parse(options: Mapping[str, str]) -> LocalOptions:
    """Raises ``UsageError`` for what means nothing."""
    for key, value in options.items():
        if key not in _KNOWN:
            raise _wrong(key, f"there is no such option: use {', '.join(_KNOWN)}")
        if not value or not value.isprintable():
            raise _wrong(key, "its value is empty, or cannot be printed")
    given = [(key, options[key]) for key in SOURCES if key in options]
    if len(given) > 1:
        raise _wrong(given[1][0], f"a volume is made of one thing: leave out {given[0][0]}")
    found = LocalOptions(
        parse_size(options["size"]) if "size" in options else None,
        options.get("type", ""),
        options.get("device", ""),
        tuple(filter(None, options.get("o", "").split(","))),
        given[0] if given else None,
    )
    if {"type", "device", "o"} & options.keys():
        return _checked_mount(found, options)
    return found


def _checked_mount(found: LocalOptions, options: Mapping[str, str]) -> LocalOptions:
    if found.source:
        raise _wrong(found.source[0], "goes with no type, device or o")
    for key in ("type", "device"):
        if key not in options:
            raise _wrong(key, "is missing: give type=, device= and, if it needs some, o=")
    if found.size is not None and found.type != "tmpfs":
        raise _wrong("size", f"what is mounted (type={found.type}) cannot be limited: leave it out")
    binds = any(word in _BINDS for word in found.words)
    if binds and found.type not in ("none", "bind"):
        raise _wrong("o", f"a bind has type=none, not {found.type}")
    if found.type in ("none", "bind"):
        if not binds:
            raise _wrong("o", "type=none needs o=bind")
        if not os.path.isabs(found.device):
            raise _wrong("device", f"{show_path(found.device)}: give the absolute path of a directory")
        return found._replace(type="none")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", found.type, re.ASCII):
        raise _wrong("type", f"{show_path(found.type)}: is no file system")
    if found.type in ("nfs", "nfs4") and ":" not in found.device:
        raise _wrong("device", f"{show_path(found.device)}: give HOST:/PATH, or :/PATH with o=addr=HOST")
    return found


def parse_size(text: str) -> int:
    """Bytes of ``10g``, ``1.5GiB``, ``4096``: powers of 1024. Raises ``UsageError``."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise _wrong("size", f"{show_path(text)}: give bytes, or a number with k, m, g or t")
    number = int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
    if not 0 < number < 1 << 63:
        raise _wrong("size", f"{show_path(text)}: give 1 byte to 8 EiB")
    return number


def mount_of(name: str, found: LocalOptions) -> Mount:
    """What is to be mounted. Raises ``OperandError`` for a directory that is not there."""
    if found.is_bind:
        if not os.path.isdir(found.device):
            raise OperandError(f"volume {name}: {show_path(found.device)}: is no directory: make it, or another volume")
        return Mount("bind", found.device, found.words)
    if found.type == "overlay":
        return _overlay(found)
    words = list(found.words)
    if found.size is not None:
        words.append(f"size={found.size}")
    if found.type in _NETWORK:
        return _over_the_network(name, found, words)
    return Mount(found.type, found.device, tuple(words))


def _over_the_network(name: str, found: LocalOptions, words: list[str]) -> Mount:
    """The kernel knows no names of hosts: it is told addresses, those of ``addr=`` or of the device's host."""
    given = next((word[5:] for word in words if word.startswith("addr=")), "")
    named = given or any(word.startswith("ip=") for word in words)
    device, is_nfs = found.device, found.type in ("nfs", "nfs4")
    if given:
        words = [f"addr={_address(name, given)}" if word == f"addr={given}" else word for word in words]
        if is_nfs and device.startswith(":"):  # the kernel's nfs wants the host in the device, too
            device = _in_brackets(_address(name, given)) + device
    elif is_nfs and (match := re.match(r"\[([^]]+)\]:|([^:]+):", device)):
        words.append(f"addr={_address(name, match[1] or match[2])}")
    elif not named and (match := re.match(r"//([^/]+)/", device)):
        words.append(f"ip={_address(name, match[1])}")
    return Mount(found.type, device, tuple(words))


def _overlay(found: LocalOptions) -> Mount:
    """Its lower directories are no option of ours: there may be more than fit into one."""
    lowers = [word.partition("=")[2] for word in found.words if word.startswith("lowerdir=")]
    words = tuple(word for word in found.words if not word.startswith("lowerdir="))
    return Mount("overlay", "overlay", words, tuple(path for text in lowers for path in text.split(":")))


def _in_brackets(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _address(name: str, host: str) -> str:
    import socket

    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except (OSError, UnicodeError) as exc:
        raise DriverError(f"volume {name}: {show_path(host)}: there is no such host ({exc}): give its address") from exc


def _wrong(key: str, why: str) -> UsageError:
    return UsageError(f"volume option {show_path(key)}: {why}")
