"""Options of ``docker build`` and ``docker buildx build`` that make no difference here, or that cannot be met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastlayer.cli.line import declare

F = TypeVar("F", bound=Callable[..., Any])

_NO_DIFFERENCE = ("--rm", "--force-rm", "--compress", "--load", "--disable-content-trust")
_NO_CGROUP = "steps run in the cgroup of the command: limit that (systemd-run --scope -p {0} fastlayer build ...)"
_CANNOT = {
    ("--memory", "-m"): _NO_CGROUP.format("MemoryMax=2G"),
    ("--memory-swap",): _NO_CGROUP.format("MemorySwapMax=0"),
    ("--cpu-shares", "-c"): _NO_CGROUP.format("CPUWeight=50"),
    ("--cpu-period",): _NO_CGROUP.format("CPUQuota=150%"),
    ("--cpu-quota",): _NO_CGROUP.format("CPUQuota=150%"),
    ("--cpuset-cpus",): _NO_CGROUP.format("AllowedCPUs=0-1"),
    ("--cpuset-mems",): _NO_CGROUP.format("AllowedMemoryNodes=0"),
    ("--cgroup-parent",): _NO_CGROUP.format("Slice=NAME"),
    ("--annotation",): "annotations are of what leaves the store: give -o type=oci,dest=FILE,annotation.KEY=VALUE",
}
_ATTESTATIONS = ("--provenance", "--sbom", "--attest")


def other_options(function: F) -> F:
    """Those are not in ``--help``: taken without a word, or refused in one line."""
    for name in _NO_DIFFERENCE:
        function = declare.option(name, is_flag=True, hidden=True, expose_value=False)(function)
    for names, why in _CANNOT.items():
        function = declare.option(*names, hidden=True, expose_value=False, callback=_refuse(names[0], why))(function)
    for name in _ATTESTATIONS:
        function = declare.option(name, hidden=True, expose_value=False, callback=_no_attestation(name))(function)
    return declare.option("--builder", hidden=True, expose_value=False)(function)


def _refuse(name: str, why: str) -> Callable[..., None]:
    def refuse(value: object) -> None:
        if value:
            raise declare.LineError(f"{name}: {why}")

    return refuse


def _no_attestation(name: str) -> Callable[..., None]:
    def check(value: str | None) -> None:
        if value is not None and value.lower() not in ("false", "0", "disabled=true"):
            raise declare.LineError(f"{name}: no attestations are made: leave it out, or give false")

    return check
