"""Builds cases of the corpus one after the other, in the process it is, with the rights that has.

    python -m tests.integration.corpusrun PLACE ISOLATION PORT ARCHIVES CASE...

``PLACE``: an empty directory for the store and the contexts. ``ARCHIVES``: of the base images, joined with ``:``.
``PORT``: of the web server, which is part of what an image says. On stdout a JSON object per case: ``name``, ``code``,
``id`` of the image, ``said``, what went to stderr; the last is of ``store check``. Who is not root becomes root of a
user namespace first, as ``fastlayer build`` does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.integration.buildcases import CORPUS, STAMP, Case, load

CHECK = "store check"


class Outcome(NamedTuple):
    """What became of a case; ``id`` is empty when it failed."""

    name: str
    code: int
    id: str
    said: str


def typed(words: Sequence[str | Path]) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command line."""
    from fastlayer.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([os.fspath(word) for word in words])
    return code, out.getvalue().strip(), err.getvalue()


def one(case: Case, place: Path, isolation: str, port: int) -> Outcome:
    from tests.integration.buildjudges import given

    place.mkdir()
    fixed = ["-q", "--isolation", isolation, "--source-date-epoch", str(STAMP), "-t", f"corpus.invalid/{case.name}"]
    if isolation != "chroot":  # which has no network of its own
        fixed += ["--network", "none"]
    with given(case, place, port=port) as (words, stdin), _on_stdin(stdin):
        done = typed(["build", *fixed, *words])
    shutil.rmtree(place)
    return Outcome(case.name, *done)


@contextlib.contextmanager
def _on_stdin(file: Path | None) -> Iterator[None]:
    """Descriptor 0 is the file for the block."""
    if file is None:
        yield
        return
    kept = os.dup(0)
    fd = os.open(file, os.O_RDONLY)
    os.dup2(fd, 0)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def main(place: Path, isolation: str, port: int, archives: Sequence[str], names: Sequence[str]) -> None:
    if os.geteuid() != 0:
        from fastlayer.running.rootless import become_root

        assert become_root()
    os.environ["FASTLAYER_PULL"] = "never"
    os.environ["FASTLAYER_ROOT"] = os.fspath(place / "store")
    for archive in archives:
        code, _, err = typed(["load", "-q", "-i", archive])
        assert code == 0, err
    for name in names:
        _tell(one(load(CORPUS / name), place / "case", isolation, port))
    _tell(Outcome(CHECK, *typed(["store", "check"])))


def _tell(outcome: Outcome) -> None:
    print(json.dumps(outcome._asdict()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4].split(":"), sys.argv[5:])
