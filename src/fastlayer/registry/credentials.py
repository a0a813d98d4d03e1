"""Credentials of a registry or a repository: finding, keeping and forgetting them.

containers-auth.json(5) with containers/image's pkg/docker/config, and docker/cli's cli/config. In each file, in order:

1. ``credHelpers`` of the registry: its entries in ``auths`` do not count then;
2. ``auths`` of the repository, its namespaces from the longest to the shortest;
3. ``credsStore``;
4. ``auths`` of the registry, also in older spellings: ``https://HOST/v1/``.

Docker Hub is ``docker.io``, and ``https://index.docker.io/v1/`` where Docker writes. An entry without a secret is none.
A helper that is not installed is told of and passed over; any other fault of one is an error. Secrets are in no
``repr``, message or warning.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError, OperandError, ReferenceFormatError, UsageError, show_path
from fastlayer.oci.reference import DEFAULT_DOMAIN, parse_reference
from fastlayer.registry import authfiles
from fastlayer.registry.authfiles import AuthFile, Contents
from fastlayer.registry.credential import Credential as Credential
from fastlayer.registry.helpers import TIMEOUT, Helper, HelperMissingError

HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_OURS = ("auth", "username", "password", "identitytoken", "registrytoken")  # of an entry
_TOKEN_USER = "<token>"  # of a helper: the secret is an identity token (docker/cli credentials/native_store.go)


class Found(NamedTuple):
    """A credential, None for none, and lines that a person should see."""

    credential: Credential | None
    warnings: tuple[str, ...] = ()


class Stored(NamedTuple):
    """Where a credential went: a file or the program of a helper, for people."""

    where: str
    warnings: tuple[str, ...] = ()


class Erased(NamedTuple):
    """What was forgotten; ``elsewhere``: the place where there still is a credential, which was left alone."""

    registries: tuple[str, ...]
    elsewhere: str = ""
    warnings: tuple[str, ...] = ()


def find_credential(
    name: str, *, authfile: str = "", environ: Mapping[str, str] | None = None, timeout: float = TIMEOUT
) -> Found:
    """The credential for ``HOST[:PORT][/REPOSITORY]``, as ``Reference.name`` has it.

    Raises ``OperandError`` for files that are malformed, ``HelperError`` for helpers that fail.
    """
    env = os.environ if environ is None else environ
    warnings: list[str] = []
    for file in authfiles.auth_files(env, authfile):
        contents = authfiles.read(file)
        if contents is None:
            continue
        if contents.warning:
            warnings.append(contents.warning)
        credential = _in_file(name, contents, file, _Helpers(env, timeout, warnings))
        if credential is not None:
            return Found(credential, tuple(warnings))
    return Found(None, tuple(warnings))


def store_credential(
    registry: str,
    credential: Credential,
    *,
    authfile: str = "",
    environ: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Stored:
    """Keeps a credential for ``HOST[:PORT][/NAMESPACE]``: with the helper that the file names, or in the file."""
    env = os.environ if environ is None else environ
    registry = registry_key(registry)
    check_credential(credential)
    file = authfiles.written_file(env, authfile)
    contents = authfiles.read(file) or Contents({}, {})
    name = _helper_for(registry, contents)
    if name:
        helper = Helper(name, env, timeout=timeout)
        token = credential.identity_token
        helper.store(_server(registry), _TOKEN_USER if token else credential.username, token or credential.password)
    entry = {} if name else _entry(credential)
    authfiles.change(file, lambda value: _put(value, registry, entry, file))
    return Stored(helper.program if name else file.shown, _after(file))


def erase_credential(
    registry: str, *, authfile: str = "", environ: Mapping[str, str] | None = None, timeout: float = TIMEOUT
) -> Erased:
    """Forgets what ``store_credential`` keeps; other files are only looked into."""
    env = os.environ if environ is None else environ
    registry = registry_key(registry)
    file = authfiles.written_file(env, authfile)
    contents = authfiles.read(file) or Contents({}, {})
    gone = False
    name = _helper_for(registry, contents)
    if name:
        gone = _forget(Helper(name, env, timeout=timeout), _servers(registry))
    if _keys_of(contents.auths, registry):
        authfiles.change(file, lambda value: _take(value, registry))
        gone = True
    elsewhere, warnings = ("", ()) if authfile else _still(registry, env, timeout)
    return Erased((registry,) if gone else (), elsewhere, warnings)


def _still(registry: str, environ: Mapping[str, str], timeout: float) -> tuple[str, tuple[str, ...]]:
    """Where there is a credential, and warnings; an error is no more than that here."""
    try:
        left = find_credential(registry, environ=environ, timeout=timeout)
    except FastlayerError as exc:
        return "", (str(exc),)
    return left.credential.source if left.credential else "", left.warnings


def erase_all(*, authfile: str = "", environ: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> Erased:
    """Forgets all credentials of the file and of the helpers that it names; which helpers those are stays."""
    env = os.environ if environ is None else environ
    file = authfiles.written_file(env, authfile)
    contents = authfiles.read(file) or Contents({}, {})
    names, warnings = dict.fromkeys(contents.auths), list[str]()
    for registry, name in contents.helpers.items():
        if name and _kept(name, [registry], env, timeout, warnings):
            names[registry] = None
    if contents.store:
        for server in _kept(contents.store, None, env, timeout, warnings):
            names[server] = None
    if contents.auths:
        authfiles.change(file, lambda value: value.update(auths={}) is None)
    return Erased(tuple(sorted({_normal(name) for name in names})), "", tuple(warnings))


def registry_key(text: str) -> str:
    """``HOST[:PORT][/NAMESPACE]`` of what a person gives to ``login``, which may be an address; docker.io for none.

    Raises ``UsageError``.
    """
    stripped = _without_scheme(text.strip())
    if stripped != text.strip():
        stripped = stripped.partition("/")[0]
    host, slash, rest = stripped.rstrip("/").partition("/")
    host = DEFAULT_DOMAIN if host in ("", *_HUB_HOSTS) else host
    if not re.fullmatch(_HOST, host, re.ASCII) or (slash and not _is_path(rest)):
        raise UsageError(f"{show_path(text[:200])}: no registry: give HOST[:PORT], or HOST[:PORT]/NAMESPACE")
    return host + slash + rest


def _is_path(text: str) -> bool:
    try:
        found = parse_reference(f"example.com/{text}")
    except ReferenceFormatError:
        return False
    return not (found.tag or found.digest)


class _Helpers(NamedTuple):
    """What running helpers needs."""

    environ: Mapping[str, str]
    timeout: float
    warnings: list[str]

    def get(self, name: str, registry: str) -> Credential | None:
        helper = Helper(name, self.environ, timeout=self.timeout)
        try:
            for server in _servers(registry):
                found = helper.get(server)
                if found is not None:
                    return _of_helper(*found, helper.program)
        except HelperMissingError as exc:
            self.warnings.append(str(exc))
        return None


def _in_file(name: str, contents: Contents, file: AuthFile, helpers: _Helpers) -> Credential | None:
    host = name.partition("/")[0]
    special = _special_helper(host, contents)
    if special:
        return helpers.get(special, host)
    for key in _namespaces(name):
        credential = _read_entry(contents.auths.get(key), key, file)
        if credential is not None:
            return credential
    if contents.store:
        credential = helpers.get(contents.store, host)
        if credential is not None:
            return credential
    return _of_host(host, contents, file)


def _namespaces(name: str) -> list[str]:
    """``h/a/b``, ``h/a`` of ``h/a/b``; not the host."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 1, -1)]


