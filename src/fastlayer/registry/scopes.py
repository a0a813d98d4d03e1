"""Scopes: what a token is good for (Docker's token specification, "scope": ``TYPE:NAME:ACTION,ACTION``)."""

from __future__ import annotations

from collections.abc import Iterable

CATALOG = "registry:catalog:*"


def repository_scope(name: str, *actions: str) -> str:
    """``repository:NAME:pull,push``."""
    return f"repository:{name}:{','.join(sorted(actions))}"


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """One scope for each thing, with the actions of all; sorted, so that the same wishes are the same tuple."""
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        thing, colon, wanted = scope.strip().rpartition(":")
        if colon and thing:  # a name may have a port: the last colon counts
            actions.setdefault(thing, set()).update(filter(None, wanted.split(",")))
    return tuple(f"{thing}:{','.join(sorted(actions[thing]))}" for thing in sorted(actions))


def covers(have: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether ``have`` allows all that ``wanted`` does; both as ``merge_scopes`` writes them."""
    owned = {thing: set(actions.split(",")) for thing, _, actions in (scope.rpartition(":") for scope in have)}
    for scope in wanted:
        thing, _, actions = scope.rpartition(":")
        if not set(actions.split(",")) <= owned.get(thing, set()):
            return False
    return True
