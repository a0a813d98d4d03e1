"""Secrets of a build: read when a step needs them, shown to it as files in memory, and nowhere else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastlayer.errors import DockerfileError, StorageError, show_path

if TYPE_CHECKING:
    from fastlayer.builder.dockerfile.mounts import RunMount
    from fastlayer.builder.options import Secret

_MAX_SIZE = 500 << 10  # bytes, as BuildKit has it
_MEMORY = "/dev/shm"
_PREFIX = "fastlayer-secret-"  # then the user and something random
_FILE = "secret"


def secret_value(secrets: Sequence[Secret], identity: str) -> bytes | None:
    """Its bytes; None: there is none of that id. Raises ``StorageError`` for a file that cannot be read."""
    secret = next((found for found in secrets if found.id == identity), None)
    if secret is None:
        return None
    if secret.env:
        value = os.environb.get(os.fsencode(secret.env))
        if value is None:
            raise DockerfileError(f"the secret {identity!r}: there is no variable {secret.env}: set it")
        return value
    try:
        with open(secret.source, "rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as exc:
        raise StorageError(exc.errno or 0, f"read the secret {identity!r}", secret.source) from exc
    if len(data) > _MAX_SIZE:
        raise DockerfileError(f"{show_path(secret.source)}: a secret has at most {_MAX_SIZE} bytes")
    return data


def secret_file(value: bytes, mount: RunMount, ends: ExitStack) -> str:
    """A file of it until ``ends`` does, in memory; its path, for a bind mount.

    Whatever mode the step is to see, nobody else finds the way to it. The directory's maker keeps it locked: what
    killed builds left behind goes with the next one that has secrets. Raises ``StorageError``.
    """
    import tempfile

    from fastlayer.running.idmaps import give

    place = _MEMORY if os.path.isdir(_MEMORY) and os.access(_MEMORY, os.W_OK) else tempfile.gettempdir()
    _sweep(place)
    directory, lock = _new_directory(place)
    ends.callback(os.close, lock)
    ends.callback(_remove, directory)
    path = os.path.join(directory, _FILE)
    uid, gid = mount.uid or 0, mount.gid or 0
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(value)
            if os.geteuid() == 0:
                give(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mount.mode if mount.mode is not None else 0o400)
    except OSError as exc:
        raise StorageError(exc.errno or 0, f"make a file of a secret for {uid}:{gid}", path) from exc
    return path


def _new_directory(place: str) -> tuple[str, int]:
    """Locked. A sweep may take it for a dead one before it is: then another is made."""
    while True:
        path = os.path.join(place, f"{_PREFIX}{os.geteuid()}-{os.urandom(8).hex()}")
        os.mkdir(path, 0o700)
        fd = _locked(path)
        if fd is not None and os.fstat(fd).st_nlink:
            return path, fd
        if fd is not None:
            os.close(fd)


def _locked(path: str) -> int | None:
    """The descriptor of a directory of ours that nobody holds; None: it is not, or is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_uid == os.geteuid():
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _sweep(place: str) -> None:
    """Removes our own directories that nobody holds."""
    for name in os.listdir(place):
        if name.startswith(f"{_PREFIX}{os.geteuid()}-"):
            path = os.path.join(place, name)
            fd = _locked(path)
            if fd is not None:
                _remove(path)
                os.close(fd)


def _remove(directory: str) -> None:
    for remove, path in ((os.unlink, os.path.join(directory, _FILE)), (os.rmdir, directory)):
        try:
            remove(path)
        except FileNotFoundError:
            pass
