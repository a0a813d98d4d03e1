"""Which registry is asked for an image: mirrors, other locations, insecure and blocked ones.

containers-registries.conf(5) version 2, containers-registries.conf.d(5) with containers/image's pkg/sysregistriesv2,
and ``registry-mirrors`` and ``insecure-registries`` of Docker's ``daemon.json`` (docs.docker.com, dockerd; moby's
daemon/pkg/registry). A bare name is Docker Hub's, whatever ``unqualified-search-registries`` says; aliases are not
read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, cast
from urllib.parse import urlsplit

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError, OperandError, ReferenceFormatError, show_path
from fastlayer.oci import jsontext
from fastlayer.oci.reference import DEFAULT_DOMAIN, Reference, parse_reference
from fastlayer.registry.authfiles import config_home

Which = Literal["all", "digest-only", "tag-only"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HUB_HOST = "registry-1.docker.io"  # what answers for docker.io
_ETC = Path("/etc")
_MAX_FILE = 4 << 20  # bytes
_LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_WHICH = ("all", "digest-only", "tag-only")
_V1 = "registries"  # the table of version 1


class Mirror(NamedTuple):
    """``[[registry.mirror]]``. ``scheme``: empty, or that of an address in ``daemon.json``."""

    location: str
    insecure: bool = False
    which: Which = "all"
    scheme: str = ""


class Registry(NamedTuple):
    """``[[registry]]``: what it says of names that begin with ``prefix``. ``source``: its file."""

    prefix: str
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    by_digest_only: bool = False
    mirrors: tuple[Mirror, ...] = ()
    source: str = ""


class DockerSettings(NamedTuple):
    """Of ``daemon.json``: mirrors of Docker Hub, and registries that may be reached by plain HTTP."""

    mirrors: tuple[Mirror, ...] = ()
    insecure_hosts: tuple[str, ...] = ()
    insecure_networks: tuple[Network, ...] = ()


class Settings(NamedTuple):
    """All of it. ``search``: ``unqualified-search-registries``, for people only."""

    registries: tuple[Registry, ...] = ()
    docker: DockerSettings = DockerSettings()
    search: tuple[str, ...] = ()


class Location(NamedTuple):
    """Where to ask. ``reference``: the name there; ``insecure``: a certificate that nobody vouches for, and plain HTTP,
    are good enough; ``scheme``: the only one to use, empty for https, then http where insecure; ``named``: the registry
    that was asked for, where settings have another in its place."""

    reference: Reference
    insecure: bool = False
    mirror: bool = False
    scheme: str = ""
    named: str = ""

    @property
    def host(self) -> str:
        """``HOST[:PORT]`` to connect to."""
        return HUB_HOST if self.reference.domain == DEFAULT_DOMAIN else self.reference.domain


def read_settings(environ: Mapping[str, str] | None = None, *, etc: Path = _ETC) -> Settings:
    """What is set up on this machine and for this user. Raises ``OperandError``, one line that names the file.

    ``CONTAINERS_REGISTRIES_CONF`` names the main file; else it is the user's where there is one, else the system's.
    Then ``registries.conf.d`` of the system, unless the user's file is taken, and of the user, by name; what a later
    file says of a prefix counts.
    """
    env = os.environ if environ is None else environ
    found: dict[str, Registry] = {}
    search: tuple[str, ...] = ()
    for path in _files(env, etc):
        value = _toml(path)
        if value is None:
            continue
        found |= _registries(value, show_path(os.fspath(path)))
        if "unqualified-search-registries" in value:
            search = _texts(value, "unqualified-search-registries", show_path(os.fspath(path)))
    return Settings(tuple(found.values()), _docker(etc / "docker" / "daemon.json"), search)


def pull_locations(settings: Settings, reference: Reference) -> tuple[Location, ...]:
    """Where to look for an image, in order: mirrors, then the registry itself.

    Raises ``OperandError`` for a registry that is blocked, or a name that its settings make of the image that is none.
    """
    registry = find_registry(settings, str(reference))
    if registry is None:
        return (*_hub_mirrors(settings, reference), _own(settings, reference))
    _check_blocked(registry, reference)
    found = []
    for mirror in registry.mirrors:
        if _serves(mirror, registry, reference):
            there = _rewritten(reference, registry, mirror.location)
            insecure = mirror.insecure or _is_insecure(settings, there.domain)
            found.append(Location(there, insecure, True))
    if not registry.mirrors:
        found += _hub_mirrors(settings, reference)
    there = _rewritten(reference, registry, registry.location)
    insecure = registry.insecure or _is_insecure(settings, there.domain)
    return (*found, Location(there, insecure, named=reference.domain))


def push_location(settings: Settings, reference: Reference) -> Location:
    """Where an image goes: never to a mirror or another location, as registries.conf(5) says. Raises as above."""
    registry = find_registry(settings, str(reference))
    if registry is None:
        return _own(settings, reference)
    _check_blocked(registry, reference)
    return Location(reference, registry.insecure or _is_insecure(settings, reference.domain))


def find_registry(settings: Settings, name: str) -> Registry | None:
    """That of the longest prefix."""
    fitting = [registry for registry in settings.registries if _matched(name, registry.prefix) >= 0]
    return max(fitting, key=lambda registry: len(registry.prefix), default=None)


def _matched(name: str, prefix: str) -> int:
    """Characters of a name that a prefix covers, -1 for none. A host without a port is not that with one."""
    if prefix.startswith("*."):
        host = re.match(r"(?:\[[^]]*\]|[^/:@])*", name)
        end = host.end() if host else 0
        return end if name[:end].endswith(prefix[1:]) and end > len(prefix) - 1 else -1
    if not name.startswith(prefix):
        return -1
    following = name[len(prefix) : len(prefix) + 1]
    allowed = ("", "/", "@", ":") if "/" in prefix else ("", "/", "@")
    return len(prefix) if following in allowed else -1


def _rewritten(reference: Reference, registry: Registry, location: str) -> Reference:
    """The name with the location in the place of the prefix."""
    if not location or location == registry.prefix:
        return reference
    text = str(reference)
    made = location + text[_matched(text, registry.prefix) :]
    try:
        return parse_reference(made)
    except ReferenceFormatError:
        _refuse(registry.source, f"{show_path(location)} makes {show_path(made)} of {text}: no image name: mend it")


def _serves(mirror: Mirror, registry: Registry, reference: Reference) -> bool:
    which = "digest-only" if registry.by_digest_only else mirror.which
    return which == "all" or (which == "digest-only") == bool(reference.digest)


def _check_blocked(registry: Registry, reference: Reference) -> None:
    if registry.blocked:
        _refuse(registry.source, f"{reference.familiar_name}: is blocked (prefix {registry.prefix}): use another image")


def _own(settings: Settings, reference: Reference) -> Location:
    return Location(reference, _is_insecure(settings, reference.domain))


def _hub_mirrors(settings: Settings, reference: Reference) -> list[Location]:
    """Docker has mirrors for Docker Hub only."""
    if reference.domain != DEFAULT_DOMAIN:
        return []
    return [
        Location(
            reference._replace(domain=mirror.location), _is_insecure(settings, mirror.location), True, mirror.scheme
        )
        for mirror in settings.docker.mirrors
    ]


def _is_insecure(settings: Settings, host: str) -> bool:
    """As Docker has it: listed ones, and this machine. A name is not looked up for its address."""
    docker = settings.docker
    bare = host.rpartition(":")[0] if re.search(r":[0-9]+\Z", host) and not host.endswith("]") else host
    if bare == "localhost" or host in docker.insecure_hosts:
        return True
    try:
        address = ipaddress.ip_address(bare.strip("[]"))
    except ValueError:
        return False
    return any(address in network for network in (*_LOOPBACK, *docker.insecure_networks))


def _files(environ: Mapping[str, str], etc: Path) -> list[Path]:
    own, system = Path(config_home(environ)) / "containers", etc / "containers"
    named = environ.get("CONTAINERS_REGISTRIES_CONF")
    user = own / "registries.conf"
    main = Path(named) if named else user if user.exists() else system / "registries.conf"
    if named and not main.exists():
        _refuse(show_path(named), "no such file: mend CONTAINERS_REGISTRIES_CONF")
    if not named and main == user:  # as containers/image has it: then the system's do not count
        return [main, *_dropped(own)]
    return [main, *_dropped(system), *_dropped(own)]


def _dropped(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in (directory / "registries.conf.d").iterdir() if path.name.endswith(".conf"))
    except OSError:
        return []


def _data(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        _refuse(show_path(os.fspath(path)), f"cannot be read: {exc.strerror}")
    if len(data) > _MAX_FILE:
        _refuse(show_path(os.fspath(path)), f"has more than {_MAX_FILE} bytes: give a smaller file")
    return data


def _toml(path: Path) -> dict[str, Any] | None:
    data = _data(path)
    if data is None:
        return None
    import tomllib  # most machines have no such file

    what = show_path(os.fspath(path))
    try:
        value = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        _refuse(what, "is not UTF-8 text")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        _refuse(what, f"is not valid TOML: {str(exc).splitlines()[0][:200]}")
    if _V1 in value:
        _refuse(what, "is of version 1: write [[registry]] tables, see containers-registries.conf(5)")
    return value


def _registries(value: dict[str, Any], what: str) -> dict[str, Registry]:
    found: dict[str, Registry] = {}
    for table in _tables(value, "registry", what):
        one = _registry(table, what)
        if found.setdefault(one.prefix, one) != one:
            _refuse(what, f"prefix {show_path(one.prefix)} has two [[registry]] tables that differ: leave one")
    return found


def _registry(table: dict[str, Any], what: str) -> Registry:
    location = _location(table, what)
    prefix = _text(table, "prefix", what).rstrip("/") or location
    if not prefix:
        _refuse(what, "a [[registry]] without prefix and location: give one")
    _check_prefix(prefix, location, what)
    by_digest = _truth(table, "mirror-by-digest-only", what)
    mirrors = tuple(_mirror(one, by_digest, what) for one in _tables(table, "mirror", what))
    insecure, blocked = _truth(table, "insecure", what), _truth(table, "blocked", what)
    return Registry(prefix, location or ("" if "*" in prefix else prefix), insecure, blocked, by_digest, mirrors, what)


def _check_prefix(prefix: str, location: str, what: str) -> None:
    name = prefix.removeprefix("*.")
    wildcard = name != prefix
    if "*" in name or (wildcard and (set(name) & set("/:@") or not name)) or not _is_plain(name):
        _refuse(what, f"prefix {show_path(prefix)}: give HOST[:PORT][/NAMESPACE], or *.DOMAIN")
    if "*" in location:
        _refuse(what, f"location {show_path(location)}: a wildcard is for prefixes only: give HOST[:PORT][/NAMESPACE]")


def _mirror(table: dict[str, Any], by_digest: bool, what: str) -> Mirror:
    location = _location(table, what)
    if not location:
        _refuse(what, "a [[registry.mirror]] without location: give HOST[:PORT][/NAMESPACE]")
    which = _text(table, "pull-from-mirror", what)
    if which and by_digest:
        _refuse(what, "pull-from-mirror beside mirror-by-digest-only: leave one out")
    if which and which not in _WHICH:
        _refuse(what, f"pull-from-mirror {show_path(which)}: give one of {', '.join(_WHICH)}")
    return Mirror(location, _truth(table, "insecure", what), cast(Which, which or "all"))


def _location(table: dict[str, Any], what: str) -> str:
    text = _text(table, "location", what).rstrip("/")
    if text.startswith(("http://", "https://")):
        _refuse(what, f"location {show_path(text)}: leave out the scheme, and say insecure = true for http")
    if text and "*" not in text and not _is_plain(text):
        _refuse(what, f"location {show_path(text)}: give HOST[:PORT][/NAMESPACE]")
    return text


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & set(" \\?#'\"") and "://" not in text


def _docker(path: Path) -> DockerSettings:
    data = _data(path)
    if data is None or not data.strip():
        return DockerSettings()
    what = show_path(os.fspath(path))
    try:
        value = jsontext.parse_object(data, what, _MAX_FILE)
        mirrors = jsontext.texts(value, "registry-mirrors", what)
        insecure = jsontext.texts(value, "insecure-registries", what)
    except FastlayerError as exc:
        raise OperandError(str(exc)) from None
    hosts, networks = [], []
    for text in insecure:
        network = _network(text)
        if network is not None:
            networks.append(network)
        else:
            hosts.append(_insecure_host(text, what))
    return DockerSettings(tuple(_docker_mirror(text, what) for text in mirrors), tuple(hosts), tuple(networks))


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _insecure_host(text: str, what: str) -> str:
    host = text.removeprefix("http://").removeprefix("https://").rstrip("/")
    if not host or "/" in host or not _is_plain(host):
        _refuse(what, f"insecure-registries: {show_path(text)}: give HOST[:PORT] or a network")
    return host


def _docker_mirror(text: str, what: str) -> Mirror:
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fine = False
    if not fine or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        _refuse(what, "registry-mirrors: an entry that is no address of a registry: give https://HOST[:PORT]")
    return Mirror(parts.netloc, parts.scheme == "http", "all", parts.scheme)


def _text(table: dict[str, Any], key: str, what: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        _refuse(what, f"{key}: is no text")
    return value


def _truth(table: dict[str, Any], key: str, what: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        _refuse(what, f"{key}: is neither true nor false")
    return value


def _texts(table: dict[str, Any], key: str, what: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        _refuse(what, f"{key}: is no array of texts")
    return tuple(value)


def _tables(table: dict[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        _refuse(what, f"{key}: write it as [[{key}]] tables")
    return value


def _refuse(what: str, why: str) -> NoReturn:
    raise OperandError(f"{what}: {why}")
