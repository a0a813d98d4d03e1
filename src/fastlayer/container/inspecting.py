"""A container as ``docker inspect`` shows it: the names that scripts read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.container import containers, lifecycle, writable
from fastlayer.container.mountoptions import MountOption, of_record
from fastlayer.container.state import timestamp
from fastlayer.errors import FastlayerError

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
    from fastlayer.container.state import State
    from fastlayer.store.store import Store

# What Docker's HostConfig has besides that of options.py: nothing of it is offered.
_NOT_OFFERED: dict[str, Any] = {
    **dict.fromkeys(("BlkioWeight", "CpuCount", "CpuPercent", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod"), 0),
    **dict.fromkeys(("CpuRealtimeRuntime", "IOMaximumBandwidth", "IOMaximumIOps", "KernelMemory"), 0),
    **dict.fromkeys(("KernelMemoryTCP", "MemoryReservation"), 0),
    **dict.fromkeys(("DeviceCgroupRules", "DeviceRequests", "MemorySwappiness"), None),
    **{f"BlkioDevice{name}": [] for name in ("ReadBps", "ReadIOps", "WriteBps", "WriteIOps")},
    "BlkioWeightDevice": [],
    "ConsoleSize": [0, 0],
    "CpusetMems": "",
    "OomKillDisable": False,
}
# An address of a container in one of its networks, and that of the bridge; there are none.
_ENDPOINT: dict[str, Any] = {
    **dict.fromkeys(("EndpointID", "Gateway", "GlobalIPv6Address", "IPAddress", "IPv6Gateway", "MacAddress"), ""),
    **dict.fromkeys(("GlobalIPv6PrefixLen", "IPPrefixLen"), 0),
}
_NETWORK: dict[str, Any] = {
    **_ENDPOINT,
    **dict.fromkeys(("Bridge", "LinkLocalIPv6Address", "SandboxID", "SandboxKey"), ""),
    **dict.fromkeys(("SecondaryIPAddresses", "SecondaryIPv6Addresses"), None),
    "HairpinMode": False,
    "LinkLocalIPv6PrefixLen": 0,
    "Ports": {},
}
_IN_NETWORK = {**_ENDPOINT, "NetworkID": "", **dict.fromkeys(("Aliases", "DriverOpts", "IPAMConfig", "Links"), None)}


def inspect(store: Store, container: Container, *, size: bool = False) -> dict[str, Any]:
    """The JSON object. ``size``: with ``SizeRw`` and ``SizeRootFs``."""
    found = _inspect(store, container)
    if size:
        found["SizeRw"], found["SizeRootFs"] = sizes(store, container)
    return found


def sizes(store: Store, container: Container) -> tuple[int, int]:
    """Bytes in files of the writable layer, and of all that the container shows (Docker's virtual size)."""
    from fastlayer.image.images import Images

    layer = writable.of_container(store, container.id)
    own = writable.size(store, layer)
    return own, own + Images(store).of_manifest(layer.manifest).size


def mounts(store: Store, container: Container) -> list[MountOption]:
    """What ``Mounts`` tells of: not a ``--tmpfs``, as in Docker."""
    every = map(of_record, containers.config_of(store, container)["MountOptions"])
    return [mount for mount in every if not (mount.short and mount.kind == "tmpfs")]


def network(mode: str) -> str:
    """The network of a ``NetworkMode``: that of the host is the default one."""
    return "host" if mode == "default" else mode


def _inspect(store: Store, container: Container) -> dict[str, Any]:
    record = containers.config_of(store, container)
    state = lifecycle.state_of(store, container)
    directory = containers.directory_of(store, container.id)
    host = record["HostConfig"]
    return {
        "Id": container.id,
        "Created": record["Created"],
        "Path": record["Path"],
        "Args": record["Args"],
        "State": state_object(state),
        "Image": record["Image"],
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": "" if host["LogConfig"]["Type"] == "none" else str(directory / "log.json"),
        "Name": f"/{container.name}",
        "RestartCount": 0,
        "Driver": _driver(store, container),
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": {**_NOT_OFFERED, **host, **_hidden_paths(privileged=bool(host["Privileged"]))},
        "GraphDriver": _graph(store, container),
        "Mounts": [_mount(store, mount) for mount in mounts(store, container)],
        "Config": record["Config"],
        "NetworkSettings": {**_NETWORK, "Networks": {network(host["NetworkMode"]): _IN_NETWORK}},
    }


def state_object(state: State) -> dict[str, Any]:
    """``State``."""
    return {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.status == "paused",
        "Restarting": False,
        "OOMKilled": state.oom_killed,
        "Dead": False,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": timestamp(state.started_ns),
        "FinishedAt": timestamp(state.finished_ns),
    }


def _hidden_paths(*, privileged: bool) -> dict[str, Any]:
    from fastlayer.running import native

    if privileged:
        return {"MaskedPaths": None, "ReadonlyPaths": None}
    return {"MaskedPaths": [*native.MASKED, *native.MASKED_SYS], "ReadonlyPaths": list(native.READONLY)}


def _driver(store: Store, container: Container) -> str:
    try:
        return writable.of_container(store, container.id).driver
    except FastlayerError:
        return ""


def _graph(store: Store, container: Container) -> dict[str, Any]:
    try:
        layer = writable.of_container(store, container.id)
        mounts = writable.snapshotter_of(store, layer).mounts(layer.key)
    except FastlayerError:
        return {"Name": "", "Data": {}, "Snapshot": "", "Mounts": []}
    data = {}
    for value in mounts:
        options = dict(option.partition("=")[::2] for option in value.options)
        if value.type == "overlay":
            data = {"LowerDir": ":".join(value.lowers), "UpperDir": options.get("upperdir", "")}
    return {
        "Name": layer.driver,
        "Data": data,
        "Snapshot": layer.key,
        "Mounts": [mount.to_dict() for mount in mounts],
    }


def _volume(store: Store, name: str) -> dict[str, str]:
    """Where it is: empty when it is not mounted, or gone; whose it is."""
    from fastlayer.volume.volumes import Volumes

    volumes = Volumes(store)
    try:
        found = volumes.find(name)
        return {"Name": name, "Driver": found.driver, "Source": str(volumes.path(found) or "")}
    except FastlayerError:
        return {"Name": name, "Driver": "local", "Source": ""}


def _mount(store: Store, mount: MountOption) -> dict[str, Any]:
    return {
        "Type": mount.kind,
        **(_volume(store, mount.source) if mount.kind == "volume" else {"Source": mount.source}),
        "Destination": mount.target,
        "Mode": mount.text if mount.short else "",
        "RW": not mount.readonly,
        "Propagation": (mount.propagation or "rprivate") if mount.kind == "bind" else "",
    }
