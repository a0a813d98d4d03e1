"""``fastlayer cp``: files between a writable layer and the file system outside."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter
from fastlayer.cli.rootless import as_root_unless_running

if TYPE_CHECKING:
    from fastlayer.container.cp.spot import Mounts, Side
    from fastlayer.store.store import Store

EPILOG = """\b
Examples:
  fastlayer cp app.conf work:/etc/                 into the writable layer `work`
  fastlayer cp work:/var/log logs                  out of it
  fastlayer cp src/. work:/app                     what is in src
  fastlayer cp work:/etc - | tar t                 as a tar
  tar c . | fastlayer cp - work:/app
  fastlayer cp one:/data two:/                     from one to the other
"""


@declare.command("cp", epilog=EPILOG)
@declare.argument("source", type=options.PATH, metavar="[NAME:]SRC|-")
@declare.argument("dest", type=options.PATH, metavar="[NAME:]DEST|-")
@declare.option("-a", "--archive", is_flag=True, help="Out of a layer: keep owners; else files are yours.")
@declare.option("-L", "--follow-link", "follow", is_flag=True, help="Follow a link that SRC ends with.")
@options.jobs_option
@options.progress_option
@stores.store_options
def command(**given: Any) -> int:
    """Copy SRC to DEST; one or both are in a writable layer, `-` is a tar on stdin or stdout.

    As with `docker cp`: a directory that exists takes what is copied into it, `DIR/.` is the content of DIR. Into a
    layer owners are kept.
    """
    source, dest = given["source"], given["dest"]
    _check(source, dest)
    as_root_unless_running(given, *filter(None, (_split(word)[0] for word in (source, dest))))
    with ExitStack() as stack:
        store = stack.enter_context(stores.open_store(given))
        roots = _Roots(stack, store)
        sides = [_side(roots, word) for word in (source, dest)]
        report = stack.enter_context(Reporter(given["progress"], quiet=given["quiet"]))
        store.take_back_room()
        warnings = _copy(given, sides[0], sides[1], report)
    output.warn(warnings, given["quiet"])
    return 0


def _copy(given: dict[str, Any], source: Side | None, dest: Side | None, report: Reporter) -> tuple[str, ...]:
    if dest is None:
        from fastlayer.container.cp import archive

        assert source is not None
        return archive.write(source, sys.stdout.buffer, follow=given["follow"], jobs=given["jobs"])
    from fastlayer.container.cp import copying

    to_layer = dest.label != ""
    owner = None if to_layer or given["archive"] or os.geteuid() != 0 else (os.geteuid(), os.getegid())
    if source is None:
        return copying.extract(0, dest, owner=owner, progress=report.callback)
    return copying.copy(source, dest, follow=given["follow"], owner=owner, progress=report.callback)


def _check(source: bytes, dest: bytes) -> None:
    names = [_split(word)[0] for word in (source, dest) if word != b"-"]
    if not any(names):
        raise declare.LineError("none of the two is in a writable layer: write NAME:PATH for one that is")
    if source == dest == b"-":
        raise declare.LineError("`-` can be only one of the two")
    if source == b"-" and sys.stdin.isatty():
        raise declare.LineError("a tar is expected on stdin, which is a terminal: redirect it")
    if dest == b"-" and sys.stdout.isatty():
        raise declare.LineError("a tar is not for a terminal: redirect stdout or name a place")


def _split(word: bytes) -> tuple[str, bytes]:
    """(name of a layer, path); the name is empty for a path outside. As Docker has it: what begins with `.` or `/` is
    a path."""
    name, colon, path = word.partition(b":")
    if not colon or word.startswith((b"/", b".")):
        return "", word
    return os.fsdecode(name), path


def _side(roots: _Roots, word: bytes) -> Side | None:
    """None for ``-``."""
    from fastlayer.container.cp.spot import Side

    if word == b"-":
        return None
    name, path = _split(word)
    if not name:
        path = path if path.startswith(b"/") else os.getcwdb() + b"/" + path
        return Side(roots.of(name)[0], path, "")
    root, layers = roots.of(name)
    return Side(root, path, f"{name}:", layers, roots.mounts_of(name))


class _Roots:
    """Descriptors of roots, one for each layer with those of the directories that its overlay shows; that of the file
    system outside has no name."""

    def __init__(self, stack: ExitStack, store: Store) -> None:
        self._stack = stack
        self._store = store
        self._known: dict[str, tuple[int, tuple[int, ...]]] = {}

    def of(self, name: str) -> tuple[int, tuple[int, ...]]:
        if name not in self._known:
            self._known[name] = self._open(name) if name else (self._stack.enter_context(_outside()), ())
        return self._known[name]

    def mounts_of(self, name: str) -> Mounts | None:
        from fastlayer.container import writable
        from fastlayer.container.cp.mounts import mounts_of

        return mounts_of(self._store, self._stack, writable.find(self._store, name))

    def _open(self, name: str) -> tuple[int, tuple[int, ...]]:
        from fastlayer.container import writable
        from fastlayer.container.opened import layers_of, opened

        layer = writable.find(self._store, name)
        root = self._stack.enter_context(opened(self._store, layer))
        return root, self._stack.enter_context(layers_of(self._store, layer))


@contextmanager
def _outside() -> Iterator[int]:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
