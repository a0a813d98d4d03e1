"""What a program shares with the host of the kernel, or has set for itself: namespaces and sysctls (sysctl(8))."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from fastlayer.errors import UsageError
from fastlayer.running import steps

SPACES = {"pid": steps.NEWPID, "ipc": steps.NEWIPC, "uts": steps.NEWUTS, "cgroup": steps.NEWCGROUP}
_IPC = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
_NAME = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)+", re.ASCII)


def own_spaces(shared: Collection[str]) -> int:
    """Flags of the namespaces that are made: all but those that are shared with the host."""
    return sum(flag for name, flag in SPACES.items() if name not in shared)


def parse_sysctl(text: str) -> tuple[str, str]:
    """``NAME=VALUE``: of those that belong to a namespace, as Docker takes them. Raises ``UsageError``."""
    name, equals, value = text.partition("=")
    is_known = name in [f"kernel.{word}" for word in _IPC] or name.startswith(("net.", "fs.mqueue."))
    if not equals or not is_known or not _NAME.fullmatch(name) or "\n" in value:
        raise UsageError(
            f"sysctl {text!r} is not allowed: give NAME=VALUE, NAME one of a namespace: kernel.shm*, kernel.msg*, "
            "kernel.sem, fs.mqueue.*, net.*"
        )
    return name, value


def check_sysctls(sysctls: Sequence[tuple[str, str]], network: str, shared: Collection[str]) -> None:
    """Raises ``UsageError`` for what would change the host."""
    for name, _ in sysctls:
        if name.startswith("net.") and network != "none":
            raise UsageError(f"sysctl {name!r} not allowed in host network namespace: use --network none")
        if not name.startswith("net.") and "ipc" in shared:
            raise UsageError(f"sysctl {name!r} not allowed in host ipc namespace: leave out --ipc host")


def place_of(name: str) -> str:
    """The file of a sysctl."""
    return "/proc/sys/" + name.replace(".", "/")
