"""``fastlayer cache export, import, limit``: cache mounts as archives, also in registries, and what they may take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, rows, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.builder.mountarchive.places import Source, Target
    from fastlayer.oci.reference import Reference
    from fastlayer.store.store import Store

EXPORT_EPILOG = """\b
Examples:
  fastlayer cache export .cache/mounts
  fastlayer cache export --id /root/.cache/pip pip.tar
  fastlayer cache export docker://HOST/app/mounts:main
  fastlayer cache export - | ssh other fastlayer cache import -
"""
IMPORT_EPILOG = """\b
Examples:
  fastlayer cache import --if-exists .cache/mounts
  fastlayer cache import --if-exists --id /root/.cache/pip docker://HOST/app/mounts:main
"""
_REGISTRY = "docker://"
_EXPORTED = (
    ("ID", "ID"),
    ("FILES", "Files"),
    ("SIZE", "Size"),
    ("CHUNKS", "Chunks"),
    ("NEW", "NewChunks"),
    ("WRITTEN", "Written"),
)
_IMPORTED = (("ID", "ID"), ("FILES", "Files"), ("KEPT", "Kept"), ("WRITTEN", "Written"))
_LIMITS = (("ID", "ID"), ("MAX SIZE", "MaxSize"), ("MAX AGE", "MaxAge"))
_id_option = declare.option("--id", "ids", multiple=True, metavar="ID", help="This cache mount (default: all).")


@declare.command("export", epilog=EXPORT_EPILOG)
@declare.argument("target", metavar="DIR|FILE.tar|-|docker://NAME", type=options.WORD)
@_id_option
@declare.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@rows.format_option
@registries.registry_options
@options.jobs_option
@stores.store_options
def export_mounts(**given: Any) -> int:
    """Write cache mounts as chunks, to a directory, as a tar (FILE.tar, or - for stdout), or to a registry.

    A directory or registry gets the chunks that it has not got, and loses those that nothing needs. Without --id it
    holds what the store holds afterwards; with it, others stay.
    """
    from fastlayer.builder.mountarchive.exporting import export

    as_root(given)  # files of a cache mount may belong to anybody
    to_stdout = given["target"] == "-"
    if to_stdout and sys.stdout.isatty():
        raise declare.LineError("an archive is not for a terminal: redirect stdout, or name a file")
    with stores.open_store(given) as store, _target(given) as target:
        done = export(store, target, ids=given["ids"], jobs=given["jobs"], waiting=_waiting)
    output.warn([_sockets(one.mount.id, one.sockets) for one in done.mounts if one.sockets], given["quiet"])
    if not given["quiet"] and not to_stdout:
        shown = [_exported(one, given["format_"]) for one in done.mounts]
        rows.show(given["format_"], _EXPORTED, shown, frozenset({"Files", "Size", "Chunks", "NewChunks", "Written"}))
        if done.removed and rows.is_table(given["format_"]):
            print(f"Removed {done.removed} chunks that nothing needs", file=sys.stderr)
    return 0


def _sockets(identity: str, count: int) -> str:
    return f"{identity}: {count} sockets were left out: no archive can hold one"


def _exported(one: Any, format_: str) -> rows.Row:
    return {
        "ID": one.mount.id,
        "Files": one.mount.files,
        "Size": _bytes(one.mount.size, format_),
        "Chunks": len(one.mount.chunks),
        "NewChunks": one.written,
        "Written": _bytes(one.new, format_),
    }


@declare.command("import", epilog=IMPORT_EPILOG)
@declare.argument("source", metavar="DIR|FILE|-|docker://NAME", type=options.WORD)
@_id_option
@declare.option("--if-exists", is_flag=True, help="Nothing to import is no error: for the first run of a pipeline.")
@declare.option("-q", "--quiet", is_flag=True, help="Print nothing.")
@rows.format_option
@registries.registry_options
@options.jobs_option
@stores.store_options
def import_mounts(**given: Any) -> int:
    """Take cache mounts from what `cache export` wrote. Each becomes what the archive has, in one step.

    Files whose data is there already are not written again.
    """
    from fastlayer.builder.mountarchive import importing

    as_root(given)  # files of a cache mount may belong to anybody
    with stores.open_store(given, create=True) as store, _source(store, given) as archive:
        if archive is None:
            return 0
        done = importing.import_mounts(store, archive, ids=given["ids"], jobs=given["jobs"], waiting=_waiting)
    output.warn([_refused(one) for one in done if one.refused], given["quiet"])
    if not given["quiet"]:
        shown = [_imported(one, given["format_"]) for one in done]
        rows.show(given["format_"], _IMPORTED, shown, frozenset({"Files", "Kept", "Written"}))
    return 0


def _refused(one: Any) -> str:
    return f"{one.id}: {one.refused} owners, attributes or devices may not be set or made here, and were left out"


def _imported(one: Any, format_: str) -> rows.Row:
    return {"ID": one.id, "Files": one.files, "Kept": one.kept, "Written": _bytes(one.bytes, format_)}


def _bytes(count: int, format_: str) -> Any:
    return output.human(count) if rows.is_table(format_) else count


def _waiting(identity: str) -> None:
    print(f"fastlayer: {identity}: waiting for a build that uses it", file=sys.stderr)


@contextmanager
def _target(given: dict[str, Any]) -> Iterator[Target]:
    from fastlayer.builder.mountarchive import places

    text = given["target"]
    if text.startswith(_REGISTRY):
        from fastlayer.builder.mountarchive import repository

        with repository.target(_reference(text), registries.wishes(given), output.warn_line) as artifact:
            yield artifact
    elif text == "-":
        with places.archive(sys.stdout.buffer) as archive:
            yield archive
    elif os.path.isdir(text) or not (os.path.exists(text) or text.endswith(".tar")):
        with places.directory(text, write=True) as directory:
            yield directory
    else:
        with places.archive(text) as archive:
            yield archive


@contextmanager
def _source(store: Store, given: dict[str, Any]) -> Iterator[Source | None]:
    """None: there is nothing, and that is no error."""
    from fastlayer.builder.mountarchive import places
    from fastlayer.errors import NotFoundError, show_path

    text = given["source"]
    if text.startswith(_REGISTRY):
        with _artifact(store, given) as artifact:
            yield artifact
        return
    if os.path.isdir(text):
        with places.directory(text, write=False) as directory:
            yield directory
        return
    if text != "-" and not os.path.exists(text):
        if given["if_exists"]:
            yield None
            return
        raise NotFoundError(f"{show_path(text)}: is not there: write it with `fastlayer cache export`, or --if-exists")
    with places.unpacked(store, 0 if text == "-" else text) as archive:
        yield archive


@contextmanager
def _artifact(store: Store, given: dict[str, Any]) -> Iterator[Source | None]:
    from fastlayer.builder.mountarchive import repository
    from fastlayer.errors import RegistryMissingError

    with ExitStack() as ends:
        artifact: Source | None = None
        try:
            opened = repository.source(store, _reference(given["source"]), registries.wishes(given), output.warn_line)
            artifact = ends.enter_context(opened)
        except RegistryMissingError:
            if not given["if_exists"]:
                raise
        yield artifact


def _reference(text: str) -> Reference:
    from fastlayer.registry.places import parse_place

    found = parse_place(text).reference
    assert found is not None
    return found


@declare.command("limit")
@declare.option("--id", "identity", default="", metavar="ID", help="Of this cache mount (default: of all together).")
@declare.option("--max-size", metavar="SIZE", help="Bytes on the disk: 10g. 0: no limit.")
@declare.option("--max-age", metavar="DURATION", help="Since a step had it last: 168h. 0s: no limit.")
@declare.option("--clear", is_flag=True, help="No limits at all.")
@rows.format_option
@stores.store_options
def limit(**given: Any) -> int:
    """Show or set what cache mounts may take. Builds keep to it when they end: whole mounts go, the least recently used
    first."""
    from fastlayer.builder import limits

    with stores.open_store(given, create=True) as store:
        found = {} if given["clear"] else limits.limits(store)
        size, age = _size(given["max_size"]), _seconds(given["max_age"])
        if given["clear"] or size is not None or age is not None:
            old = found.get(given["identity"], limits.Limit())
            new = limits.Limit(
                old.max_size if size is None else size or None, old.max_age if age is None else age or None
            )
            found = {**found, given["identity"]: new}
            limits.set_limits(store, found)
    shown = [_limit(name, one, given["format_"]) for name, one in sorted(found.items()) if one != limits.Limit()]
    rows.show(given["format_"], _LIMITS, shown, frozenset({"MaxSize"}))
    return 0


def _limit(name: str, one: Any, format_: str) -> rows.Row:
    if not rows.is_table(format_):
        return {"ID": name, "MaxSize": one.max_size, "MaxAge": one.max_age}
    size = "" if one.max_size is None else output.human(one.max_size)
    return {"ID": name or "all", "MaxSize": size, "MaxAge": "" if one.max_age is None else f"{one.max_age}s"}


def _size(text: str | None) -> int | None:
    return 0 if text == "0" else options.size(text)


def _seconds(text: str | None) -> int | None:
    from fastlayer.oci.duration import parse_duration

    if text is None:
        return None
    try:
        found = parse_duration(text)
    except ValueError:
        found = -1
    if found < 0 or 0 < found < 10**9:
        raise declare.LineError(f"--max-age {text!r}: give a duration of whole seconds, such as 168h or 30m")
    return int(found // 10**9)
