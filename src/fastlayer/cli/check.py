"""``fastlayer store check``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastlayer.cli import options, output, stores
from fastlayer.cli.line import declare
from fastlayer.cli.rootless import as_root

if TYPE_CHECKING:
    from fastlayer.maintenance.check import Finding


@declare.command("check")
@declare.option("--repair", is_flag=True, help="Set right what can be without losing anything.")
@declare.option(
    "--format", "format_", type=declare.Choice(["text", "json"]), default="text", help="json: a finding per line."
)
@options.jobs_option
@stores.store_options
def command(**given: Any) -> int:
    """Check the store: digests of blobs, chain ids, snapshots and their files, notes, leftovers of killed processes.

    A damaged or lost database is put back from its copy with --repair, while nobody else works in the store; the
    damaged one stays beside it.

    The exit code is 1 when something is wrong (and could not be repaired). Leftovers are notes: nothing is wrong.
    """
    from fastlayer.maintenance.recover import check_store

    as_root(given)
    report = check_store(given["root"], driver=given["driver"], repair=given["repair"], jobs=given["jobs"])
    if given["format_"] == "json":
        output.write_lines(output.json_line({"schema": 1, **finding._asdict()}) for finding in report.findings)
    else:
        for finding in report.findings:
            print(f"{_state(finding, given['repair'])}: {finding.what} {finding.subject}: {finding.why}")
        print(
            f"{report.images} images, {report.snapshots} snapshots, {report.blobs} blobs "
            f"({output.human(report.bytes)}): {'sound' if report.sound else 'NOT SOUND'}"
        )
    if not report.sound and not given["repair"]:
        print("fastlayer: `fastlayer store check --repair` sets right what can be", file=sys.stderr)
    return 0 if report.sound else 1


def _state(finding: Finding, repair: bool) -> str:
    if finding.repaired:
        return "repaired"
    if finding.note:
        return "note"
    return "not repaired" if repair else "found"
