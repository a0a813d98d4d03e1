"""What a build is asked to do, as values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from fastlayer._values import NamedTuple
from fastlayer.builder.leave import Leave
from fastlayer.oci.platform import Platform

if TYPE_CHECKING:
    from fastlayer.builder.context.sources import Source
    from fastlayer.builder.sharing.options import CacheFrom, CacheTo
    from fastlayer.registry.opening import Wishes
    from fastlayer.running.limits import Limit
    from fastlayer.running.security import SecurityOptions
    from fastlayer.transfer.policies import Policy

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")  # ARGs that every RUN has

_NONE: Mapping[str, str] = MappingProxyType({})


class Secret(NamedTuple):
    """``--secret id=ID[,src=PATH|,env=NAME]``: where its bytes are."""

    id: str
    source: str = ""
    env: str = ""


class Ssh(NamedTuple):
    """``--ssh ID[=SOCKET]``: the socket of an agent."""

    id: str = "default"
    socket: str = ""


class Options(NamedTuple):
    """``target``: the stage, None: the last; ``platform``: None: this machine's. ``no_cache``: use nothing that the
    cache has; ``no_cache_stages``: the same for stages of these names only. ``epoch``: SOURCE_DATE_EPOCH, seconds:
    later times become it. ``explain``: say of every step that is done why. ``cache_mode``: ``content`` or ``git``
    (modes as git has them, owners do not count). ``isolation``: None: the first that works. ``jobs``: threads, None:
    one per processor. ``security``: None: Docker's default seccomp profile;
    ``capabilities``: bits, None: Docker's default. ``limits``: of RUN (ulimit). ``devices``:
    those that every RUN sees (``running/devices.py``). ``cache_from``, ``cache_to``: caches outside of the store.
    ``wishes``: what is wished of registries, None: nothing in particular; ``pull``: when they are asked for images
    (``pulling.py``).
    """

    target: str | None = None
    platform: Platform | None = None
    arguments: Mapping[str, str] = _NONE
    labels: Mapping[str, str] = _NONE
    contexts: Mapping[str, Source] = MappingProxyType({})
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    epoch: int | None = None
    explain: bool = False
    cache_mode: str = "content"
    isolation: str | None = None
    network: str = "default"
    hosts: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[Ssh, ...] = ()
    squash: bool = False
    shm_size: int | None = None
    leave: Leave = Leave()
    security: SecurityOptions | None = None
    capabilities: int | None = None
    limits: tuple[Limit, ...] = ()
    devices: tuple[str, ...] = ()
    jobs: int | None = None
    cache_from: tuple[CacheFrom, ...] = ()
    cache_to: tuple[CacheTo, ...] = ()
    wishes: Wishes | None = None
    pull: Policy = "missing"

    @property
    def git(self) -> bool:
        """Whether modes count as git has them."""
        return self.cache_mode == "git"
