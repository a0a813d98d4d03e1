"""Where an address leads: origins (RFC 6454), loopback, what may be reached without TLS, where a redirect goes."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from fastlayer._values import NamedTuple
from fastlayer.errors import RegistryError
from fastlayer.registry.lines import shown_url

_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~|^`{}<>\"\\"  # what addresses have, or should not have but do
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """What credentials are bound to. ``host`` in lower case, without brackets."""

    scheme: str
    host: str
    port: int


def origin_of(url: str) -> Origin:
    """Raises ``RegistryError`` for what is no http(s) address."""
    parts = _split(url)
    scheme = parts.scheme.lower()
    return Origin(scheme, (parts.hostname or "").lower(), parts.port or _PORTS[scheme])


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme.lower() in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise RegistryError(f"{shown_url(url)}: not an http or https address: see what the registry is called")
    return parts


def is_loopback(host: str) -> bool:
    """``localhost`` and the addresses of this machine itself: nobody listens on the way to them."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_tls(url: str, insecure: bool) -> None:
    """Raises ``RegistryError`` for plain HTTP to another machine, unless ``insecure``."""
    origin = origin_of(url)
    if origin.scheme == "http" and not insecure and not is_loopback(origin.host):
        raise RegistryError(
            f"{shown_url(url)}: plain HTTP, which anybody on the way can read and change: use https, or make the"
            " registry known as insecure"
        )


def follow(url: str, location: str) -> str:
    """The address that ``Location`` names, absolute, without a fragment or a login.

    Registries behind a proxy that ends TLS name themselves with ``http:``: the same host stays at https.
    """
    try:
        target = urlsplit(urljoin(url, quote(location.strip().encode("latin-1", "replace"), safe=_AS_IT_IS)))
        base = urlsplit(url)
        netloc = target.netloc.rpartition("@")[2]
        scheme = target.scheme
        if (base.scheme, scheme) == ("https", "http") and target.hostname == base.hostname and target.port is None:
            scheme, netloc = "https", base.netloc.rpartition("@")[2]
        found = urlunsplit((scheme, netloc, target.path, target.query, ""))
    except ValueError:
        raise RegistryError(f"{shown_url(url)}: sends us to no address: see whether it is a registry") from None
    origin_of(found)
    return found


def with_query(url: str, query: str) -> str:
    """The address with more parameters; those that it has are kept as they are (distribution-spec: opaque)."""
    parts = _split(url)
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))
