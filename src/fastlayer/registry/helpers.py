"""Programs that keep secrets: ``docker-credential-NAME get|store|erase|list``.

github.com/docker/docker-credential-helpers (README.md "Development", client/client.go): what is asked comes on stdin,
a registry's address as it is or a JSON object; the answer is JSON on stdout; a failure is a status, with the reason on
stdout. What they say is not trusted: bounded in size and time, and shown only where it can be no secret.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import IO

from fastlayer.errors import FastlayerError, OperandError, show_path
from fastlayer.oci import jsontext
from fastlayer.registry import session

TIMEOUT = 60.0  # seconds: people may have to unlock something
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}"
_MAX_ANSWER = 1 << 20  # bytes
_MAX_QUESTION = 48 << 10  # bytes: what a pipe takes (64 KiB) without anybody who reads
_NOT_FOUND = "credentials not found"
_SHOWN = 200


class HelperError(OperandError):
    """A credential helper failed."""


class HelperMissingError(HelperError):
    """The program is not there."""


class Helper:
    """One program; ``name`` is what comes after ``docker-credential-``. Raises ``HelperError`` for no possible one."""

    def __init__(self, name: str, environ: Mapping[str, str] | None = None, *, timeout: float = TIMEOUT) -> None:
        if not re.fullmatch(_NAME, name, re.ASCII):
            raise HelperError(f"credential helper {show_path(name)}: no name of one: give what follows its `-`")
        self.program = f"docker-credential-{name}"
        self._environ = dict(os.environ if environ is None else environ)
        self._timeout = timeout

    def get(self, server: str) -> tuple[str, str] | None:
        """User name and secret, None when the helper has none."""
        status, answer = self._run("get", server.encode())
        if status:
            if _NOT_FOUND in answer[:_SHOWN].decode("utf-8", "replace").lower():
                return None
            self._failed("get", status, answer, server)
        value = self._object(answer)
        user, secret = value.get("Username", ""), value.get("Secret", "")
        if not isinstance(user, str) or not isinstance(secret, str):
            raise HelperError(f"{self.program}: what it answers to get is no user name and secret: try it by hand")
        return (user, secret) if secret else None

    def store(self, server: str, user: str, secret: str) -> None:
        """Keeps a secret, in the place of what it has for the server."""
        question = jsontext.write({"ServerURL": server, "Username": user, "Secret": secret})
        status, answer = self._run("store", question)
        if status:
            self._failed("store", status, answer, server, secret)

    def erase(self, server: str) -> bool:
        """Forgets a secret; False when there is none."""
        status, answer = self._run("erase", server.encode())
        if not status:
            return True
        if _NOT_FOUND in answer[:_SHOWN].decode("utf-8", "replace").lower():
            return False
        self._failed("erase", status, answer, server)
        return False

    def servers(self) -> dict[str, str]:
        """Address -> user name of all that it has."""
        status, answer = self._run("list", b"unused")
        if status:
            self._failed("list", status, answer, "")
        value = self._object(answer)
        return {server: user for server, user in value.items() if isinstance(user, str)}

    def _object(self, answer: bytes) -> dict[str, object]:
        try:
            return jsontext.parse_object(answer.strip(), self.program, _MAX_ANSWER)
        except FastlayerError:  # its words could quote the answer
            raise HelperError(f"{self.program}: its answer is no JSON object: try it by hand") from None

    def _failed(self, verb: str, status: int, answer: bytes, server: str, secret: str = "") -> None:
        raise HelperError(
            f"{self.program}: {verb} {show_path(server)}".rstrip()
            + f": failed with status {status}: {_reason(answer, secret)}"
        )

    def _run(self, verb: str, question: bytes) -> tuple[int, bytes]:
        found = shutil.which(self.program, path=self._environ.get("PATH", os.defpath))
        if found is None:
            raise HelperMissingError(f"{self.program}: not found on PATH: install it, or take it out of the file")
        if len(question) > _MAX_QUESTION:
            raise HelperError(f"{self.program}: a secret of {len(question)} bytes: the limit is {_MAX_QUESTION}")
        pipe = subprocess.PIPE
        try:
            child = subprocess.Popen(
                session.words_for(found, verb, self._environ),
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                env=self._environ,
            )
        except OSError as exc:
            raise HelperError(f"{show_path(found)}: cannot be started: {exc.strerror}") from None
        try:
            return self._talk(child, question, time.monotonic() + self._timeout)
        finally:
            _end(child)

    def _talk(self, child: subprocess.Popen[bytes], question: bytes, until: float) -> tuple[int, bytes]:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(question)
            child.stdin.close()
        except BrokenPipeError:
            pass  # it reads nothing: what it answers tells
        answer = self._read(child.stdout, until)
        try:
            return child.wait(max(0.0, until - time.monotonic())), answer
        except subprocess.TimeoutExpired:
            raise self._slow() from None

    def _read(self, stream: IO[bytes], until: float) -> bytes:
        answer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise self._slow()
                piece = os.read(stream.fileno(), 1 << 16)
                answer += piece
                if len(answer) > _MAX_ANSWER:
                    raise HelperError(f"{self.program}: its answer is longer than {_MAX_ANSWER} bytes: try it by hand")
                if not piece:
                    return answer

    def _slow(self) -> HelperError:
        return HelperError(f"{self.program}: no answer in {self._timeout:g} seconds: try it by hand")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever it does, it is gone; children of its own may live on, and are not waited for."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                pass  # of what was not read by a helper that is gone


def _reason(answer: bytes, secret: str) -> str:
    """The first line that it wrote, where that is a reason and no secret."""
    line = answer[:4096].decode("utf-8", "replace").strip().partition("\n")[0].strip()
    if not line:
        return "it says nothing"
    if "{" in line or '"' in line or (secret and secret in line):
        return "what it says is not shown, for it may hold the secret"
    return show_path(line[:_SHOWN])
