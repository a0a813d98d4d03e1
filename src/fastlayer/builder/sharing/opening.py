"""Opens what ``--cache-from`` names; what cannot be read is no reason not to build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastlayer.builder.sharing.imports import Import, Imports
from fastlayer.errors import FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.options import Options
    from fastlayer.builder.progress import Journal
    from fastlayer.builder.sharing.options import CacheFrom
    from fastlayer.builder.sharing.places import Source


@contextmanager
def imported(options: Options, journal: Journal, warnings: list[str]) -> Iterator[Imports]:
    """The caches for a build; of those that cannot be read ``warnings`` gets a line each."""
    found = Imports()
    try:
        for wanted in () if options.no_cache else options.cache_from:
            with journal.vertex(f"importing cache manifest from {wanted}") as work:
                try:
                    found.all.append(_opened(wanted, options, warnings))
                except FastlayerError as exc:
                    work.note(f"not used: {exc}")
                    warnings.append(f"--cache-from: {exc}: building without it")
        yield found
    finally:
        found.close()


def _opened(wanted: CacheFrom, options: Options, warnings: list[str]) -> Import:
    source = _source(wanted, options, warnings)
    try:
        return Import(source)
    except BaseException:
        source.close()
        raise


def _source(wanted: CacheFrom, options: Options, warnings: list[str]) -> Source:
    if wanted.kind == "local":
        from fastlayer.builder.sharing.layout import LayoutSource

        return LayoutSource(wanted)
    from fastlayer.builder.sharing.repository import RepositorySource

    return RepositorySource(wanted, options.wishes, options.platform, warnings.append)