def _of_host(host: str, contents: Contents, file: AuthFile) -> Credential | None:
    for key in sorted(_keys_of(contents.auths, host), key=lambda key: key != host):
        credential = _read_entry(contents.auths[key], key, file)
        if credential is not None:
            return credential
    return None


def _keys_of(auths: Mapping[str, Any], registry: str) -> list[str]:
    """The keys that mean a registry, as they are."""
    wanted = _normal(registry)
    return [key for key in auths if key == registry or _normal(key) == wanted]


def _normal(key: str) -> str:
    """A key without scheme; with one, the path is no namespace but of the interface (``/v1/``)."""
    stripped = _without_scheme(key)
    if stripped != key:
        stripped = stripped.partition("/")[0]
    return DEFAULT_DOMAIN if stripped in _HUB_HOSTS else stripped


def _without_scheme(text: str) -> str:
    return text.removeprefix("https://") if text.startswith("https://") else text.removeprefix("http://")


def _special_helper(host: str, contents: Contents) -> str:
    """Of ``credHelpers``, empty for none."""
    return next((name for key, name in contents.helpers.items() if name and _normal(key) == _normal(host)), "")


def _helper_for(registry: str, contents: Contents) -> str:
    """What ``login`` uses: helpers know no namespaces, so those stay in the file."""
    return "" if "/" in registry else _special_helper(registry, contents) or contents.store


