"""``fastlayer cp``: files between a writable layer and the file system outside."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.progress import Reporter
from fastlayer.cli.rootless import as_root_unless_running

if TYPE_CHECKING:
    from fastlayer.container.cp.roots import Roots
    from fastlayer.container.cp.spot import Side
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
    from fastlayer.container.cp.roots import Roots

    with ExitStack() as stack:
        store = stack.enter_context(stores.open_store(given))
        roots = Roots(stack, store)
        sides = [_side(store, roots, word) for word in (source, dest)]
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
    from fastlayer.container.cp import copying, roots

    owner = None if dest.label or given["archive"] else roots.own_files()
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


def _side(store: Store, roots: Roots, word: bytes) -> Side | None:
    """None for ``-``."""
    from fastlayer.container import writable

    if word == b"-":
        return None
    name, path = _split(word)
    return roots.inside(writable.find(store, name), path) if name else roots.outside(path)
