"""``fastlayer.build``: a Dockerfile and a context become an image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastlayer._checked import mapping, seconds, text, text_or_none, truth, words
from fastlayer.builder.effects import Given
from fastlayer.builder.options import Options
from fastlayer.builder.progress import Journal, Observer, Silent
from fastlayer.builder.result import BuildResult
from fastlayer.builder.sharing.imports import CacheGoneError, Imports
from fastlayer.errors import BuildError, FastlayerError

if TYPE_CHECKING:
    from fastlayer.builder.context.context import Context
    from fastlayer.builder.dockerfile.stages import Dockerfile
    from fastlayer.builder.graph import Plan
    from fastlayer.builder.lint.rules import LintWarning
    from fastlayer.builder.memo import Question
    from fastlayer.builder.workshop import Workshop
    from fastlayer.image.images import Image
    from fastlayer.oci.platform import Platform
    from fastlayer.store.store import Store


def build(
    context: Any = ".",
    *,
    tags: Sequence[str] = (),
    file: str | os.PathLike[str] | None = None,
    target: str | None = None,
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    platform: str | None = None,
    no_cache: bool = False,
    source_date_epoch: int | None = None,
    isolation: str | None = None,
    allow: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    driver: str | None = None,
    observer: Observer | None = None,
    cache_from: Sequence[str] = (),
    cache_to: Sequence[str] = (),
    pull: str = "missing",
) -> BuildResult:
    """Builds an image of a Dockerfile: ``fastlayer.build(".", tags=["app:1"])``.

    ``context``: a directory, a tar, or what else ``fastlayer build`` takes. ``tags``: names for the image. Raises
    ``DockerfileError`` for a Dockerfile that means nothing, ``BuildError`` for a step that fails; steps before it stay
    in the cache. ``allow``: as ``--allow``: ``["security.insecure"]``. ``observer``: told what happens
    (``fastlayer.builder.progress.Observer``). ``cache_from``, ``cache_to``: caches to be read and written, as
    ``--cache-from`` and ``--cache-to`` spell them. ``pull``: when registries are asked for images, as ``--pull``.
    """
    from fastlayer.builder.context.context import open_context
    from fastlayer.builder.leave import parse_leave
    from fastlayer.builder.pulling import parse_pull
    from fastlayer.builder.sharing.options import shared
    from fastlayer.oci.platform import parse_platform
    from fastlayer.store.store import open_store

    options = Options(
        target=text_or_none("target", target),
        platform=parse_platform(text("platform", platform)) if platform else None,
        arguments=mapping("build_args", build_args or {}),
        labels=mapping("labels", labels or {}),
        no_cache=truth("no_cache", no_cache),
        epoch=None if source_date_epoch is None else seconds("source_date_epoch", source_date_epoch),
        isolation=text_or_none("isolation", isolation),
        leave=parse_leave(words("allow", allow)),
        pull=parse_pull(text("pull", pull)),
        **shared(words("cache_from", cache_from), words("cache_to", cache_to), build_args or {}),
    )
    names = words("tags", tags)
    file = text_or_none("file", os.fspath(file) if isinstance(file, os.PathLike) else file)
    with open_store(root, driver=driver) as store, open_context(context, dockerfile=file, store=store.root) as opened:
        return build_in(store, opened, options, names, observer or Silent())


def build_in(
    store: Store,
    context: Context,
    options: Options,
    tags: Iterable[str],
    observer: Observer,
    *,
    asked: Question | None = None,
) -> BuildResult:
    """The same in an open store, of an open context. ``asked``: under which it is remembered (``memo.py``)."""
    from fastlayer.builder.dockerfile.shell import Budget
    from fastlayer.builder.dockerfile.stages import read
    from fastlayer.builder.fitting import fit
    from fastlayer.builder.overrides import overridden, target_of
    from fastlayer.image.record import new_name

    names = [name for name in map(new_name, tags) if name]
    text = context.dockerfile
    assert text is not None  # only named contexts have none
    written = read(text.data, text.name)
    file = overridden(written, options.contexts)
    platforms = platform_arguments(options.platform)
    plan = _plan(file, options._replace(target=target_of(written, options.target)), platforms)
    _check_leave(file, plan, options)
    lint = _lint(store, context, written, plan, options, platforms)
    fit(store, options.isolation, plan)
    given = Given(options.arguments, {**platforms, **plan.arguments}, file.parsed.escape, Budget())
    work = _Work(store, context, options, Journal(observer), file, plan, given, names, lint)
    with work.imported() as imports:
        while True:
            try:
                result = work.done(imports, asked)
                break
            except CacheGoneError as exc:  # the caches know less now
                work.gone(exc)
    work.sweep()
    work.limit_mounts()
    return result._replace(warnings=(*result.warnings, *work.late))


class _Work:
    """A build of a Dockerfile that has been read."""

    def __init__(
        self,
        store: Store,
        context: Context,
        options: Options,
        journal: Journal,
        file: Dockerfile,
        plan: Plan,
        given: Given,
        names: Sequence[str],
        lint: tuple[LintWarning, ...],
    ) -> None:
        self._store, self._context, self._options, self._journal = store, context, options, journal
        self._file, self._plan, self._given, self._names = file, plan, given, names
        self._lint = lint
        self._warnings: list[str] = []
        self.late: list[str] = []  # warnings that come after the image is complete

    @contextmanager
    def imported(self) -> Iterator[Imports]:
        """What ``--cache-from`` gives."""
        if not self._options.cache_from:
            yield Imports()
            return
        from fastlayer.builder.sharing.opening import imported

        with imported(self._options, self._journal, self._warnings) as imports:
            yield imports

    def gone(self, error: CacheGoneError) -> None:
        """Something of another cache cannot be had."""
        if error.damaged:
            self._warnings.append(f"--cache-from: {error}: building without it")

    def done(self, imports: Imports, asked: Question | None) -> BuildResult:
        """Raises ``CacheGoneError`` when it has to be done again, with what ``imports`` knows then."""
        from fastlayer.builder.finish import finish
        from fastlayer.builder.solver import Solver
        from fastlayer.builder.workshop import Workshop

        options = self._options
        with Workshop(self._store, options, self._given, self._journal, self._context, imports) as shop:
            shop.warnings += self._warnings
            state = Solver(shop, self._file, self._plan).solve()
            if options.squash:
                from fastlayer.builder.squash import squash

                state = squash(shop, state)
            image = finish(shop, state, self._names)
            shop.cache.used([*(step for step, _ in shop.steps), *shop.used])
            self._share(shop, image)
            result = _result(shop, image, self._names, state.base_layers)._replace(lint=self._lint)
            if asked is not None and shop.repeatable and result.cached == result.steps and not shop.warnings:
                from fastlayer.builder.memo import remember

                remember(self._store, asked, shop, result)
            return result

    def _share(self, shop: Workshop, image: Image) -> None:
        """What others knew is remembered here, and what is known here is written for others."""
        if shop.taken:
            from fastlayer.builder.sharing.taking import keep

            keep(shop)
        for wanted in self._options.cache_to:
            if wanted.kind == "inline":
                continue
            from fastlayer.builder.sharing.export import export

            try:
                export(shop, wanted, [layer.diff_id for layer in image.layers])
                if wanted.mounts:
                    from fastlayer.builder.sharing.mounts import send

                    send(shop, wanted)
            except FastlayerError as exc:
                if not wanted.ignore_error:
                    raise BuildError(f"--cache-to: {exc}", cause=exc) from exc
                self.late.append(f"--cache-to: {exc}")
        self.late += shop.late

    def limit_mounts(self) -> None:
        """Cache mounts beyond the limits of the store go."""
        from fastlayer.builder.limits import apply

        try:
            if not self._store.read_only:
                apply(self._store)
        except FastlayerError as exc:
            self.late.append(str(exc))

    def sweep(self) -> None:
        """What no cache needs any more goes from where caches were written."""
        for wanted in self._options.cache_to:
            if wanted.kind != "local":
                continue
            from fastlayer.builder.sharing.layout import sweep

            try:
                sweep(wanted.dest)
            except FastlayerError as exc:
                self.late.append(f"--cache-to: {exc}")


def _plan(file: Dockerfile, options: Options, platforms: Mapping[str, str]) -> Plan:
    from fastlayer.builder.graph import plan

    return plan(file, options.target, options.arguments, platforms)


def _check_leave(file: Dockerfile, plan: Plan, options: Options) -> None:
    """Before anything is done. Raises ``DockerfileError``."""
    from fastlayer.builder.dockerfile.instructions import Run
    from fastlayer.builder.leave import check_leave
    from fastlayer.errors import DockerfileError

    for needed in plan.needed:
        for command in needed.stage.commands:
            if isinstance(command, Run):
                try:
                    check_leave(command, options.leave, options.network)
                except DockerfileError as exc:
                    raise DockerfileError(f"{file.name}:{command.at.start}: {exc}") from None


def _lint(
    store: Store, context: Context, file: Dockerfile, plan: Plan, options: Options, platforms: Mapping[str, str]
) -> tuple[LintWarning, ...]:
    """The warnings of the stages that are built. Raises ``DockerfileError`` when the file says that they are errors."""
    from fastlayer.builder.lint.bases import bases_of
    from fastlayer.builder.lint.check import violation, warnings_of
    from fastlayer.errors import DockerfileError

    found = warnings_of(
        file,
        stages=[needed.stage.number for needed in plan.needed],
        arguments=options.arguments,
        platforms=platforms,
        ignored=context.patterns,
        bases=bases_of(store),
    )
    if reason := violation(file, options.arguments, found):
        raise DockerfileError(f"{file.name}: {reason}: {found[0]}")
    return tuple(found)


def _result(shop: Workshop, image: Image, names: Sequence[str], base_layers: int) -> BuildResult:
    hits = [step for step, cached in shop.steps if cached]
    reused = sum(step.layer.payload for step in hits if step.layer is not None)
    saved = sum(step.duration_ns for step in hits)
    return BuildResult(
        image, len(shop.steps), len(hits), saved, reused, tuple(shop.warnings), tuple(names), base_layers
    )


def platform_arguments(target: Platform | None) -> dict[str, str]:
    """TARGETPLATFORM, BUILDARCH and their like (reference, "Automatic platform ARGs in the global scope")."""
    from fastlayer.oci.platform import host_platform

    found: dict[str, str] = {}
    here = host_platform()
    for prefix, platform in (("BUILD", here), ("TARGET", target or here)):
        found[f"{prefix}PLATFORM"] = str(platform)
        found[f"{prefix}OS"] = platform.os
        found[f"{prefix}ARCH"] = platform.architecture
        found[f"{prefix}VARIANT"] = platform.variant
    return found
