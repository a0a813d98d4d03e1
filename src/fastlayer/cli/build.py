"""``fastlayer build``: an image of a Dockerfile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer.cli import build_memos as memos
from fastlayer.cli import build_options, build_others, options, output, registries, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.builder.context.context import Context
    from fastlayer.builder.options import Options
    from fastlayer.builder.outputs.options import Export
    from fastlayer.builder.result import BuildResult
    from fastlayer.errors import BuildError
    from fastlayer.store.store import Store
    from fastlayer.transfer.events import Observer

EPILOG = """\b
Examples:
  fastlayer build -t app:1 .
  fastlayer build -t app:1 -f docker/Dockerfile --build-arg VERSION=3 --explain .
  fastlayer build --target test --progress plain .
  fastlayer build -o type=oci,dest=app.tar,compression=zstd .
  git archive HEAD | fastlayer build -t app:1 -
  fastlayer build --cache-from type=local,src=cache --cache-to type=local,dest=cache,mode=max .
  fastlayer build --cache-from HOST/app:cache --cache-to type=registry,ref=HOST/app:cache,mode=max .
  fastlayer build -t HOST/app:1 --push .
  fastlayer build --check .
"""


@declare.command("build", epilog=EPILOG)
@declare.argument("context", default=".", required=False)
@declare.option("-t", "--tag", "--destination", "tags", multiple=True, metavar="NAME[:TAG]", help="A name; many times.")
@declare.option(
    "-f", "--file", "--dockerfile", "file", metavar="FILE", help="The Dockerfile (default: Dockerfile, Containerfile)."
)
@declare.option("--context", "context_option", metavar="CONTEXT", help="The context, as kaniko names it.")
@declare.option(
    "--context-sub-path", "subdir", default="", metavar="DIR", help="A directory in it that is the context."
)
@declare.option("--target", metavar="STAGE", help="Build this stage (default: the last).")
@declare.option(
    "--build-arg", "arguments", multiple=True, metavar="NAME[=VALUE]", help="Sets an ARG; from here if bare."
)
@declare.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label for the image.")
@declare.option("--build-context", "contexts", multiple=True, metavar="NAME=PLACE", help="A context for COPY --from.")
@declare.option(
    "--allow",
    multiple=True,
    metavar="security.insecure|network.host|device[=NAME]",
    help="What RUN may ask for.",
)
@declare.option("--check", is_flag=True, help="Only check the Dockerfile: build nothing; 1 when there are warnings.")
@declare.option("--call", type=declare.Choice(["build", "check"]), hidden=True)
@declare.option("--no-cache", is_flag=True, help="Do every step, whatever the cache has.")
@declare.option("--no-cache-filter", multiple=True, metavar="STAGE", help="The same for steps of this stage.")
@declare.option(
    "--pull",
    "--always-pull",
    "pull",
    bare="always",
    default="missing",
    envvar="FASTLAYER_PULL",
    metavar="[=always|missing|newer|never]",
    help="When registries are asked for images (default: missing, or FASTLAYER_PULL; alone: always).",
)
@declare.option("--explain", is_flag=True, help="Say of each step that is done why the cache had nothing for it.")
@declare.option(
    "--cache-mode", type=declare.Choice(["content", "git"]), default="content", help="git: modes as git has them."
)
@declare.option(
    "--cache-from",
    multiple=True,
    metavar="type=registry,ref=NAME|type=local,src=DIR...",
    help="Also use this cache; or NAME, or DIR.",
)
@declare.option(
    "--cache-to",
    multiple=True,
    metavar="type=registry,ref=NAME|type=local,dest=DIR|type=inline[,mode=min|max...]",
    help="Write a cache there, or into the image; or NAME, or DIR.",
)
@declare.option("--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]", help="For RUN --mount.")
@declare.option("--ssh", multiple=True, metavar="default|ID[=SOCKET]", help="For RUN --mount=type=ssh.")
@declare.option("--network", type=declare.Choice(["default", "none", "host"]), default="default", help="Of RUN.")
@declare.option("--add-host", "hosts", multiple=True, metavar="NAME:ADDRESS", help="A line for /etc/hosts in RUN.")
@declare.option("--shm-size", metavar="SIZE", help="Of /dev/shm in RUN (default: 64m).")
@declare.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="A limit of RUN; -1: none.")
@declare.option(
    "--security-opt",
    "security_opts",
    multiple=True,
    metavar="seccomp=FILE|unconfined, no-new-privileges",
    help="Of RUN (default: Docker's seccomp profile).",
)
@declare.option("--cap-add", "added", multiple=True, metavar="CAP", help="A capability more for RUN, or ALL (buildah).")
@declare.option("--cap-drop", "dropped", multiple=True, metavar="CAP", help="A capability less, or ALL (buildah).")
@declare.option(
    "--device", "devices", multiple=True, metavar="PATH[:TARGET]|VENDOR/CLASS=NAME", help="A device that RUN sees."
)
@declare.option(
    "--isolation", type=declare.Choice(["oci", "native", "chroot"]), help="How RUN runs (default: what works)."
)
@declare.option("--squash", "--single-snapshot", "squash", is_flag=True, help="All new layers become one.")
@declare.option(
    "-o", "--output", "outputs", multiple=True, metavar="type=TYPE[,dest=PATH...]", help="Also write it there; or DIR."
)
@declare.option("--tar-path", "--tarPath", "tar_path", metavar="FILE", help="A docker-archive (kaniko).")
@declare.option("--oci-layout-path", metavar="DIR", help="An OCI layout (kaniko).")
@declare.option("--push", is_flag=True, help="Push the image to where its names say: -o type=registry.")
@declare.option("--no-push", is_flag=True, help="Nothing is pushed, whatever else is said (kaniko).")
@declare.option("--iidfile", metavar="FILE", help="Write the image id there.")
@declare.option("--metadata-file", metavar="FILE", help="Write digests and names there, as JSON.")
@declare.option("--digest-file", metavar="FILE", help="Write the manifest's digest there.")
@declare.option("--image-name-with-digest-file", metavar="FILE", help="Write NAME@DIGEST there.")
@declare.option("--image-name-tag-with-digest-file", metavar="FILE", help="Write NAME:TAG@DIGEST there.")
@declare.option(
    "--source-date-epoch",
    "--timestamp",
    type=declare.IntRange(min=0),
    metavar="SECONDS",
    help="No time in the image is later.",
)
@declare.option("-q", "--quiet", is_flag=True, help="Print the image id, nothing else.")
@declare.option(
    "--progress", type=options.PROGRESS, envvar="BUILDKIT_PROGRESS", default="auto", help="As BuildKit has it."
)
@declare.option("--format", "format_", type=declare.Choice(["table", "json"]), default="table", help="Of the summary.")
@stores.platform_option("What it is for (default: this machine).")
@registries.connection_options
@options.jobs_option
@stores.store_options
@build_others.other_options
def command(**given: Any) -> int:
    """Build an image of the Dockerfile in CONTEXT: a directory, `-` (a tar or Dockerfile on stdin), a tar, or git.

    Layers are shared, and steps that were done before are not done again: the cache is keyed by content.
    """
    wanted = build_options.wanted(given)
    if given.pop("call") == "check" or given["check"]:
        return _check(given, wanted)
    as_root(given)
    exports, notes = build_options.exports(given), build_options.notes(given)
    _check_exports(exports, wanted)
    given["tags"] = (*given["tags"], *(name for export in exports if export.type == "image" for name in export.names))
    if notes is not None:
        from fastlayer.builder.outputs.notes import forget_notes

        forget_notes(notes)
    asked = memos.question(given, wanted)
    with stores.open_store(given, create=True) as store:
        result = memos.recalled(store, asked, given) or _done(store, wanted, given, asked)
        built = _written(store, result, exports, wanted, given)
        if notes is not None:
            from fastlayer.builder.outputs.notes import write_notes

            write_notes(notes, built or result.built)
    output.warn(result.warnings, given["quiet"])
    if result.lint and not given["quiet"]:
        from fastlayer.builder.lint import report

        print(*report.summary(result.lint), sep="\n", file=sys.stderr)
    if not any(export.to_stdout for export in exports):
        _summary(result, given)
    return 0


def _done(store: Store, wanted: Options, given: dict[str, Any], asked: Any) -> BuildResult:
    with _context(given, wanted, store) as context:
        return _built(store, context, wanted, given, asked)


def _context(given: dict[str, Any], wanted: Options, store: Store | None) -> Context:
    from fastlayer.builder.context.context import open_context

    return open_context(
        given["context_option"] or given["context"],
        dockerfile=given["file"],
        store=None if store is None else store.root,
        git=wanted.git,
        subdir=given["subdir"],
        jobs=given["jobs"],
    )


def _built(store: Store, context: Context, wanted: Options, given: dict[str, Any], asked: Any) -> BuildResult:
    """The result; of a step that failed, its last output and its lines of the Dockerfile are shown."""
    from fastlayer.builder.build import build_in
    from fastlayer.cli.build_progress import observer
    from fastlayer.errors import BuildError

    try:
        watch = observer(given["progress"], quiet=given["quiet"])
        return build_in(store, context, wanted, given["tags"], watch, asked=asked)
    except BuildError as exc:
        if given["progress"] != "rawjson":
            _show_failure(exc, context)
        raise


def _show_failure(error: BuildError, context: Context) -> None:
    from fastlayer.cli.build_text import excerpt, tail_lines

    lines = tail_lines(error.output, 20)
    if lines:
        print("------", *lines, "------", sep="\n", file=sys.stderr)
    if error.line and context.dockerfile is not None:
        print(*excerpt(context.dockerfile.data, error.line), sep="\n", file=sys.stderr)


def _check_exports(exports: list[Export], wanted: Options) -> None:
    if exports:
        from fastlayer.builder.outputs.write import check_export

        for export in exports:
            check_export(export, wanted.epoch, to_stdout=not sys.stdout.isatty())


def _written(store: Store, result: BuildResult, exports: list[Export], wanted: Options, given: dict[str, Any]) -> Any:
    """Writes what was asked for; what scripts are told of the first image that left the store."""
    first = None
    for export in exports:
        from fastlayer.builder.outputs.write import write_output

        with _shown(export, given) as observe:
            done = write_output(
                store,
                result.image,
                export,
                names=result.names,
                stdout=sys.stdout.buffer if export.to_stdout else None,
                source_date_epoch=wanted.epoch,
                base_layers=result.base_layers,
                jobs=wanted.jobs,
                wishes=wanted.wishes,
                observe=observe,
            )
        output.warn(done.warnings)
        if export.push or export.type not in ("image", "cacheonly"):
            first = first or done.built
    return first


@contextmanager
def _shown(export: Export, given: dict[str, Any]) -> Iterator[Observer | None]:
    """The progress of a push."""
    if not export.push:
        yield None
        return
    from fastlayer.cli.transfer_progress import TransferReporter

    with TransferReporter(given["progress"], quiet=given["quiet"]) as reporter:
        yield reporter.observe


def _check(given: dict[str, Any], wanted: Options) -> int:
    """--check: the report on stdout; 1 when there is something in it."""
    from fastlayer.builder.build import platform_arguments
    from fastlayer.builder.lint import report
    from fastlayer.builder.lint.check import check

    with _context(given, wanted, None) as context:
        assert context.dockerfile is not None
        found = check(
            context.dockerfile.data,
            context.dockerfile.name,
            target=wanted.target,
            arguments=wanted.arguments,
            platforms=platform_arguments(wanted.platform),
            ignored=context.patterns,
            bases=_bases(given),
        )
    if given["format_"] == "json":
        print(output.json_line(report.to_dict(found)).decode())
    else:
        print(*report.lines(found), sep="\n")
    return 0 if found.clean else 1


def _bases(given: dict[str, Any]) -> Any:
    """What is known of base images; where there is no store, nothing."""
    from fastlayer.builder.lint.bases import bases_of
    from fastlayer.errors import FastlayerError

    try:
        return bases_of(stores.open_store(given))
    except FastlayerError:
        return None


def _summary(result: BuildResult, given: dict[str, Any]) -> None:
    image = result.image
    if given["format_"] == "json":
        print(output.json_line(_value(result)).decode())
        return
    print(image.id, flush=True)
    if given["quiet"] or given["progress"] == "rawjson":
        return
    layers = " + ".join(output.human(layer.payload) for layer in image.layers) or "no layers"
    print(f"Layers: {layers} = {output.human(image.size)}", file=sys.stderr)
    if result.cached:
        saved = f"{result.saved_ns / 1e9:.1f} s"
        reused = output.human(result.reused)
        print(f"Cache: {result.cached} of {result.steps} steps, saved {saved} and {reused} of layers", file=sys.stderr)
    for name in result.names:
        print(f"Named {':'.join(stores.familiar(name))}", file=sys.stderr)


def _value(result: BuildResult) -> dict[str, Any]:
    image = result.image
    return {
        "schema": 1,
        "id": image.id,
        "digest": image.target.digest,
        "names": image.names,
        "layers": [{"diff_id": layer.diff_id, "size": layer.payload} for layer in image.layers],
        "steps": result.steps,
        "cached": result.cached,
        "saved_seconds": result.saved_ns / 1e9,
        "reused_bytes": result.reused,
    }
