"""What verbs that talk to registries have in common: their options, and what is wished by them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.cli import options
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.registry.credential import Credential
    from fastlayer.registry.opening import Wishes

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("authfile", "cert_dir", "creds", "tls_verify", "retry_times")  # of the options, as verbs get them


def registry_options(function: F) -> F:
    """--creds and the ``connection_options``; spelled as skopeo and podman do."""
    function = declare.option(
        "--creds",
        metavar="USER[:PASSWORD]",
        help="The login for the registry alone. PASSWORD is seen by others in ps: without it a terminal is asked.",
    )(function)
    return connection_options(function)


def connection_options(function: F) -> F:
    """--authfile, --cert-dir, --tls-verify, --retry-times."""
    for option in (
        declare.option(
            "--retry-times",
            type=declare.IntRange(min=0),
            metavar="N",
            help="How often what fails for a moment is tried again (default: 5).",
        ),
        declare.option(
            "--tls-verify",
            type=declare.BOOL,
            metavar="BOOL",
            help="Whether certificates are looked at, and plain HTTP is refused (default: as registries.conf says).",
        ),
        declare.option(
            "--cert-dir",
            type=options.WORD,
            metavar="DIR",
            help="Where the certificates for the registry are (default: certs.d).",
        ),
        authfile_option,
    ):
        function = option(function)
    return function


SIDES = ("src", "dest")


def two_registries_options(function: F) -> F:
    """--src-creds, --dest-creds and their like, and --authfile and --retry-times for both; as skopeo copy has them."""
    for side in reversed(SIDES):
        what = "source" if side == "src" else "destination"
        for option in (
            declare.option(
                f"--{side}-tls-verify", type=declare.BOOL, metavar="BOOL", help=f"As --tls-verify, of the {what}."
            ),
            declare.option(f"--{side}-creds", metavar="USER[:PASSWORD]", help=f"The login for the {what}."),
            declare.option(
                f"--{side}-cert-dir", type=options.WORD, metavar="DIR", help=f"As --cert-dir, of the {what}."
            ),
            declare.option(
                f"--{side}-authfile", type=options.WORD, metavar="FILE", help=f"As --authfile, of the {what}."
            ),
        ):
            function = option(function)
    return connection_options(function)


def wishes_of(side: str, given: dict[str, Any]) -> Wishes:
    """Those of one of two registries; what is not said of it is what is said of both."""
    own = {name: found for name in NAMES if (found := given.get(f"{side}_{name}")) is not None}
    return wishes({**given, **own})


def authfile_option(function: F) -> F:
    """--authfile."""
    return declare.option(
        "--authfile",
        type=options.WORD,
        metavar="FILE",
        help="The file with logins (default: REGISTRY_AUTH_FILE, auth.json, Docker's config.json).",
    )(function)


def wishes(given: dict[str, Any]) -> Wishes:
    """The options as a value. Asks for a password that --creds leaves out."""
    from fastlayer.registry.opening import Wishes
    from fastlayer.registry.pauses import Policy

    times, creds = given["retry_times"], given.get("creds")
    return Wishes(
        authfile=given["authfile"] or "",
        cert_dir=given["cert_dir"] or "",
        verify=given["tls_verify"],
        credential=credential(creds) if creds else None,
        policy=Policy() if times is None else Policy(tries=times + 1),
    )


def wishes_for(place: str, given: dict[str, Any]) -> Wishes:
    """Likewise, of verbs that may ask other registries, too: --creds is for that of ``place`` alone."""
    from fastlayer.registry.places import parse_place

    wished = wishes(given)
    if wished.credential is None or (reference := parse_place(place).reference) is None:
        return wished
    return wished._replace(credential_for=reference.domain)


def few_wishes(given: dict[str, Any]) -> Wishes:
    """Of verbs that have --authfile and --tls-verify only."""
    from fastlayer.registry.opening import Wishes

    return Wishes(authfile=given["authfile"] or "", verify=given["tls_verify"])


def credential(text: str) -> Credential:
    """``USER:PASSWORD``; with ``USER`` alone a terminal is asked for the password."""
    from fastlayer.registry.credential import Credential
    from fastlayer.registry.credentials import check_credential

    user, colon, password = text.partition(":")
    if not user:
        raise declare.LineError("--creds: names no user: give USER:PASSWORD")
    if not colon:
        password = ask_password(user)
    found = Credential(user, password, source="--creds")
    check_credential(found)
    return found


def ask_password(user: str) -> str:
    """Of a terminal, without showing it."""
    if not sys.stdin.isatty():
        raise declare.LineError(f"a password for {user} is expected, and stdin is no terminal: give USER:PASSWORD")
    import getpass

    return getpass.getpass(f"Password of {user}: ", sys.stderr)
