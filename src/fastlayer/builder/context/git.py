"""Checking out a repository with the git program: no hooks, no prompts, no protocol that runs programs.

The user's own configuration counts (proxies, credential helpers, ssh keys); the repository's does not. Submodules come
over the network only: a repository cannot name files of this machine as its submodules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from fastlayer.builder.context.fetch import without_password
from fastlayer.builder.context.sources import GitPlace
from fastlayer.builder.context.waiting import Check, never, run_program
from fastlayer.errors import OperandError

_SAFE = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "protocol.ext.allow=never",
    "advice.detachedHead=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "transfer.credentialsInUrl=allow",
    "gc.auto=0",
)
_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE")
_PROTOCOLS = "git:http:https:ssh"
_SECONDS = 3600  # for one step: what hangs longer is not going to come
_ALL_REFS = "+refs/*:refs/fetched/*"
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHOWN = 300


def checkout(place: GitPlace, directory: str, check: Check = never) -> str:
    """Puts the files of a repository into an empty directory; returns the commit's id.

    ``place.subdir`` is not looked at; ``check`` is called while it waits. Raises ``OperandError``.
    """
    git = _Git(place, directory, check)
    git.run("init", "--quiet", "--template=")
    git.run("config", "remote.origin.url", place.remote)  # what relative submodules are relative to
    git.run("checkout", "--quiet", "--force", "--detach", git.fetched())
    commit = git.run("rev-parse", "HEAD").strip()
    if place.commit and not commit.startswith(place.commit):
        raise OperandError(f"{git.name}: is at commit {commit}, not at {place.commit}: name the commit that is meant")
    if place.submodules and os.path.lexists(os.path.join(directory, ".gitmodules")):
        git.run("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1", protocols=_PROTOCOLS)
    if not place.keep_git:
        git.forget()
    return commit


class _Git:
    def __init__(self, place: GitPlace, directory: str, check: Check) -> None:
        from shutil import which

        self.name = without_password(place.remote)
        self._place = place
        self._directory = directory
        self._check = check
        self._program = which("git") or ""
        if not self._program:
            raise OperandError(f"{self.name}: the git program is not installed: install git, or give a directory")

    def fetched(self) -> str:
        """Fetches as little as the server allows; returns what to check out."""
        wanted = self._place.ref or self._place.commit or "HEAD"
        try:
            self._fetch_shallow(wanted)
            return "FETCH_HEAD"
        except OperandError:
            if not _COMMIT.fullmatch(wanted) and not self._place.commit:
                raise
        self._fetch("--tags", _ALL_REFS)  # a short id, or a server that gives no single commits
        wanted = self._place.commit or wanted
        try:
            return self.run("rev-parse", "--verify", "--quiet", "--end-of-options", wanted + "^{commit}").strip()
        except OperandError:
            raise OperandError(f"{self.name}: has no commit {wanted}: name one that it has") from None

    def _fetch_shallow(self, wanted: str) -> None:
        """The whole history from a web server that has git's files and no more (gitprotocol-http, "dumb")."""
        try:
            self._fetch("--depth=1", wanted)
        except OperandError as exc:
            if "does not support shallow" not in str(exc):
                raise
            self._fetch("--no-tags", wanted)

    def _fetch(self, how: str, what: str) -> None:
        options = ("--quiet", "--no-recurse-submodules", "--no-write-commit-graph", how)
        self.run("fetch", *options, "--end-of-options", self._place.remote, what)

    def run(self, *words: str, protocols: str = _PROTOCOLS + ":file") -> str:
        """What git printed. Raises ``OperandError`` with git's own words."""
        import subprocess

        command = [self._program, *_options(), *words]
        try:
            done = run_program(
                command,
                seconds=_SECONDS,
                check=self._check,
                cwd=self._directory,
                env=_environment(protocols),
                umask=0o022,
            )
        except subprocess.TimeoutExpired:
            raise OperandError(f"{self.name}: git {words[0]} took more than {_SECONDS} s: try again") from None
        except OSError as exc:
            raise OperandError(f"{self.name}: git cannot be run: {exc.strerror}: install git") from exc
        if done.returncode:
            raise OperandError(f"{self.name}: git {words[0]}: {self._why(done.stderr)}: check the address and the ref")
        return done.stdout.decode("utf-8", "replace")

    def _why(self, stderr: bytes) -> str:
        text = stderr.decode("utf-8", "replace").replace(self._place.remote, self.name)
        lines = [line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in text.splitlines()]
        found = " ".join("; ".join(filter(None, lines[:3])).split()) or "failed"
        return "".join(char if char.isprintable() else "?" for char in found)[:_SHOWN]

    def forget(self) -> None:
        """Removes git's own files, those of submodules, too."""
        import shutil

        shutil.rmtree(os.path.join(self._directory, ".git"), ignore_errors=True)
        if os.path.lexists(os.path.join(self._directory, ".gitmodules")):
            for parent, directories, files in os.walk(self._directory):
                if ".git" in files and parent != self._directory:
                    os.unlink(os.path.join(parent, ".git"))
                if ".git" in directories:
                    directories.remove(".git")


def _options() -> Sequence[str]:
    return [word for setting in _SAFE for word in ("-c", setting)]


def _environment(protocols: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name not in _LOCAL}
    found.update(
        GIT_TERMINAL_PROMPT="0",
        GIT_ALLOW_PROTOCOL=protocols,
        GIT_LFS_SKIP_SMUDGE=found.get("GIT_LFS_SKIP_SMUDGE", "0"),
        SSH_ASKPASS_REQUIRE="never",
        GIT_ASKPASS=found.get("GIT_ASKPASS", "true"),
        LC_ALL="C",
    )
    found.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
    return found
