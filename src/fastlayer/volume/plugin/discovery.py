"""Where plugins are: sockets, ``.spec`` and ``.json`` files (docs.docker.com/engine/extend/plugin_api, "discovery").

``NAME.sock`` or ``NAME/NAME.sock`` in the socket directory; then ``NAME.spec`` and ``NAME.json`` in the two others, or
in ``NAME`` there, in Docker's order. A ``.spec`` file has one address; a ``.json`` file an object
``{"Name", "Addr", "TLSConfig"}``.
``FASTLAYER_PLUGIN_PATH`` (directories separated by colons) replaces all three: each is looked into for all of these.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from fastlayer._values import NamedTuple
from fastlayer.errors import DriverError, FastlayerError, show_path
from fastlayer.oci import jsontext

SOCKETS = Path("/run/docker/plugins")
SPECS = (Path("/etc/docker/plugins"), Path("/usr/lib/docker/plugins"))
_MAX_FILE = 64 << 10  # bytes
_SCHEMES = ("unix", "tcp", "http", "https")


class TlsFiles(NamedTuple):
    """Certificates of a plugin that is reached by TLS; paths, empty for none."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    insecure: bool = False


class Plugin(NamedTuple):
    """A plugin that may be there. ``address``: the path of a unix socket, or ``HOST:PORT``."""

    name: str
    scheme: str
    address: str
    tls: TlsFiles | None = None

    def __str__(self) -> str:
        return f"plugin {self.name} ({self.scheme}://{show_path(self.address)})"


def places() -> list[Path]:
    """The directories that are looked into."""
    named = os.environ.get("FASTLAYER_PLUGIN_PATH")
    if named:
        return [Path(part) for part in named.split(":") if part]
    return [SOCKETS, *SPECS]


def find(name: str) -> Plugin | None:
    """The plugin of that name. Raises ``DriverError`` for a file that describes none."""
    custom = bool(os.environ.get("FASTLAYER_PLUGIN_PATH"))
    directories = places()
    for directory in directories if custom else [SOCKETS]:
        for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
            if _is_socket(path):
                return Plugin(name, "unix", os.fspath(path))
    for directory in directories if custom else SPECS:
        for ending in ("spec", "json"):
            for path in (directory / f"{name}.{ending}", directory / name / f"{name}.{ending}"):
                data = _read(path)
                if data is not None:
                    return _described(name, path, data)
    return None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _read(path: Path) -> bytes | None:
    """A plain file; None when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DriverError(f"{show_path(os.fspath(path))}: cannot be read: {exc.strerror}") from exc
    with open(fd, "rb") as file:
        data = file.read(_MAX_FILE + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b"\0" * (_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise DriverError(f"{show_path(os.fspath(path))}: describes no plugin: it is no small plain file")
    return data


def _described(name: str, path: Path, data: bytes) -> Plugin:
    what = show_path(os.fspath(path))
    if path.suffix == ".spec":
        return _at(name, data.decode("utf-8", "replace").strip(), what, None)
    try:
        value = jsontext.parse_object(data, what, _MAX_FILE)
    except FastlayerError as exc:
        raise DriverError(f"{exc}: describe the plugin with Name and Addr") from exc
    address, tls = value.get("Addr"), value.get("TLSConfig")
    if not isinstance(address, str) or (tls is not None and not isinstance(tls, dict)):
        raise DriverError(f"{what}: describes no plugin: give Addr, a text, and TLSConfig, if any, an object")
    files = None
    if tls is not None:
        ca, certificate, key = (tls.get(word, "") for word in ("CAFile", "CertFile", "KeyFile"))
        if not all(isinstance(text, str) for text in (ca, certificate, key)):
            raise DriverError(f"{what}: CAFile, CertFile and KeyFile of TLSConfig are names of files")
        files = TlsFiles(ca, certificate, key, tls.get("InsecureSkipVerify") is True)
    return _at(name, address, what, files)


def _at(name: str, text: str, what: str, tls: TlsFiles | None) -> Plugin:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in _SCHEMES or not text.isprintable():
        raise DriverError(
            f"{what}: {show_path(text[:200])}: no address: give unix:///PATH, tcp://HOST:PORT or https://..."
        )
    if parts.scheme == "unix":
        if not os.path.isabs(parts.path):
            raise DriverError(f"{what}: {show_path(text[:200])}: give the absolute path of the socket")
        return Plugin(name, "unix", parts.path)
    if not parts.hostname:
        raise DriverError(f"{what}: {show_path(text[:200])}: names no host")
    secure = parts.scheme == "https" or (parts.scheme == "tcp" and tls is not None)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = 443 if secure else 80
    return Plugin(
        name, "https" if secure else "http", f"{host}:{port or default}", (tls or TlsFiles()) if secure else None
    )
