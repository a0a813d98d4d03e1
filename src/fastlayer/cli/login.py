"""``fastlayer login`` and ``fastlayer logout``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries
from fastlayer.cli.line import declare

if TYPE_CHECKING:
    from fastlayer.registry.credential import Credential
    from fastlayer.registry.opening import Wishes

_LONGEST = 64 << 10  # bytes of a password on stdin: tokens of cloud registries have some thousand
LOGIN = """\b
Examples:
  fastlayer login                                   Docker Hub
  fastlayer login registry.example.com:5000
  fastlayer login -u me --password-stdin registry.example.com < token
  fastlayer login registry.example.com/team         for this part of the registry only
  fastlayer login --get-login registry.example.com
"""
LOGOUT = """\b
Examples:
  fastlayer logout registry.example.com
  fastlayer logout --all
"""


@declare.command("login", epilog=LOGIN)
@declare.argument("registry", required=False)
@declare.option("-u", "--username", type=options.WORD, metavar="NAME", help="Who logs in (default: asked for).")
@declare.option("-p", "--password", metavar="PASSWORD", help="Seen by everybody on this machine: see --password-stdin.")
@declare.option("--password-stdin", is_flag=True, help="The password, or token, is what comes on stdin.")
@declare.option("--get-login", is_flag=True, help="Print who is logged in, and do nothing else.")
@declare.option("-v", "--verbose", is_flag=True, help="Tell where the login is kept.")
@registries.connection_options
def command(**given: Any) -> int:
    """Log in to REGISTRY, HOST[:PORT] or HOST[:PORT]/NAMESPACE; without one, to Docker Hub.

    The registry is asked first. A login that it takes is kept in podman's auth.json, or by a credential helper.
    """
    from fastlayer.registry.login import log_in

    _check(given)
    wishes, registry = registries.wishes(given), given["registry"] or ""
    if given["get_login"]:
        return _show_login(registry, wishes, given["verbose"])
    credential = _credential(registry, given, wishes)
    if credential is None:
        return 0
    done = log_in(registry, credential, wishes)
    output.warn(done.warnings)
    if given["verbose"]:
        print(f"Used: {done.where}")
    print("Login Succeeded")
    return 0


def _check(given: dict[str, Any]) -> None:
    if given["password"] is not None and given["password_stdin"]:
        raise declare.LineError("the password is given twice: leave out --password or --password-stdin")
    typed = given["password"] is not None or given["password_stdin"]
    if given["get_login"] and (typed or given["username"]):
        raise declare.LineError("--get-login only looks: leave out user and password")
    if typed and not given["username"]:
        raise declare.LineError("a password is given, but no user: give --username")
    if given["password"] is not None:
        output.warn(["--password shows the password to everybody on this machine: use --password-stdin"])


def _show_login(registry: str, wishes: Wishes, verbose: bool) -> int:
    from fastlayer.errors import NotFoundError
    from fastlayer.registry.credentials import registry_key
    from fastlayer.registry.login import kept_login

    found = kept_login(registry, wishes, output.warn_line)
    key = registry_key(registry)
    if found is None:
        raise NotFoundError(f"{key}: nobody is logged in: fastlayer login {key}")
    if verbose:
        print(f"Used: {found.source}", file=sys.stderr)
    print(found.username or "<token>")
    return 0


def _credential(registry: str, given: dict[str, Any], wishes: Wishes) -> Credential | None:
    """The login that is given, or typed; None when the one that is kept will do."""
    from fastlayer.registry.credential import Credential

    user, password = given["username"], given["password"]
    if given["password_stdin"]:
        password = _from_stdin()
    if user and password is not None:
        return Credential(user, password, source="the command line")
    if not sys.stdin.isatty():
        raise declare.LineError(
            "a password is expected, and stdin is no terminal: give --username and --password-stdin"
        )
    if not user:
        if _is_kept(registry, wishes):
            return None
        user = _ask_user()
    return Credential(user, registries.ask_password(user), source="the command line")


def _is_kept(registry: str, wishes: Wishes) -> bool:
    """As docker and podman: who is logged in is not asked again."""
    from fastlayer.registry.login import is_kept

    found = is_kept(registry, wishes, output.warn_line)
    if found is not None:
        print(f"Login Succeeded, as {found.username or '<token>'}: the login of {found.source}")
    return found is not None


def _ask_user() -> str:
    print("Username: ", end="", file=sys.stderr, flush=True)
    user = sys.stdin.readline().strip()
    if not user:
        raise declare.LineError("a user is expected: give --username")
    return user


def _from_stdin() -> str:
    """All of it but the end of its line, as docker reads it."""
    if sys.stdin.isatty():
        raise declare.LineError(
            "--password-stdin: stdin is a terminal: redirect it, or leave the option out to be asked"
        )
    data = sys.stdin.buffer.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise declare.LineError(f"--password-stdin: more than {_LONGEST} bytes: give a password")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise declare.LineError("--password-stdin: is no UTF-8 text: give a password") from None
    return text.removesuffix("\n").removesuffix("\r")


@declare.command("logout", epilog=LOGOUT)
@declare.argument("registry", required=False)
@declare.option("-a", "--all", "all_", is_flag=True, help="Of all registries.")
@registries.authfile_option
def logout(**given: Any) -> int:
    """Forget the login for REGISTRY; without one, for Docker Hub."""
    from fastlayer.registry.login import log_out, log_out_of_all
    from fastlayer.registry.opening import Wishes

    if given["all_"] and given["registry"]:
        raise declare.LineError("--all is for all registries: leave out the name")
    wishes = Wishes(authfile=given["authfile"] or "")
    gone = log_out_of_all(wishes) if given["all_"] else log_out(given["registry"] or "", wishes)
    output.warn(gone.warnings)
    for registry in gone.registries:
        print(f"Removed login credentials for {registry}")
    if gone.elsewhere:
        output.warn([f"{gone.elsewhere}: there is another login for it, which is used from now on"])
    return 0
