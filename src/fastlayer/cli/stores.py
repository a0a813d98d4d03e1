"""The store a verb works in: its options, opening it, and how its things are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastlayer.cli import options
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from datetime import datetime

    from fastlayer.errors import FastlayerError
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def store_options(function: F) -> F:
    """--root and --driver."""
    function = declare.option(
        "--driver", metavar="NAME", help="Storage driver (default: FASTLAYER_DRIVER, or the first that works)."
    )(function)
    return declare.option(
        "--root",
        metavar="DIR",
        type=options.WORD,
        help="The store (default: FASTLAYER_ROOT, /var/lib/fastlayer, or your data directory).",
    )(function)


def platform_option(words: str = "Which image of several (default: this machine's).") -> Callable[[F], F]:
    """--platform; ``words``: what it means here."""
    return declare.option("--platform", metavar="OS/ARCH[/VARIANT]", help=words)


def open_store(given: dict[str, Any], *, create: bool = False) -> Store:
    """The store that was asked for. Only verbs that bring something in make a new one."""
    from fastlayer.store.store import existing_store, open_store

    opener = open_store if create else existing_store
    return opener(given["root"], driver=given["driver"])


def open_as_root(given: dict[str, Any], *, create: bool = False) -> Store:
    """The same for verbs that work with the files of layers, which may belong to any of the ids that a user has.

    Only while this process has no other threads.
    """
    as_root(given)
    return open_store(given, create=create)


@contextmanager
def store_if_any(given: dict[str, Any]) -> Iterator[Store | None]:
    """For lists: where there is no store there is nothing to list."""
    from pathlib import Path

    from fastlayer.store import access
    from fastlayer.store.store import default_root

    root = Path(given["root"]) if given["root"] else default_root()
    if not access.exists(root) and not root.exists():
        yield None
        return
    with open_store(given) as store:
        yield store


def platform(given: dict[str, Any]) -> Platform | None:
    """--platform as a value."""
    from fastlayer.oci.platform import parse_platform

    return parse_platform(given["platform"]) if given["platform"] else None


def short(digest: str | None, *, full: bool = False) -> str:
    """12 hex digits of a digest, or all of it."""
    if digest is None:
        return "<missing>"
    return digest if full else digest.partition(":")[2][:12]


def familiar(name: str) -> tuple[str, str]:
    """(REPOSITORY, TAG) as Docker shows a name of the store; an image without one has a digest instead."""
    if name.startswith("sha256:"):
        return "<none>", "<none>"
    from fastlayer.oci.reference import stored_reference

    reference = stored_reference(name)
    return reference.familiar_name, reference.tag or "<none>"


def moment(created: str) -> datetime | None:
    """An RFC 3339 time; None for what is none."""
    from datetime import UTC, datetime

    try:
        found = datetime.fromisoformat(created.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def ago(created: str) -> str:
    """An RFC 3339 time as people say it: ``3 hours ago``."""
    from datetime import UTC, datetime

    made = moment(created)
    return "N/A" if made is None else f"{elapsed((datetime.now(UTC) - made).total_seconds())} ago"


def ago_ns(moment_ns: int) -> str:
    """The same of nanoseconds since 1970."""
    from datetime import UTC, datetime

    return ago(datetime.fromtimestamp(moment_ns / 1e9, UTC).isoformat())


def elapsed(seconds: float) -> str:
    """A duration in one unit, rounded down: ``5 minutes``."""
    seconds = max(0, int(seconds))
    for size, unit in ((31_536_000, "year"), (2_592_000, "month"), (604_800, "week"), (86_400, "day"), (3_600, "hour")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}s"
    if seconds >= 60:
        count = seconds // 60
        return "About an hour" if count >= 60 else f"{count} minute{'s' if count > 1 else ''}"
    return "Less than a second" if seconds < 1 else f"{seconds} second{'s' if seconds > 1 else ''}"


def shown(name: str) -> str:
    """A name as people write it; an id shortened."""
    return short(name) if name.startswith("sha256:") else ":".join(familiar(name))


def all_failed(errors: list[FastlayerError]) -> int:
    """The exit code of a verb that went through several things: each failure is a line of its own."""
    import sys

    for error in errors[:-1]:
        print(f"fastlayer: {error}", file=sys.stderr)
    if errors:
        raise errors[-1]
    return 0
