"""The options of ``create`` and ``run``: Docker's, as far as the thing exists here."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.cli import options, stores
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.container.mountoptions import MountOption
    from fastlayer.container.options import Options

F = TypeVar("F", bound=Callable[..., Any])

_FILE_MAX = 16 << 20  # bytes of an --env-file: more than execve(2) takes

_NO_BRIDGE = (
    "there is no bridge network here, so no port can be published: the default is the host's network, "
    "where a program listens on the host's ports itself"
)
# flags, keywords of declare.option
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--name",), {"metavar": "NAME", "help": "Of the container (default: two words are made up)."}),
    (("--rm", "auto_remove"), {"is_flag": True, "help": "Remove the container when it has ended."}),
    (("-i", "--interactive"), {"is_flag": True, "help": "Pass standard input on."}),
    (("-t", "--tty"), {"is_flag": True, "help": "Give it a terminal."}),
    (("-e", "--env"), {"multiple": True, "metavar": "NAME[=VALUE]", "help": "A variable; without a value: ours."}),
    (("--env-file",), {"multiple": True, "metavar": "FILE", "help": "A file of such lines."}),
    (("-w", "--workdir"), {"default": "", "metavar": "DIR", "help": "The working directory."}),
    (("-u", "--user"), {"default": "", "metavar": "NAME|UID[:GROUP]", "help": "Who runs it."}),
    (("--entrypoint",), {"metavar": "PROGRAM", "help": "Instead of the image's; its command goes, too."}),
    (("-v", "--volume", "volumes"), {"multiple": True, "metavar": "DIR|VOLUME:TARGET[:ro]", "help": "Show it."}),
    (
        ("--mount", "mounts"),
        {"multiple": True, "metavar": "type=bind|volume|tmpfs|image,...", "help": "The same in words."},
    ),
    (("--volumes-from",), {"multiple": True, "metavar": "CONTAINER[:ro]", "help": "All that it has mounted."}),
    (("--volume-driver",), {"default": "", "metavar": "NAME", "help": "Of volumes that are made for -v."}),
    (("--tmpfs",), {"multiple": True, "metavar": "TARGET[:OPTIONS]", "help": "An empty directory in memory."}),
    (("--read-only",), {"is_flag": True, "help": "The root cannot be written, only what is mounted."}),
    (("--network", "--net"), {"default": "default", "metavar": "none|host", "help": "none: loopback only."}),
    (
        ("--readonly-image",),
        {"is_flag": True, "help": "No writable layer at all: the image as it is, shared by all."},
    ),
    (("-h", "--hostname"), {"default": "", "metavar": "NAME", "help": "The name of its host."}),
    (("--add-host", "add_hosts"), {"multiple": True, "metavar": "NAME:ADDRESS", "help": "A line of /etc/hosts."}),
    (("--domainname",), {"default": "", "metavar": "NAME", "help": "The NIS domain of its host."}),
    (("--dns",), {"multiple": True, "metavar": "ADDRESS", "help": "A server of /etc/resolv.conf."}),
    (("--dns-search",), {"multiple": True, "metavar": "DOMAIN", "help": "A domain to search; `.`: none."}),
    (("--dns-option", "--dns-opt", "dns_options"), {"multiple": True, "metavar": "OPTION", "help": "As ndots:2."}),
    (("--expose",), {"multiple": True, "metavar": "PORT[/PROTOCOL]", "help": "Noted in its configuration."}),
    (("--pid",), {"default": "", "metavar": "host", "help": "The host's processes are seen."}),
    (("--ipc",), {"default": "", "metavar": "host|private", "help": "The host's shared memory is seen."}),
    (("--uts",), {"default": "", "metavar": "host", "help": "The host's names are its own."}),
    (("--cgroupns",), {"default": "", "metavar": "host|private", "help": "Whether it sees where its cgroup is."}),
    (("--sysctl", "sysctls"), {"multiple": True, "metavar": "NAME=VALUE", "help": "Of its own namespaces."}),
    (("--cap-add",), {"multiple": True, "metavar": "CAP", "help": "A capability more, or ALL."}),
    (("--cap-drop",), {"multiple": True, "metavar": "CAP", "help": "A capability less, or ALL."}),
    (("--group-add",), {"multiple": True, "metavar": "GROUP", "help": "A group more."}),
    (("--privileged",), {"is_flag": True, "help": "No confinement: all capabilities and devices, no filter."}),
    (
        ("--security-opt", "security_opts"),
        {"multiple": True, "metavar": "OPTION", "help": "seccomp=FILE|unconfined, no-new-privileges."},
    ),
    (("--userns",), {"default": "", "metavar": "host|auto", "help": "auto: root in it is nobody on the host."}),
    (("-m", "--memory"), {"metavar": "SIZE", "help": "Bytes of memory (b, k, m, g)."}),
    (("--memory-swap",), {"metavar": "SIZE", "help": "Memory and swap together, -1 for any."}),
    (("--cpus",), {"type": float, "default": 0.0, "metavar": "N", "help": "Processors' worth of time."}),
    (("-c", "--cpu-shares"), {"type": int, "default": 0, "metavar": "N", "help": "Share of time (1024 is usual)."}),
    (("--cpuset-cpus",), {"default": "", "metavar": "LIST", "help": "Processors it may use: 0-1,3."}),
    (("--cpuset-mems",), {"default": "", "metavar": "LIST", "help": "Memory nodes it may use: 0-1."}),
    (("--cpu-period",), {"type": int, "default": 0, "metavar": "MICROSECONDS", "help": "In which the quota counts."}),
    (("--cpu-quota",), {"type": int, "default": 0, "metavar": "MICROSECONDS", "help": "Of a processor in a period."}),
    (("--memory-reservation",), {"metavar": "SIZE", "help": "What it keeps when memory is short."}),
    (("--oom-score-adj",), {"type": int, "default": 0, "metavar": "N", "help": "-1000 to 1000: who is killed first."}),
    (("--pids-limit",), {"type": int, "default": 0, "metavar": "N", "help": "Processes and threads."}),
    (("--ulimit", "ulimits"), {"multiple": True, "metavar": "NAME=SOFT[:HARD]", "help": "A limit of setrlimit(2)."}),
    (("--device", "devices"), {"multiple": True, "metavar": "HOST[:TARGET]", "help": "Show a device."}),
    (("--shm-size",), {"metavar": "SIZE", "help": "Of /dev/shm (default: 64m)."}),
    (("--init",), {"is_flag": True, "help": "A first process that takes care of orphans (tini, catatonit)."}),
    (("--stop-signal",), {"default": "", "metavar": "SIGNAL", "help": "What `stop` sends first (SIGTERM)."}),
    (("--stop-timeout",), {"type": int, "metavar": "SECONDS", "help": "How long `stop` waits (10)."}),
    (("-l", "--label", "labels"), {"multiple": True, "metavar": "KEY[=VALUE]", "help": "A label."}),
    (("--annotation", "annotations"), {"multiple": True, "metavar": "KEY=VALUE", "help": "Noted beside it."}),
    (("--label-file",), {"multiple": True, "metavar": "FILE", "help": "A file of labels."}),
    (("--cidfile",), {"default": "", "metavar": "FILE", "help": "Write the id there."}),
    (("--log-driver",), {"default": "json-file", "metavar": "json-file|none", "help": "Whether output is kept."}),
    (("--log-opt", "log_options"), {"multiple": True, "metavar": "KEY=VALUE", "help": "max-size, max-file."}),
    (
        ("--runtime", "--isolation", "runtime"),
        {"default": "", "metavar": "native|oci|crun|runc|chroot", "help": "What runs it (default: native)."},
    ),
    (
        ("--pull",),
        {
            "type": declare.Choice(["always", "missing", "newer", "never"]),
            "default": "missing",
            "envvar": "FASTLAYER_PULL",
            "help": "When the image is pulled: always, missing (if the store has none), newer, never.",
        },
    ),
    (
        ("--authfile",),
        {"type": options.WORD, "metavar": "FILE", "help": "The file with logins for registries."},
    ),
    (
        ("--tls-verify",),
        {"type": declare.BOOL, "metavar": "BOOL", "help": "Whether the registry needs a certificate."},
    ),
    (("--restart",), {"default": "no", "metavar": "no", "help": "Nobody is here to start it again."}),
    (
        ("--storage-opt", "storage_options"),
        {"multiple": True, "metavar": "KEY=VALUE", "help": "size=SIZE, or an option of the storage driver."},
    ),
    (("--disable-content-trust",), {"is_flag": True, "default": True, "hidden": True}),
    (("--no-healthcheck",), {"is_flag": True, "hidden": True}),
    (("-p", "--publish"), {"multiple": True, "metavar": "PORTS", "hidden": True}),
    (("-P", "--publish-all"), {"is_flag": True, "hidden": True}),
)


def container_options(function: F) -> F:
    """All of them, with --root, --driver and --platform."""
    function = stores.platform_option()(stores.store_options(function))
    for flags, keywords in reversed(_OPTIONS):
        function = declare.option(*flags, **keywords)(function)
    return function


def wanted(given: dict[str, Any], *, detach: bool) -> Options:
    """As a value. Raises ``declare.LineError``, ``UsageError``."""
    from fastlayer.container.options import Options

    if given["publish"] or given["publish_all"]:
        raise declare.LineError(_NO_BRIDGE)
    size, storage = _storage(given["storage_options"])
    entrypoint = given["entrypoint"]
    return Options(
        **{name: given[name] for name in _SAME},
        entrypoint=None if entrypoint is None else ((entrypoint,) if entrypoint else ()),
        env=environment(given["env"], given["env_file"]),
        labels=_labels(given["labels"], given["label_file"]),
        detach=detach,
        mounts=_mounts(given),
        add_hosts=tuple(_host(word) for word in given["add_hosts"]),
        memory=options.memory("--memory", given["memory"]) or 0,
        annotations=options.pairs("--annotation", given["annotations"]),
        memory_reservation=options.memory("--memory-reservation", given["memory_reservation"]) or 0,
        memory_swap=-1 if given["memory_swap"] == "-1" else options.memory("--memory-swap", given["memory_swap"]) or 0,
        shm_size=options.memory("--shm-size", given["shm_size"]) or 64 << 20,
        log_options=options.pairs("--log-opt", given["log_options"]),
        size=size,
        storage_options=storage,
    )


_SAME = [
    "user",
    "workdir",
    "hostname",
    "tty",
    "interactive",
    "auto_remove",
    "volumes_from",
    "volume_driver",
    "read_only",
    "network",
    "cap_add",
    "cap_drop",
    "group_add",
    "privileged",
    "security_opts",
    "userns",
    "cpus",
    "cpu_shares",
    "cpuset_cpus",
    "pids_limit",
    "ulimits",
    "devices",
    "init",
    "stop_signal",
    "stop_timeout",
    "log_driver",
    "runtime",
    "cidfile",
    "readonly_image",
    "pid",
    "ipc",
    "uts",
    "cgroupns",
    "domainname",
    "dns",
    "dns_search",
    "dns_options",
    "sysctls",
    "oom_score_adj",
    "restart",
    "expose",
    "cpu_period",
    "cpu_quota",
    "cpuset_mems",
]


def environment(words: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """Files first. A name without a value has ours; when we have none, a file's is left out, and one of ``words`` stays
    a name alone: the image's variable goes, as Docker has it."""
    found: dict[str, str] = {}
    for line in (line for path in files for line in _lines("--env-file", path)):
        name, equals, _ = line.partition("=")
        if equals or name in os.environ:
            found[name] = line if equals else f"{name}={os.environ[name]}"
    for word in words:
        name, equals, _ = word.partition("=")
        if not name:
            raise declare.LineError(f"invalid environment variable: {word!r}: give NAME=VALUE")
        found[name] = word if equals or name not in os.environ else f"{name}={os.environ[name]}"
    return tuple(found.values())


