"""``fastlayer search``: what a registry has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, registries, rows
from fastlayer.cli.line import declare
from fastlayer.cli.plain import printable

if TYPE_CHECKING:
    from fastlayer.oci.descriptor import Descriptor

TAGS: rows.Columns = (("NAME", "Name"), ("TAG", "Tag"))
REPOSITORIES: rows.Columns = (("NAME", "Name"),)
REFERRERS: rows.Columns = (("DIGEST", "Digest"), ("TYPE", "ArtifactType"), ("SIZE", "Size"))
_VERBS = {
    "tags": ("search:tags", "List the tags of a repository."),
    "repositories": ("search:repositories", "List the repositories of a registry that tells them."),
    "referrers": ("search:referrers", "List what refers to an image: signatures, bills of materials."),
}
TAGS_EXAMPLES = """\b
Examples:
  fastlayer search tags alpine
  fastlayer search tags -q registry.example.com/team/app
  fastlayer search tags --format json --limit 10 debian
"""
REPOSITORIES_EXAMPLES = """\b
Examples:
  fastlayer search repositories registry.example.com:5000
"""
REFERRERS_EXAMPLES = """\b
Examples:
  fastlayer search referrers registry.example.com/app:1
  fastlayer search referrers --artifact-type application/spdx+json registry.example.com/app:1
"""

command = declare.Group("search", "List what a registry has.", {"Verbs": _VERBS})

_limit = declare.option("--limit", type=declare.IntRange(min=1), metavar="N", help="At most N (default: all).")
_quiet = declare.option("-q", "--quiet", is_flag=True, help="Only the names.")


@declare.command("tags", epilog=TAGS_EXAMPLES)
@declare.argument("repository")
@_limit
@_quiet
@rows.format_option
@registries.registry_options
def tags(**given: Any) -> int:
    """List the tags of REPOSITORY, in the order of the registry."""
    from fastlayer.oci.reference import parse_reference
    from fastlayer.registry.looking import find_tags

    found = find_tags(given["repository"], registries.wishes(given), given["limit"] or 0, output.warn_line)
    name = parse_reference(given["repository"].removeprefix("docker://")).familiar_name
    return _show(given, TAGS, [{"Name": name, "Tag": tag} for tag in found], "Tag")


@declare.command("repositories", epilog=REPOSITORIES_EXAMPLES)
@declare.argument("registry", metavar="REGISTRY")
@_limit
@_quiet
@rows.format_option
@registries.registry_options
def repositories(**given: Any) -> int:
    """List the repositories of REGISTRY (HOST[:PORT]). Docker Hub and most public registries tell nobody."""
    from fastlayer.registry.credentials import registry_key
    from fastlayer.registry.looking import find_repositories

    host = registry_key(given["registry"])
    found = find_repositories(given["registry"], registries.wishes(given), given["limit"] or 0, output.warn_line)
    return _show(given, REPOSITORIES, [{"Name": f"{host}/{name}"} for name in found], "Name")


@declare.command("referrers", epilog=REFERRERS_EXAMPLES)
@declare.argument("image")
@declare.option("--artifact-type", type=options.WORD, metavar="TYPE", help="Only those of this type.")
@_quiet
@rows.format_option
@registries.registry_options
def referrers(**given: Any) -> int:
    """List the manifests that refer to IMAGE, by their digests."""
    from fastlayer.registry.looking import find_referrers

    _, found = find_referrers(given["image"], registries.wishes(given), given["artifact_type"] or "", output.warn_line)
    return _show(given, REFERRERS, [_referrer(one) for one in found], "Digest")


def _referrer(one: Descriptor) -> rows.Row:
    kind = one.extra.get("artifactType")
    return {
        "Digest": str(one.digest),
        "ArtifactType": kind if isinstance(kind, str) else "",
        "MediaType": one.media_type,
        "Size": output.human(one.size),
        "Annotations": dict(one.annotations),
    }


def _show(given: dict[str, Any], columns: rows.Columns, found: list[rows.Row], key: str) -> int:
    if given["quiet"]:
        output.write_lines(printable(str(row[key])).encode() for row in found)
    else:
        rows.show(given["format_"], columns, found, frozenset({"Size"}))
    return 0