def _server(registry: str) -> str:
    """How a helper calls the registry."""
    return HUB_KEY if registry == DEFAULT_DOMAIN else registry


def _servers(registry: str) -> list[str]:
    return [HUB_KEY, DEFAULT_DOMAIN] if registry in _HUB_HOSTS else [registry]


def _of_helper(user: str, secret: str, program: str) -> Credential:
    if user == _TOKEN_USER:
        return Credential(identity_token=secret, source=program)
    return Credential(user, secret, source=program)


def _read_entry(entry: Any, key: str, file: AuthFile) -> Credential | None:
    """An entry of ``auths``, None for one without a secret."""
    if entry is None:
        return None
    what = f"{file.shown}: {show_path(key)}"
    if not isinstance(entry, dict) or not all(isinstance(entry.get(word) or "", str) for word in _OURS):
        raise OperandError(f"{what}: no entry with texts: log in again")
    auth, user, password, identity, registry = (entry.get(word) or "" for word in _OURS)
    if auth:
        user, password = _decode(auth, what)
    if not (password or identity or registry):
        return None
    return Credential(user, password, identity, registry, file.shown)


def _decode(auth: str, what: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(auth.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise OperandError(f"{what}: its auth is no base64 of USER:PASSWORD: log in again") from None
    user, colon, password = text.partition(":")
    if not colon:
        raise OperandError(f"{what}: its auth has no colon between user and password: log in again")
    return user, password.strip("\0")


def check_credential(credential: Credential) -> None:
    """Whether it can be kept, and sent. Raises ``UsageError``."""
    if ":" in credential.username:
        raise UsageError("a user name with a colon cannot be sent to a registry: give another")
    if not (credential.password or credential.identity_token):
        raise UsageError("an empty password: give one")
    if any("\0" in text or not _is_text(text) for text in credential):
        raise UsageError("a user name or password that is no UTF-8 text without NUL: give another")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entry(credential: Credential) -> dict[str, str]:
    pair = f"{credential.username}:{credential.password}".encode()
    entry = {"auth": base64.b64encode(pair).decode()}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    return entry


def _put(value: dict[str, Any], registry: str, entry: dict[str, str], file: AuthFile) -> bool:
    """An entry, under the key that the file has for the registry, or that its readers look for."""
    auths = value.get("auths")
    if auths is None:
        auths = value["auths"] = {}
    known = _keys_of(auths, registry)
    docker = os.path.basename(file.path) == "config.json" and registry == DEFAULT_DOMAIN
    key = known[0] if known else HUB_KEY if docker else registry
    old = auths.get(key)
    kept = {word: one for word, one in old.items() if word not in _OURS} if isinstance(old, dict) else {}
    for other in known[1:]:
        del auths[other]
    auths[key] = {**entry, **kept}
    return True


def _take(value: dict[str, Any], registry: str) -> bool:
    auths = value.get("auths") or {}
    for key in _keys_of(auths, registry):
        del auths[key]
    return True


def _forget(helper: Helper, servers: list[str]) -> bool:
    gone = [helper.erase(server) for server in servers]  # of all: a helper may have both spellings
    return any(gone)


def _kept(
    name: str, servers: list[str] | None, environ: Mapping[str, str], timeout: float, warnings: list[str]
) -> list[str]:
    """What a helper had of the servers, all for None, and has no more."""
    helper = Helper(name, environ, timeout=timeout)
    try:
        wanted = list(helper.servers()) if servers is None else servers
        return [server for server in wanted if _forget(helper, [server] if servers is None else _servers(server))]
    except HelperMissingError as exc:
        warnings.append(str(exc))
        return []


def _after(file: AuthFile) -> tuple[str, ...]:
    """What is to say of the file that was written."""
    contents = authfiles.read(file)
    return (contents.warning,) if contents and contents.warning else ()
