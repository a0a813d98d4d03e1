"""Logging in to a registry and out of it: a login is asked of the registry before it is kept.

What is kept is an identity token where the registry's token server gives one, as ``docker login`` has it, and the
password where it gives none. ``registry`` is ``HOST[:PORT]``, which is what most people log in to, or
``HOST[:PORT]/NAMESPACE`` for a login of a part of it, as in podman.
"""

from __future__ import annotations

from collections.abc import Callable

from fastlayer._checked import secret, text
from fastlayer._values import NamedTuple
from fastlayer.errors import OperandError, RegistryDeniedError, show_path
from fastlayer.oci.reference import Reference
from fastlayer.registry.credential import Credential
from fastlayer.registry.credentials import (
    Erased,
    check_credential,
    erase_all,
    erase_credential,
    find_credential,
    registry_key,
    store_credential,
)
from fastlayer.registry.opening import Wishes, destination, opened_registry
from fastlayer.registry.problems import without_advice

_ANY = "login"  # stands for a repository where a login is for all of them; nothing is asked of it
_HELPER = "docker-credential-"


class LoggedIn(NamedTuple):
    """A login that is kept. ``where``: the file, or the program of a helper; ``checked``: whether the registry wanted
    to know who we are; ``by_token``: an identity token was kept instead of the password."""

    registry: str
    username: str
    where: str
    checked: bool
    by_token: bool
    warnings: tuple[str, ...] = ()


def login(
    registry: str = "",
    username: str = "",
    password: str = "",
    *,
    authfile: str = "",
    cert_dir: str = "",
    tls_verify: bool | None = None,
) -> LoggedIn:
    """Logs in to ``registry``, Docker Hub by default, and keeps the login for those who come later.

    ``authfile``: where it is kept, instead of the file or the helper that is set up; ``cert_dir``: certificates for the
    registry; ``tls_verify``: whether they are looked at, and plain HTTP is refused. Raises ``RegistryDeniedError`` for
    a login that the registry does not take, ``RegistryError``, ``OperandError``, ``UsageError``.
    """
    wishes = Wishes(authfile=authfile, cert_dir=cert_dir, verify=tls_verify)
    login = Credential(text("username", username), secret("password", password))
    return log_in(text("registry", registry), login, wishes)


def logout(registry: str = "", *, authfile: str = "") -> Erased:
    """Forgets the login for ``registry``, Docker Hub by default. Raises ``OperandError`` where there was none."""
    return log_out(text("registry", registry), Wishes(authfile=authfile))


def log_in(registry: str, credential: Credential, wishes: Wishes) -> LoggedIn:
    """See ``login``."""
    key = registry_key(registry)
    check_credential(credential)  # without a password we would be somebody else: nobody
    warnings: list[str] = []
    token, checked = ask(key, credential, wishes, warnings.append)
    kept = Credential(credential.username, identity_token=token) if token else credential
    stored = store_credential(key, kept, authfile=wishes.authfile, environ=wishes.environment)
    warnings += stored.warnings
    if not checked:
        warnings.append(f"{key}: lets everybody in: whether the login is right is not known")
    if not stored.where.startswith(_HELPER):
        what = "token" if token else "password"
        warnings.append(
            f"{stored.where}: keeps the {what} unencrypted: set up a credential helper there (credHelpers, credsStore)"
        )
    return LoggedIn(key, credential.username, stored.where, checked, bool(token), tuple(dict.fromkeys(warnings)))


def ask(
    key: str, credential: Credential, wishes: Wishes, warn: Callable[[str], object] = lambda line: None
) -> tuple[str, bool]:
    """The identity token that the registry gives for a login, or nothing, and whether it asked for the login at all.

    Raises ``RegistryError``; it is a ``RegistryDeniedError`` when the login is wrong.
    """
    asked: list[bool] = []

    def credentials() -> Credential:
        asked.append(True)
        return credential

    host, _, path = key.partition("/")
    location = destination(Reference(host, path or _ANY), wishes)
    with opened_registry(location, wishes, warn=warn, credentials=credentials, offline=True) as registry:
        try:
            registry.ping()
        except RegistryDeniedError as exc:
            raise _refused(key, credential, exc) from None
        return registry.tokens.identity_token, bool(asked)


def _refused(key: str, credential: Credential, error: RegistryDeniedError) -> RegistryDeniedError:
    """Without the advice to log in."""
    who = f" of {show_path(credential.username)}" if credential.username else ""
    words = without_advice(str(error))
    return RegistryDeniedError(
        f"{key}: does not take the login{who} ({words}): see how name and password are spelt, or what replaces them",
        status=error.status,
        code=error.code,
        headers=error.headers,
    )


def kept_login(registry: str, wishes: Wishes, warn: Callable[[str], object] = lambda line: None) -> Credential | None:
    """The login that is used for a registry now."""
    found = find_credential(registry_key(registry), authfile=wishes.authfile, environ=wishes.environment)
    for line in found.warnings:
        warn(line)
    return found.credential


def is_kept(registry: str, wishes: Wishes, warn: Callable[[str], object] = lambda line: None) -> Credential | None:
    """The login that is kept, if the registry still takes it."""
    known = kept_login(registry, wishes, warn)
    if known is None:
        return None
    try:
        ask(registry_key(registry), known, wishes, warn)
    except RegistryDeniedError:
        return None
    return known


def log_out(registry: str, wishes: Wishes) -> Erased:
    """See ``logout``."""
    key = registry_key(registry)
    gone = erase_credential(key, authfile=wishes.authfile, environ=wishes.environment)
    if gone.registries:
        return gone
    if gone.elsewhere:
        raise OperandError(
            f"{key}: the login is kept by {gone.elsewhere}, which is somebody else's: "
            "log out with the program that wrote it, or name the file with --authfile"
        )
    raise OperandError(f"{key}: not logged in: see `fastlayer login --get-login {key}`")


def log_out_of_all(wishes: Wishes) -> Erased:
    """Forgets all logins of the file that is written to, and of the helpers that it names."""
    return erase_all(authfile=wishes.authfile, environ=wishes.environment)
