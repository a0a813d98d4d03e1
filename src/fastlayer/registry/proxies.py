"""Proxies as the environment names them: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, in capitals or not.

The rules of NO_PROXY are those of Go's ``golang.org/x/net/http/httpproxy``, which all container tools go by: names
stand for what is below them too, addresses and networks for what is in them, ``*`` for everything, each may have a
port; this machine itself is never reached through a proxy. ALL_PROXY is curl's: for what has no proxy of its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from fastlayer.registry.origins import Origin, is_loopback, origin_of

_MANY = 1000  # entries of NO_PROXY


def proxy_for(url: str, environ: Mapping[str, str]) -> str:
    """The address of the proxy for ``url``; empty for none."""
    origin = origin_of(url)
    if is_loopback(origin.host):
        return ""
    proxy = _variable(environ, f"{origin.scheme}_proxy") or _variable(environ, "all_proxy")
    if not proxy or _excepted(origin, _variable(environ, "no_proxy")):
        return ""
    return proxy if "://" in proxy else "http://" + proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    if name == "http_proxy" and environ.get("REQUEST_METHOD"):  # CGI: the header `Proxy` of a request (httpoxy)
        return environ.get(name, "").strip()
    return (environ.get(name.upper()) or environ.get(name) or "").strip()


def _excepted(origin: Origin, text: str) -> bool:
    return any(_covers(entry.strip().lower(), origin) for entry in text.split(",")[:_MANY])


def _covers(entry: str, origin: Origin) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    if "/" in entry:
        return _in_network(origin.host, entry)
    host, port = _host_and_port(entry)
    if port and port != str(origin.port):
        return False
    host = host.removeprefix("*")
    return _same_address(host, origin.host) or _below(host, origin.host)


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host, port
    return entry, ""


def _below(name: str, host: str) -> bool:
    """``example.com`` covers itself and what is below it, ``.example.com`` only what is below it."""
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith("." + name)


def _same_address(text: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(text) == ipaddress.ip_address(host)
    except ValueError:
        return False


def _in_network(host: str, text: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
