"""``fastlayer ps``: the containers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastlayer.cli import filters, output, rows, stores
from fastlayer.cli.line import declare
from fastlayer.cli.plain import Labels
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.container.containers import Container
    from fastlayer.container.state import State
    from fastlayer.image.images import Images
    from fastlayer.store.store import Store

COLUMNS: rows.Columns = (
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
)
_STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
_WIDTH = 20  # characters of a command, with its quotes
_NAME = 15  # characters of the name of a mount
EPILOG = """\b
Examples:
  fastlayer ps                     those that run
  fastlayer ps -a -s               all of them, with the size of their writable layers
  fastlayer ps -aq --filter status=exited --filter label=job=nightly
  fastlayer ps --format '{{.ID}} {{.Names}} {{.Status}}'
"""


@declare.command("ps", epilog=EPILOG)
@declare.option("-a", "--all", "every", is_flag=True, help="Those that do not run, too.")
@declare.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@declare.option("-n", "--last", type=int, default=-1, metavar="N", help="The N newest, whatever they do.")
@declare.option("-l", "--latest", is_flag=True, help="The newest, whatever it does.")
@declare.option("-s", "--size", is_flag=True, help="Measure the writable layers.")
@declare.option("--no-trunc", is_flag=True, help="Whole ids and commands.")
@filters.filter_option(
    "id", "name", "label", "status", "exited", "ancestor", "before", "since", "volume", "network", short=True
)
@rows.format_option
@stores.store_options
def command(**given: Any) -> int:
    """List containers that run, or all of them."""
    _check(given["filters"])
    if given["size"]:
        as_root(given)
    with stores.store_if_any(given) as store:
        found = [] if store is None else _found(store, given)
    if given["quiet"]:
        output.write_lines(row["ID"].encode() for row in found)
        return 0
    columns = (*COLUMNS, ("SIZE", "Size")) if given["size"] else COLUMNS
    rows.show(given["format_"], columns, found)
    return 0


def _check(wanted: filters.Filters) -> None:
    for value in wanted.get("status", ()):
        if value not in _STATES:
            raise declare.LineError(f"--filter status={value}: there is no such status: use {', '.join(_STATES)}")
    for value in wanted.get("exited", ()):
        if not value.lstrip("-").isdecimal():
            raise declare.LineError(f"--filter exited={value}: give an exit status")


def _found(store: Store, given: dict[str, Any]) -> Sequence[rows.Row]:
    from fastlayer.container import containers, lifecycle

    lifecycle.recover(store)
    last = 1 if given["latest"] else given["last"]
    wanted = given["filters"]
    every = given["every"] or last > 0 or "status" in wanted or "exited" in wanted
    meant = _Meant(store, wanted)
    found = []
    for row in containers.all_of(store):
        state = lifecycle.state_of(store, row)
        if (every or state.running) and meant(row, state):
            found.append(_row(store, row, state, given))
    return found[:last] if last > 0 else found


class _Meant:
    """Whether a container fits all filters."""

    def __init__(self, store: Store, wanted: filters.Filters) -> None:
        import re

        from fastlayer.container import containers
        from fastlayer.image.images import Images

        self._wanted = wanted
        try:
            self._names = [re.compile(text.removeprefix("/")) for text in wanted.get("name", ())]
        except re.error as exc:
            raise declare.LineError(f"--filter name: is no pattern: {exc}") from None
        self._store = store
        self._images = {identity for text in wanted.get("ancestor", ()) for identity in _ids(Images(store), text)}
        self._before = [containers.find(store, text).created_ns for text in wanted.get("before", ())]
        self._since = [containers.find(store, text).created_ns for text in wanted.get("since", ())]

    def __call__(self, row: Container, state: State) -> bool:
        from fastlayer.cli.containers import _has_label

        wanted = self._wanted
        return (
            _any(row.id.startswith(text) for text in wanted.get("id", ()))
            and _any(bool(pattern.search(row.name)) for pattern in self._names)
            and all(_has_label(row, text) for text in wanted.get("label", ()))
            and _any(state.status == text for text in wanted.get("status", ()))
            and _any(state.status == "exited" and state.exit_code == int(text) for text in wanted.get("exited", ()))
            and ("ancestor" not in wanted or row.image_id in self._images)
            and all(row.created_ns < moment for moment in self._before)
            and all(row.created_ns > moment for moment in self._since)
            and ("volume" not in wanted or any(map(self._has_mount(row).__contains__, wanted["volume"])))
            and ("network" not in wanted or _network_of(self._store, row) in wanted["network"])
        )

    def _has_mount(self, row: Container) -> set[str]:
        """As Docker: by the name of a volume, or what it is mounted from or at."""
        from fastlayer.container import inspecting

        return {word for mount in inspecting.mounts(self._store, row) for word in (mount.source, mount.target)}


def _ids(images: Images, text: str) -> set[str]:
    """What is not there is no ancestor of anything."""
    from fastlayer.errors import NotFoundError

    try:
        return {str(images.find(text).id)}
    except NotFoundError:
        return set()


def _network_of(store: Store, row: Container) -> str:
    from fastlayer.container import containers, inspecting

    return inspecting.network(containers.config_of(store, row)["HostConfig"]["NetworkMode"])


def _any(fits: Any) -> bool:
    """Of the same key one value has to fit, if there is one."""
    values = list(fits)
    return not values or any(values)


def _row(store: Store, row: Container, state: State, given: dict[str, Any]) -> rows.Row:
    full = given["no_trunc"]
    return {
        "ID": row.id if full else row.short_id,
        "Image": row.image,
        "Command": _command(row.command, full),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(row.created_ns / 1e9)),
        "RunningFor": stores.elapsed(time.time() - row.created_ns / 1e9) + " ago",
        "Status": status_text(state),
        "State": state.status,
        "Ports": "",
        "Names": row.name,
        "Labels": Labels(row.labels),
        **(_of_record(store, row, full) if _is_wide(given["format_"]) else {}),
        "Size": _size(store, row) if given["size"] else "",
    }


def _is_wide(format_: str) -> bool:
    """Whether it asks for what is in the configuration, and hence a file to be read for each container."""
    return any(word in format_ for word in ("json", "{{.}}", "Mounts", "Networks", "LocalVolumes"))


def _of_record(store: Store, row: Container, full: bool) -> rows.Row:
    from fastlayer.container import inspecting

    mounts = inspecting.mounts(store, row)
    names = [mount.source for mount in mounts]
    shown = names if full else [f"{name[: _NAME - 1]}…" if len(name) > _NAME else name for name in names]
    return {
        "Mounts": ",".join(shown),
        "Networks": _network_of(store, row),
        "LocalVolumes": str(sum(mount.kind == "volume" for mount in mounts)),
    }


def _command(words: tuple[str, ...], full: bool) -> str:
    text = " ".join([*words[:1], *(f"'{word}'" if " " in word else word for word in words[1:])])
    if not full and len(text) > _WIDTH:
        text = text[: _WIDTH - 1] + "…"
    return f'"{text}"'


def status_text(state: State) -> str:
    """As Docker says it: ``Up 5 minutes``, ``Exited (0) 2 hours ago``."""
    now = time.time()
    if state.status == "created":
        return "Created"
    if state.running:
        since = stores.elapsed(now - state.started_ns / 1e9)
        return f"Up {since}" + (" (Paused)" if state.status == "paused" else "")
    return f"Exited ({state.exit_code}) {stores.elapsed(now - state.finished_ns / 1e9)} ago"


def _size(store: Store, row: Container) -> str:
    from fastlayer.container.inspecting import sizes

    own, virtual = sizes(store, row)
    return f"{output.docker_size(own)} (virtual {output.docker_size(virtual)})"
