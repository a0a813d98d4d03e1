"""Builds that have nothing to do, as the command shows them: the builder is not loaded for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlayer.builder.lint.rules import LintWarning
    from fastlayer.builder.memo import Answer, Question
    from fastlayer.builder.options import Options
    from fastlayer.builder.result import BuildResult
    from fastlayer.store.store import Store

# What makes no other image, or is asked for by itself.
_OTHERS = """
    progress quiet format_ iidfile metadata_file digest_file image_name_with_digest_file
    image_name_tag_with_digest_file outputs tar_path oci_layout_path root driver jobs explain pull no_push secrets ssh
    push check context context_option file arguments source_date_epoch platform
    authfile cert_dir tls_verify retry_times
"""
_ELSEWHERE = frozenset(_OTHERS.split())


def question(given: dict[str, Any], wanted: Options) -> Question | None:
    """What is asked for; None when it is to be done in any case, or is of what lies elsewhere."""
    from fastlayer.builder import memo
    from fastlayer.builder.options import PROXIES

    if given["no_cache"] or given["no_cache_filter"] or given["contexts"] or given["subdir"]:
        return None
    if any(cache.kind != "inline" for cache in wanted.cache_to) or wanted.pull in ("always", "newer"):
        return None
    asked = {name: value for name, value in given.items() if name not in _ELSEWHERE}
    platform = str(wanted.platform) if wanted.platform else None
    arguments = {name: value for name, value in wanted.arguments.items() if name.upper() not in PROXIES}
    more = {"arguments": arguments, "epoch": wanted.epoch, "platform": platform}
    return memo.question(given["context_option"] or given["context"], given["file"], {**asked, **more})


def recalled(store: Store, asked: Question | None, given: dict[str, Any]) -> BuildResult | None:
    """The result, shown as the builder would have; None: it has to be asked."""
    from fastlayer.builder import memo

    answer = memo.recall(store, asked) if asked is not None else None
    if answer is None:
        return None
    from fastlayer.builder.progress import Journal
    from fastlayer.builder.result import BuildResult
    from fastlayer.cli.build_progress import observer
    from fastlayer.image.images import Images

    journal = Journal(observer(given["progress"], quiet=given["quiet"]))
    for name, line in answer.vertices:
        with journal.vertex(name, line) as work:
            work.cached()
    image = Images(store).find(answer.target)
    return BuildResult(image, names=answer.names, warnings=(), lint=_lint(answer), **answer.totals)


def _lint(answer: Answer) -> tuple[LintWarning, ...]:
    if not answer.lint:
        return ()
    from fastlayer.builder.lint.rules import RULES, LintWarning

    rules = {rule.name: rule for rule in RULES}
    return tuple(LintWarning(rules[name], message, start, end) for name, message, start, end in answer.lint)
