"""Capabilities (capabilities(7)): by number, Docker's default set, and what this process has."""

from __future__ import annotations

from collections.abc import Iterable

from fastlayer.errors import UsageError

NAMES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]

# what Docker and BuildKit leave to a container
DEFAULT_NAMES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]


def bits(names: list[str]) -> int:
    """As the kernel counts them."""
    return sum(1 << NAMES.index(name) for name in names)


DEFAULT = bits(DEFAULT_NAMES)
_ALL = "ALL"
SETPCAP, SYS_CHROOT, SYS_ADMIN, SETUID, SETGID = (
    bits([name]) for name in ("CAP_SETPCAP", "CAP_SYS_CHROOT", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID")
)


def changed(added: Iterable[str], dropped: Iterable[str]) -> int:
    """Docker's default set with what ``--cap-add`` and ``--cap-drop`` say (moby, ``TweakCapabilities``), as bits.

    Names with ``CAP_`` or without, in any case, or ``ALL``: of all that is added, those that are dropped by name go;
    when all is dropped, what is added stays; else what is added wins. Raises ``UsageError``.
    """
    add, drop = normalized(added, "--cap-add"), normalized(dropped, "--cap-drop")
    more, less = (bits(sorted({name for name in words if name != _ALL})) for words in (add, drop))
    if _ALL in add:
        return bits(NAMES) & ~less
    return more if _ALL in drop else DEFAULT & ~less | more


def normalized(words: Iterable[str], option: str = "--cap-add") -> list[str]:
    """In full, as Docker writes them down: ``CAP_CHOWN``, ``ALL``. Raises ``UsageError``."""
    return [_in_full(option, word) for word in words]


def _in_full(option: str, word: str) -> str:
    name = word.upper()
    if name in (_ALL, f"CAP_{_ALL}"):
        return _ALL
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in NAMES:
        raise UsageError(f"{option} {word!r}: no such capability: see capabilities(7), or give ALL")
    return name


def names(wanted: int) -> list[str]:
    return [name for number, name in enumerate(NAMES) if wanted >> number & 1]


def effective() -> int:
    """Those of this thread; 0 when /proc does not tell."""
    return _field(b"CapEff:")


def bounding() -> int:
    return _field(b"CapBnd:")


def _field(name: bytes) -> int:
    try:
        with open("/proc/thread-self/status", "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1], 16)
    except OSError:
        pass
    return 0
