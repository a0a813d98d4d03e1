"""What a step finds in /etc/resolv.conf and /etc/hosts (resolv.conf(5), hosts(5))."""

from __future__ import annotations

from collections.abc import Sequence

from fastlayer.errors import UsageError
from fastlayer.running.spec import Resolver

_RESOLVED = "/run/systemd/resolve/resolv.conf"  # what systemd-resolved itself asks, behind its stub 127.0.0.53
_PUBLIC = ("8.8.8.8", "8.8.4.4")  # as Docker does when a host has no server that a container could reach
_MAX_BYTES = 1 << 20
_MAX_NAME = 253
_LOOPBACK = "127.0.0.1"


def resolv_conf(*, host_network: bool, resolver: Resolver | None = None) -> str:
    """For a step on the host's network the host's file as it is: a resolver on the loopback can be reached from there.

    For another one without servers on the loopback, as Docker makes it. What ``resolver`` says takes its place.
    """
    text = _of_host(host_network=host_network)
    return _replaced(text, resolver) if resolver is not None and any(resolver) else text


def _replaced(text: str, resolver: Resolver) -> str:
    """As Docker writes it: in this order."""
    rows = [line.split() for line in text.splitlines() if line.split()]
    search = resolver.search or next((tuple(row[1:]) for row in reversed(rows) if row[0] == "search"), ())
    options = resolver.options or tuple(word for row in rows if row[0] == "options" for word in row[1:])
    lines = [f"search {' '.join(search)}"] if search and search != (".",) else []
    lines += [f"nameserver {server}" for server in resolver.servers or _servers(text)]
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)


def check_resolver(resolver: Resolver) -> None:
    """Raises ``UsageError`` for what would not be words of such lines."""
    for server in resolver.servers:
        _address(server, "--dns")
    for word in (*resolver.search, *resolver.options):
        if not word or any(c.isspace() or not c.isprintable() for c in word):
            raise UsageError(f"{word!r}: is no word for resolv.conf: give a domain to --dns-search, or an option")


def _of_host(*, host_network: bool) -> str:
    text = _read("/etc/resolv.conf")
    if host_network:
        return text if _servers(text) else without_loopback(text)
    filtered = without_loopback(text, instead=False)
    if not _servers(filtered):
        filtered = without_loopback(_read(_RESOLVED) or text)
    return filtered


def without_loopback(text: str, *, instead: bool = True) -> str:
    """``instead``: public servers when none is left."""
    kept = [line for line in text.splitlines() if not (server := _server(line)) or not _is_loopback(server)]
    if instead and not any(_server(line) for line in kept):
        kept += [f"nameserver {server}" for server in _PUBLIC]
    return "".join(f"{line}\n" for line in kept)


def hosts(hostname: str, extra: Sequence[tuple[str, str]] = ()) -> str:
    """``extra``: (name, address). Raises ``UsageError`` for what would not be a line of its own."""
    lines = [f"127.0.0.1\tlocalhost {hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{check_host(name, address)}\t{name}" for name, address in extra]
    return "".join(f"{line}\n" for line in lines)


def check_host(name: str, address: str) -> str:
    """The address as it stands in the file; that of ``host-gateway`` is the loopback's, for a step is on the host's
    network. Raises ``UsageError`` for what would not be a line of its own."""
    if not name or len(name) > _MAX_NAME or any(c.isspace() or c in "#\0" for c in name):
        raise UsageError(f"{name!r} is not the name of a host")
    return _LOOPBACK if address == "host-gateway" else _address(address)


def _address(text: str, option: str = "--add-host") -> str:
    import socket

    plain = text.strip("[]")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, plain.partition("%")[0])
            return plain
        except (OSError, ValueError):
            continue
    raise UsageError(f"{option}: {text!r} is not an IP address")


def _servers(text: str) -> list[str]:
    return [server for line in text.splitlines() if (server := _server(line))]


def _server(line: str) -> str:
    words = line.split()
    return words[1] if len(words) > 1 and words[0] == "nameserver" else ""


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server in ("::1", "localhost")


def _read(path: str) -> str:
    """Empty when there is none; lines only."""
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace").replace("\0", "")
    except OSError:
        return ""