def _lines(option: str, path: str) -> list[str]:
    """``NAME=VALUE`` lines as Docker reads them: blanks before a name do not count, everything after ``=`` does."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX + 1)
    except OSError as exc:
        raise declare.LineError(f"{option} {path}: {exc.strerror}") from None
    if len(data) > _FILE_MAX:
        raise declare.LineError(f"{option} {path}: has more than {_FILE_MAX >> 20} MiB: no program can be given that")
    raw = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    found = []
    for number, line in enumerate(raw, 1):
        try:
            text = line.removesuffix(b"\r").decode().lstrip()
        except UnicodeDecodeError:
            raise declare.LineError(f"{option} {path}: invalid utf8 bytes at line {number}") from None
        if text and not text.startswith("#"):
            found.append(_checked(option, path, text))
    return found


def _checked(option: str, path: str, line: str) -> str:
    name = line.partition("=")[0]
    if not name:
        raise declare.LineError(f"{option} {path}: no variable name on line {line!r}")
    if " " in name or "\t" in name:
        raise declare.LineError(f"{option} {path}: variable {name!r} contains whitespaces")
    return line


def _labels(words: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    lines = (line for path in files for line in _lines("--label-file", path) if "=" in line)
    every = [*lines, *words]
    return dict(word.partition("=")[::2] for word in every)


def _mounts(given: dict[str, Any]) -> tuple[MountOption, ...]:
    from fastlayer.container import mountoptions

    return (
        *map(mountoptions.parse_volume, given["volumes"]),
        *map(mountoptions.parse_mount, given["mounts"]),
        *map(mountoptions.parse_tmpfs, given["tmpfs"]),
    )


def _host(word: str) -> tuple[str, str]:
    name, sign, address = word.partition("=" if "=" in word else ":")
    if not (name and sign and address):
        raise declare.LineError(f"bad format for add-host: {word!r}: give NAME:ADDRESS")
    from fastlayer.running import network_files

    network_files.hosts("localhost", [(name, address)])
    return name, address.strip("[]")


def _storage(words: Sequence[str]) -> tuple[int | None, dict[str, str]]:
    found = options.pairs("--storage-opt", words)
    size = found.pop("size", None)
    return (options.size(size) if size is not None else None), found
