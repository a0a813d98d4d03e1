"""``fastlayer checkpoint``, ``rollback`` and ``fork``: named states of writable layers."""

from __future__ import annotations

from typing import Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare

EPILOG = """\b
Examples:
  fastlayer checkpoint work before-upgrade         what `work` holds now; it may be mounted
  fastlayer checkpoint work                        list them
  fastlayer rollback work before-upgrade
  fastlayer fork work try                          the same under another name
  fastlayer fork --from before-upgrade work old
  fastlayer checkpoint --rm work before-upgrade
"""


@declare.command("checkpoint", epilog=EPILOG)
@declare.argument("name", type=options.WORD)
@declare.argument("checkpoint", required=False, type=options.WORD)
@declare.option("--rm", "remove", is_flag=True, help="Remove it.")
@declare.option("--format", "format_", type=declare.Choice(["table", "json"]), default="table", help="Of the list.")
@declare.option("-q", "--quiet", is_flag=True, help="Only names; no warnings.")
@stores.store_options
def command(**given: Any) -> int:
    """Keep what the writable layer NAME holds now as CHECKPOINT; without one, list them."""
    from fastlayer.container import checkpoints, writable

    wanted, warnings = given["checkpoint"], list[str]()
    if given["remove"] and wanted is None:
        raise declare.LineError("--rm needs the name of a checkpoint")
    with stores.open_as_root(given) as store:
        layer = writable.find(store, given["name"])
        if wanted is None:
            _print(checkpoints.all_of(store, layer), given)
        elif given["remove"]:
            checkpoints.remove(store, layer, wanted)
        else:
            checkpoints.save(store, layer, wanted, warnings=warnings)
    output.warn(warnings, given["quiet"])
    if wanted is not None:
        print(wanted)
    return 0


@declare.command("rollback", epilog=EPILOG)
@declare.argument("name", type=options.WORD)
@declare.argument("checkpoint", type=options.WORD)
@stores.store_options
def rollback(**given: Any) -> int:
    """Give the writable layer NAME, which must not be mounted, what it held at CHECKPOINT; what came later is lost."""
    from fastlayer.container import checkpoints, writable

    with stores.open_as_root(given) as store:
        checkpoints.rollback(store, writable.find(store, given["name"]), given["checkpoint"])
    print(given["name"])
    return 0


@declare.command("fork", epilog=EPILOG)
@declare.argument("name", type=options.WORD)
@declare.argument("new", type=options.WORD)
@declare.option("--from", "checkpoint", metavar="CHECKPOINT", help="What it held then (default: now).")
@declare.option("-q", "--quiet", is_flag=True, help="No warnings on stderr.")
@stores.store_options
def fork(**given: Any) -> int:
    """Make NEW of what NAME holds, on the same image: a container of a container, a writable layer of a layer.

    NAME may be running, or mounted. A container NEW has its configuration, its volumes that have names, and copies of
    those that have none; `fastlayer start` starts it.
    """
    from fastlayer.container import checkpoints, containers, forking, writable

    warnings: list[str] = []
    with stores.open_as_root(given) as store:
        layer = writable.find(store, given["name"])
        if layer.container is not None:
            container = containers.find(store, layer.container)
            forking.fork(store, container, given["new"], checkpoint=given["checkpoint"], warnings=warnings)
        else:
            checkpoints.fork(store, layer, given["new"], checkpoint=given["checkpoint"], warnings=warnings)
    output.warn(warnings, given["quiet"])
    print(given["new"])
    return 0


def _print(found: list[Any], given: dict[str, Any]) -> None:
    if given["quiet"]:
        print(*(one.name for one in found), sep="\n", end="\n" if found else "")
    elif given["format_"] == "json":
        for one in found:
            print(output.json_line({"schema": 1, **one._asdict()}).decode())
    else:
        rows = [
            (one.name, stores.ago_ns(one.created_ns), output.human(one.size), output.human(one.shared)) for one in found
        ]
        output.table(("CHECKPOINT", "CREATED", "SIZE", "SHARED"), rows)
