"""Certificates that are set up for a registry: ``certs.d/HOST[:PORT]``.

containers-certs.d(5), containers/image's pkg/tlsclientconfig, and docs.docker.com "Verify repository client with
certificates": ``*.crt`` are authorities, ``NAME.cert`` with ``NAME.key`` a client's certificate. The first directory
that is there counts, for podman and skopeo as here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, show_path
from fastlayer.registry.authfiles import config_home

_ETC = Path("/etc")
HUB_NAMES = {"registry-1.docker.io": "docker.io"}  # what answers -> how people call it


class Certificates(NamedTuple):
    """Paths of PEM files: authorities, and pairs of a client's certificate and key."""

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()


def find_certificates(
    host: str, *, cert_dir: str = "", environ: Mapping[str, str] | None = None, etc: Path = _ETC
) -> Certificates:
    """What there is for ``HOST[:PORT]``; ``cert_dir``: the directory that ``--cert-dir`` names, instead of all others.

    Raises ``OperandError`` for a certificate without a key, a key without a certificate.
    """
    if cert_dir:
        found = _in_directory(Path(cert_dir))
        if found is None:
            _refuse(Path(cert_dir), "no such directory: give one with *.crt, *.cert and *.key")
        return found
    if not host or "/" in host or host.startswith("."):
        return Certificates()
    for directory in _directories(os.environ if environ is None else environ, etc):
        for name in (host, HUB_NAMES.get(host, host)):
            found = _in_directory(directory / name)
            if found is not None:
                return found
    return Certificates()


def _directories(environ: Mapping[str, str], etc: Path) -> list[Path]:
    return [
        Path(config_home(environ)) / "containers" / "certs.d",
        etc / "containers" / "certs.d",
        etc / "docker" / "certs.d",
    ]


def _in_directory(directory: Path) -> Certificates | None:
    """None where there is no directory, or it is somebody else's."""
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:  # as containers/image: what others keep there is not for us
        return None
    except OSError as exc:
        _refuse(directory, f"cannot be read: {exc.strerror}")
    there = set(names)
    clients = []
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if dot and ending == "cert":
            if f"{stem}.key" not in there:
                _refuse(directory / name, f"has no key: put {show_path(stem)}.key beside it")
            clients.append((os.fspath(directory / name), os.fspath(directory / f"{stem}.key")))
        elif dot and ending == "key" and f"{stem}.cert" not in there:
            _refuse(directory / name, f"has no certificate: put {show_path(stem)}.cert beside it (not .crt)")
    authorities = tuple(os.fspath(directory / name) for name in names if name.endswith(".crt"))
    return Certificates(authorities, tuple(clients))


def _refuse(path: Path, why: str) -> NoReturn:
    raise OperandError(f"{show_path(os.fspath(path))}: {why}")
