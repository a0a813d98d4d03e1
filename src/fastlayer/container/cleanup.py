"""``python -m fastlayer.container.cleanup ROOT ID``: what the end of a container brings along.

A monitor executes it when nobody who could do that is attached any more: a container that was not to stay is removed,
the volumes of another are given back.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from fastlayer.errors import FastlayerError


def main(root: str, identity: str) -> None:
    """Nobody listens: what cannot be done now, the next command does."""
    from fastlayer.container import containers, lifecycle
    from fastlayer.store.store import existing_store

    with suppress(FastlayerError), existing_store(root) as store:
        lifecycle.ended(store, containers.find(store, identity))


if __name__ == "__main__":
    main(*sys.argv[1:3])
