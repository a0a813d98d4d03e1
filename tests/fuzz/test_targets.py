"""The fuzz targets over the corpus, as regression tests, under AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.corpus import make_corpus
from tests.unit.test_tarread import mutants

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = [CSRC / f"{name}.c" for name in ("fl_tar", "fl_tar_entry", "fl_pax", "fl_sparse", "fl_error")]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", *SANITIZE]
# without the sanitizer that a sanitized Python was started with
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
COMPILER = shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler with sanitizers")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for target in ("fuzz_tar", "fuzz_pax"):
        sources = [HERE / f"{target}.c", HERE / "driver.c", *SOURCES]
        subprocess.run(
            [str(COMPILER), *FLAGS, f"-I{CSRC}", "-o", folder / target, *sources], check=True, env=ENVIRONMENT
        )
    return folder


def run(program: Path, inputs: list[Path]) -> None:
    listing = "".join(f"{path}\n" for path in inputs)
    done = subprocess.run([program, "-"], input=listing, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(inputs)} inputs\n"


def found(target: str) -> list[Path]:
    return sorted((HERE / "found" / target).glob("*"))


def test_tar_target_over_the_corpus(build: Path) -> None:
    run(build / "fuzz_tar", [case.path for case in make_corpus.cases()] + found("fuzz_tar"))


def test_pax_target_over_the_corpus(build: Path) -> None:
    run(build / "fuzz_pax", sorted((make_corpus.HERE / "pax").iterdir()) + found("fuzz_pax"))


def test_tar_target_over_mutants(build: Path, tmp_path: Path) -> None:
    rng = random.Random(2026)
    inputs = []
    for case in make_corpus.cases():
        for number, mutant in enumerate(mutants(case.data, rng)):
            inputs.append(tmp_path / f"{case.name}-{number}")
            inputs[-1].write_bytes(mutant)
    run(build / "fuzz_tar", inputs)
