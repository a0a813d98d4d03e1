"""Which file a program is, and executing it (csrc/fl_run_program.c has the rules)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

from fastlayer._baseline.calls import NUMBERS, call, longs

PATHS_MAX = 64
_OPENAT2, _NO_MAGICLINKS, _INTERPRETERS_MAX, _LINKS_MAX = 437, 2, 5, 40
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100
_PASSED = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _is_magic(path: bytes) -> bool:
    """Whether it goes through a magic link, as /proc/self/exe is: that is still the caller's own program here."""
    how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, _NO_MAGICLINKS)
    try:
        os.close(call("syscall", *longs(_OPENAT2, _AT_FDCWD, path, how, len(how))))
    except OSError as exc:
        return exc.errno == errno.ELOOP
    return False


def leads_to_magic(path: bytes) -> bool:
    """By itself, or as the interpreter of a script."""
    for _ in range(_INTERPRETERS_MAX + 1):
        if _is_magic(path):
            return True
        words = _script(path)
        if words is None:
            return False
        path = words[0]
    return False


def _script(path: bytes, flags: int = 0, dir_fd: int | None = None) -> list[bytes] | None:
    """The interpreter that the first line of a script names, and its argument."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=dir_fd), "rb") as file:
            line = file.read(255)
    except OSError:
        return None
    words = line[2:].split(b"\n")[0].strip(b" \t").replace(b"\t", b" ").split(b" ", 1)
    if not line.startswith(b"#!") or not words[0]:
        return None
    return [words[0], *(word.lstrip(b" ") for word in words[1:])]


def _found(path: bytes) -> tuple[int, bytes]:
    """An open directory and the name in it that a path leads to, link by link as their texts say."""
    rest, links = path, 0
    at = os.open(b"/" if path.startswith(b"/") else b".", _PASSED)
    while True:
        name, slash, rest = rest.lstrip(b"/").partition(b"/")
        if not name:
            raise PermissionError(errno.EACCES, "")
        try:
            text = os.readlink(name, dir_fd=at)
        except OSError:
            if not slash:
                return at, name
            before, at = at, os.open(name, _PASSED, dir_fd=at)
            os.close(before)
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, "")
        rest = text + slash + rest
        if text.startswith(b"/"):
            os.close(at)
            at = os.open(b"/", _PASSED)


def _execute_at(directory: int, name: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> NoReturn:
    lists = [(ctypes.c_char_p * (len(words) + 1))(*words, None) for words in (argv, envp)]
    for inheritable in (False, True):  # an interpreter of binfmt_misc is given the name, by way of the directory
        os.set_inheritable(directory, inheritable)
        try:
            call("syscall", *longs(NUMBERS[os.uname().machine][4], directory, name, *lists, _AT_SYMLINK_NOFOLLOW))
        except OSError as exc:
            if exc.errno == errno.ELOOP:  # it has become a link meanwhile
                raise PermissionError(errno.EACCES, "") from exc
            if exc.errno != errno.ENOENT or inheritable:
                raise
            os.lstat(name, dir_fd=directory)
    raise AssertionError("unreachable")


def _execute_apart(path: bytes, argv: Sequence[bytes], envp: Sequence[bytes]) -> NoReturn:
    """binfmt_script, by names in directories."""
    for _ in range(_INTERPRETERS_MAX + 1):
        directory, name = _found(path)
        words = _script(name, os.O_NOFOLLOW, directory)
        if words is None:
            _execute_at(directory, name, argv, envp)
        if not os.access(name, os.X_OK, dir_fd=directory):
            raise PermissionError(errno.EACCES, "")
        argv = [*words, path, *argv[1:]]
        path = words[0]
    raise OSError(errno.ELOOP, "")


def execute(program: Any, magic: Sequence[bool]) -> int:
    worst = errno.ENOENT
    environment = dict(entry.split(b"=", 1) for entry in program.env if b"=" in entry)
    for path, is_magic in zip(program.paths, magic, strict=False):
        try:
            if is_magic:
                raise PermissionError(errno.EACCES, "")
            if program.apart:
                _execute_apart(path, program.argv, program.env)
            os.execve(path, list(program.argv), environment)
        except OSError as exc:
            if exc.errno in (errno.EACCES, errno.EPERM):
                worst = errno.EACCES
            elif exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                return exc.errno or 0
    return worst
