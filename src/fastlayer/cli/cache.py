"""``fastlayer cache``: what builds remember."""

from __future__ import annotations

import time
from typing import Any

from fastlayer.cli import filters, options, output, rows, stores
from fastlayer.cli.line import declare

_VERBS = {
    "ls": ("cache:ls", "List steps of builds, and cache mounts."),
    "prune": ("cache:prune", "Forget steps, and remove what only they kept; or cache mounts."),
    "export": ("cache_mounts:export_mounts", "Write cache mounts as chunks, to a directory or a tar."),
    "import": ("cache_mounts:import_mounts", "Take cache mounts from what export wrote."),
    "limit": ("cache_mounts:limit", "Show or set what cache mounts may take, and how long they stay."),
    "why": ("cache:why", "Say why steps were done and not taken from the cache."),
}
_COLUMNS = (
    ("KEY", "Key"),
    ("TYPE", "Type"),
    ("WHAT", "What"),
    ("USED", "Used"),
    ("TOOK", "Took"),
    ("SIZE", "Size"),
    ("SHARED", "Shared"),
)
_REASONS = (("KEY", "Key"), ("WHAT", "What"), ("DONE", "Done"), ("WHY", "Why"))
_WIDE = 60  # characters of an instruction


command = declare.Group(
    "cache", "The build cache: what steps came to, and the directories of RUN --mount=type=cache.", {"Verbs": _VERBS}
)


@declare.command("ls")
@declare.option("--no-trunc", is_flag=True, help="Whole instructions and keys.")
@rows.format_option
@stores.store_options
def ls(**given: Any) -> int:
    """List the steps of builds that are remembered, the latest used first, then cache mounts."""
    from fastlayer.builder import cachemounts, pruning

    found: list[rows.Row] = []
    with stores.store_if_any(given) as store:
        if store is not None:
            found = [_step(step, given["no_trunc"]) for step in pruning.steps(store)]
            found += [_mount(mount, pruning.size_of(store, mount)) for mount in cachemounts.all_mounts(store)]
    rows.show(given["format_"], _COLUMNS, found, frozenset({"Size", "Took"}))
    return 0


def _step(step: Any, full: bool) -> rows.Row:
    return {
        "Key": step.key if full else step.key[:12],
        "Type": "step",
        "What": _cut(step.what, full),
        "Used": stores.ago_ns(step.used_ns),
        "Took": f"{step.duration_ns / 1e9:.1f}s",
        "Size": output.human(step.size),
        "Shared": str(step.shared).lower(),
    }


def _mount(mount: Any, size: int) -> rows.Row:
    return {
        "Key": str(mount.number),
        "Type": "mount",
        "What": mount.id,
        "Used": stores.ago_ns(mount.used_ns),
        "Took": "",
        "Size": output.human(size),
        "Shared": "false",
    }


@declare.command("prune")
@declare.option("-a", "--all", "everything", is_flag=True, help="Also what images have, and cache mounts.")
@declare.option("--type", "kind", type=declare.Choice(["step", "mount"]), help="Only steps, or only cache mounts.")
@declare.option("--id", "ids", multiple=True, metavar="ID", help="Only cache mounts with this id.")
@declare.option("--unused-for", metavar="DURATION", help="Only what was not used for so long: 24h, 30m.")
@declare.option("--keep-storage", "keep", metavar="SIZE", help="As much may stay, the latest used.")
@declare.option("--dry-run", is_flag=True, help="Only say what would go.")
@declare.option("-f", "--force", is_flag=True, help="Do not ask.")
@stores.store_options
def prune(**given: Any) -> int:
    """Forget steps whose layers no image has, and remove their layers; with --type mount or --id: cache mounts."""
    from fastlayer.builder import pruning
    from fastlayer.cli.prune import confirm

    age = given["unused_for"]
    if given["kind"] == "step" and given["ids"]:
        raise declare.LineError("--id is of cache mounts, --type step is of steps: give one of them")
    what = _doomed(given)
    with stores.open_as_root(given) as store:
        confirm(given, what)
        done = pruning.prune(
            store,
            everything=given["everything"],
            kind=given["kind"],
            ids=given["ids"],
            unused_for=None if age is None else time.time() - filters.until(age).timestamp(),
            keep=options.size(given["keep"]),
            dry_run=given["dry_run"],
        )
    would = "Would remove" if given["dry_run"] else "Removed"
    print(f"{would} {done.steps} steps and {done.mounts} cache mounts: {output.human(done.bytes)}")
    return 0


def _doomed(given: dict[str, Any]) -> str:
    if given["kind"] == "mount" or given["ids"]:
        return "cache mounts, with what is in them"
    steps = "all steps of builds" if given["everything"] else "steps of builds that no image has"
    return f"{steps}, and cache mounts" if given["everything"] and given["kind"] is None else steps


@declare.command("why")
@declare.argument("step", default="")
@declare.option("--no-trunc", is_flag=True, help="Whole instructions and keys.")
@rows.format_option
@stores.store_options
def why(**given: Any) -> int:
    """Say why the latest steps were done: what was another input than the last time. STEP: a key, or words of the
    instruction."""
    from fastlayer.builder import pruning

    found: list[rows.Row] = []
    with stores.store_if_any(given) as store:
        if store is not None:
            found = [
                {
                    "Key": reason.key if given["no_trunc"] else reason.key[:12],
                    "What": _cut(reason.what, given["no_trunc"]),
                    "Done": stores.ago_ns(reason.created_ns),
                    "Why": reason.reason,
                }
                for reason in pruning.reasons(store, given["step"])
            ]
    rows.show(given["format_"], _REASONS, found, frozenset())
    return 0


def _cut(text: str, full: bool) -> str:
    line = " ".join(text.split())
    return line if full or len(line) <= _WIDE else line[: _WIDE - 3] + "..."
