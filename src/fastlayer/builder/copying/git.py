"""ADD of git repositories: which sources are one, the commit they mean, and its files (see ``context/git.py``)."""

from __future__ import annotations

import os
import re

from fastlayer.builder.context.fetch import without_password
from fastlayer.builder.context.sources import GitPlace, git_place
from fastlayer.builder.context.waiting import Check, never, run_program
from fastlayer.errors import DigestMismatchError, DockerfileError, OperandError, UsageError

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|[\w.-]+@[\w.-]+:(?!//)", re.ASCII)  # all else is a path
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_SECONDS = 300


def parse_repository(source: str) -> GitPlace | None:
    """What a source of ADD names; None when it is no repository. Raises ``DockerfileError`` for one that means nothing.

    Unlike a context it is never a path of this machine, nor what begins with ``github.com/``.
    """
    if not _ADDRESS.match(source):
        return None
    try:
        place = git_place(source)
    except UsageError as exc:
        raise DockerfileError(str(exc)) from None
    if place is not None and ".." in place.subdir.split("/"):
        raise DockerfileError(f"{without_password(source)}: {place.subdir} leaves the repository")
    return place


def find_commit(place: GitPlace, check: Check = never) -> str:
    """The commit that is meant now: the key for the cache. Asks the server, unless it is named in full; ``check`` is
    called meanwhile.

    Raises ``OperandError`` when there is none, ``DigestMismatchError`` when it is not the one that was to be.
    """
    name = without_password(place.remote)
    commit = place.ref
    if not _COMMIT.fullmatch(commit):
        commit = _listed(place, name, check)
    if not commit.startswith(place.commit):
        raise DigestMismatchError(f"{name}: is commit {commit}, not {place.commit}: correct the checksum, or the ref")
    return commit


def _listed(place: GitPlace, name: str, check: Check) -> str:
    ref = place.ref or "HEAD"
    wanted = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"{ref}^{{}}", ref, f"refs/{ref}"]
    lines = _list_remote(place.remote, name, wanted, check).splitlines()
    found = {full: number for number, _, full in (line.partition("\t") for line in lines)}
    commit = next((found[full] for full in wanted if full in found), "")
    if not _COMMIT.fullmatch(commit):
        raise OperandError(f"{name}: has no branch or tag {ref!r}: check its name, or give a whole commit")
    return commit


def _list_remote(remote: str, name: str, refs: list[str], check: Check) -> str:
    import subprocess

    env = os.environ | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": os.environ.get("GIT_ASKPASS", "true"),
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
        "GIT_DIR": os.devnull,
        "LC_ALL": "C",
    }
    words = ["git", "-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=60", "ls-remote", "--", remote, *refs]
    try:
        done = run_program(words, seconds=_SECONDS, check=check, cwd="/", env=env)
    except FileNotFoundError:
        raise OperandError(f"{name}: the git program is not installed, which fetches it: install git") from None
    except subprocess.TimeoutExpired:
        raise OperandError(f"{name}: git ls-remote took more than {_SECONDS} s: try again") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").replace(remote, name).strip().splitlines() or ["failed"]
        line = next((line for line in said if line.startswith(("fatal:", "error:"))), said[-1])
        text = "".join(char for char in line if char.isprintable())[:300]
        raise OperandError(f"{name}: git ls-remote: {text}: check the address and the network")
    return done.stdout.decode("utf-8", "surrogateescape")


def check_out(place: GitPlace, commit: str, directory: str, check: Check = never) -> bytes:
    """Puts the files of a commit into an empty directory. Returns which directory of them is meant.

    Raises ``OperandError``, and ``DockerfileError`` when that is not there.
    """
    from fastlayer.builder.context.git import checkout

    checkout(place._replace(commit=commit), directory, check)
    parts = [part for part in place.subdir.split("/") if part not in ("", ".")]
    at = directory
    for part in parts:  # a link in a repository may lead anywhere
        at = os.path.join(at, part)
        if os.path.islink(at) or not os.path.isdir(at):
            raise DockerfileError(f"{without_password(place.remote)}: has no directory {place.subdir}")
    return "/".join(parts).encode("utf-8", "surrogateescape")
