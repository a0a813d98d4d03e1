"""What a container shares with the host, or has set in its namespaces, from what is written down about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastlayer.running.spec import Resolver

_MODES = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupnsMode"}


def shared(host: Mapping[str, Any]) -> frozenset[str]:
    """Its namespaces that are the host's."""
    return frozenset(name for name, key in _MODES.items() if host.get(key) == "host")


def kernel_side(config: Mapping[str, Any], host: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a ``Spec``."""
    lists = (tuple(host.get(key) or ()) for key in ("Dns", "DnsSearch", "DnsOptions"))
    return {
        "shared": shared(host),
        "sysctls": tuple((host.get("Sysctls") or {}).items()),
        "domainname": config.get("Domainname", ""),
        "oom_score_adj": host.get("OomScoreAdj") or None,
        "resolver": Resolver(*lists),
    }
