"""Files of credentials: where they are, reading one, changing one.

containers-auth.json(5) and docker/cli's cli/config/configfile. Nothing here decides what is meant for whom.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastlayer._values import NamedTuple
from fastlayer.errors import FastlayerError, OperandError, StorageError, show_path
from fastlayer.oci import jsontext
from fastlayer.registry import session

DOCKER_VARIABLE = "DOCKER_AUTH_CONFIG"
_MAX_FILE = 4 << 20  # bytes
_SECRETS = ("auth", "password", "identitytoken", "registrytoken")


class AuthFile(NamedTuple):
    """A place that may hold credentials. ``path`` is empty for the variable ``DOCKER_AUTH_CONFIG``, whose ``text`` is
    the file then; ``wanted``: its absence is an error; ``legacy``: of the format of ``.dockercfg``, auths alone."""

    path: str
    text: str = ""
    wanted: bool = False
    legacy: bool = False

    @property
    def shown(self) -> str:
        """For messages."""
        return show_path(self.path) if self.path else DOCKER_VARIABLE

    def __repr__(self) -> str:
        return f"AuthFile({self.shown})"


class Contents(NamedTuple):
    """What a file says. ``auths``: entries by key; ``helpers``: names of credential helpers by registry; ``store``:
    that for all registries, empty for none; ``warning``: empty, or one line."""

    auths: dict[str, Any]
    helpers: dict[str, str]
    store: str = ""
    warning: str = ""

    def __repr__(self) -> str:
        return f"Contents({len(self.auths)} entries)"


def auth_files(environ: Mapping[str, str], authfile: str = "") -> list[AuthFile]:
    """Where credentials are looked for, in order. A file that is named is the only one, as for podman and skopeo."""
    if authfile:
        return [AuthFile(authfile, wanted=True)]
    if environ.get("REGISTRY_AUTH_FILE"):
        return [AuthFile(environ["REGISTRY_AUTH_FILE"])]
    found = [AuthFile("", environ[DOCKER_VARIABLE])] if environ.get(DOCKER_VARIABLE, "").strip() else []
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{session.ids(environ)[0]}"
    inner = os.path.join("containers", "auth.json")
    found.append(AuthFile(os.path.join(runtime, inner if environ.get("XDG_RUNTIME_DIR") else "auth.json")))
    home = home_of(environ)
    found.append(AuthFile(os.path.join(config_home(environ), inner)))
    found.append(AuthFile(os.path.join(environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json")))
    return [*found, AuthFile(os.path.join(home, ".dockercfg"), legacy=True)]


def written_file(environ: Mapping[str, str], authfile: str = "") -> AuthFile:
    """Where ``login`` writes: the named file, or that of the session; without a session's directory that of the
    user's configuration, which is read as well. Raises ``OperandError`` for a session's directory that is not there."""
    named = authfile or environ.get("REGISTRY_AUTH_FILE")
    if named:
        return AuthFile(named)
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        if not os.path.isdir(runtime):  # to make it is the system's business
            raise OperandError(f"XDG_RUNTIME_DIR: {show_path(runtime)}: no directory: unset it, or give --authfile")
        return AuthFile(os.path.join(runtime, "containers", "auth.json"))
    if session.ids(environ)[0] == 0:
        return AuthFile("/run/containers/0/auth.json")
    return AuthFile(os.path.join(config_home(environ), "containers", "auth.json"))


def home_of(environ: Mapping[str, str]) -> str:
    """The home directory: of the variable, or of the user."""
    return environ.get("HOME") or os.path.expanduser("~")


def config_home(environ: Mapping[str, str]) -> str:
    """``XDG_CONFIG_HOME`` or its default."""
    return environ.get("XDG_CONFIG_HOME") or os.path.join(home_of(environ), ".config")


def read(file: AuthFile) -> Contents | None:
    """What the file says, None when it is not there. Raises ``OperandError`` for one that means nothing."""
    if not file.path:
        return _contents(_parse(file.text.encode("utf-8", "surrogateescape"), file.shown), file)
    try:
        data, mode = _data(file)
    except PermissionError as exc:
        if file.wanted:
            raise StorageError(exc.errno or 0, "cannot be read", file.path) from None
        return Contents({}, {}, warning=f"{file.shown}: cannot be read: {exc.strerror}: passed over")
    if data is None:
        if file.wanted:
            raise OperandError(f"{file.shown}: no such file: log in with --authfile, or leave the option out")
        return None
    contents = _contents(_parse(data, file.shown), file)
    if mode & 0o077 and any(_holds_secret(entry) for entry in contents.auths.values()):
        text = f"{file.shown}: holds passwords and may be used by others (mode {mode:04o}): chmod 600 {file.shown}"
        return contents._replace(warning=text)
    return contents


def _data(file: AuthFile) -> tuple[bytes | None, int]:
    """The bytes of a plain file and its mode. ``PermissionError`` is the caller's."""
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    except PermissionError:
        raise
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "no path"
        raise OperandError(f"{file.shown}: cannot be read: {reason}") from None
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        os.close(fd)
        raise OperandError(f"{file.shown}: no plain file: give one with credentials")
    os.set_blocking(fd, True)  # <(command) of a shell is read to its end
    with open(fd, "rb") as stream:
        data = stream.read(_MAX_FILE + 1)
    return data, stat.S_IMODE(mode) if stat.S_ISREG(mode) else 0


def _parse(data: bytes, shown: str) -> dict[str, Any]:
    if not data.strip():
        return {}  # what mktemp makes
    try:
        return jsontext.parse_object(data, shown, _MAX_FILE)
    except FastlayerError as exc:
        raise OperandError(f"{exc}: write it anew with login") from None


def _contents(value: dict[str, Any], file: AuthFile) -> Contents:
    try:
        auths = value if file.legacy else jsontext.mapping(value, "auths", file.shown)
        helpers = {} if file.legacy else jsontext.text_map(value, "credHelpers", file.shown)
        store = "" if file.legacy else jsontext.text(value, "credsStore", file.shown)
    except FastlayerError as exc:
        raise OperandError(f"{exc}: mend the file, or write it anew with login") from None
    return Contents(auths, helpers, store)


def _holds_secret(entry: Any) -> bool:
    return isinstance(entry, dict) and any(entry.get(key) for key in _SECRETS)


def change(file: AuthFile, edit: Callable[[dict[str, Any]], bool]) -> None:
    """Changes the JSON of a file: ``edit`` gets it and says whether there is something to write.

    One at a time, the whole or nothing, mode 0600; keys keep their order, also those that nobody here knows.
    """
    path = os.path.realpath(file.path)
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        with _alone(os.path.dirname(path)):
            data, _ = _data(file._replace(path=path))
            value = _parse(data or b"", file.shown)
            _contents(value, file)
            if edit(value):
                _replace(path, json.dumps(value, indent="\t", ensure_ascii=False).encode() + b"\n")
    except StorageError:
        raise
    except OSError as exc:
        raise StorageError(exc.errno or 0, "cannot keep credentials", file.path) from None


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """No other process that asks so is in there; the lock is of the directory, for the file is replaced."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _replace(path: str, data: bytes) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".auth.", dir=os.path.dirname(path))  # mode 0600
    try:
        with open(fd, "wb") as stream:
            _same_owner(path, fd)
            stream.write(data)
            stream.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _same_owner(path: str, fd: int) -> None:
    """A file of a user that root changes stays the user's."""
    try:
        status = os.stat(path)
        if status.st_uid != os.geteuid():
            os.fchown(fd, status.st_uid, status.st_gid)
    except (FileNotFoundError, PermissionError):
        pass
