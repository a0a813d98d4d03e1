"""Builds csrc once as a static library and links every Cython module of _native against it."""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-fPIC", "-pthread"]
LDFLAGS = ["-pthread"]
SANITIZE = os.environ.get("FASTLAYER_SANITIZE")  # e.g. address,undefined: the sanitizer tier of `make test`
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]
    LDFLAGS += [f"-fsanitize={SANITIZE}"]

HEADERS = sorted(map(str, Path("csrc").glob("*.h")))
SOURCES = sorted(map(str, Path("csrc").glob("*.c")))
NATIVE = Path("src/fastlayer/_native")
MODULES = sorted(NATIVE.glob("*.pyx"))
if not (HEADERS and SOURCES and MODULES):
    raise SystemExit("setup.py: csrc or the .pyx files are missing: build from a checkout or a complete sdist")


class CleanSdist(sdist):
    """An sdist carries no generated C: it is made anew from the .pyx files."""

    def make_distribution(self) -> None:
        self.filelist.files = [f for f in self.filelist.files if not (f.endswith(".c") and "_native" in f)]
        super().make_distribution()


class OnlyPython(build_py):
    """Wheels carry no source of the native part."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        files: list[str] = super().find_data_files(package, src_dir)
        return [f for f in files if not f.endswith((".pyx", ".pxd", ".c"))]


def extension(source: Path) -> Extension:
    return Extension(
        f"fastlayer._native.{source.stem}",
        [str(source)],
        include_dirs=["csrc"],
        extra_compile_args=[*(flag for flag in CFLAGS if flag != "-Wextra"), "-Wno-unused-function"],
        extra_link_args=LDFLAGS,
        depends=HEADERS + SOURCES,
    )


setup(
    libraries=[("fl", {"sources": SOURCES, "include_dirs": ["csrc"], "cflags": CFLAGS, "obj_deps": {"": HEADERS}})],
    ext_modules=cythonize(
        [extension(source) for source in MODULES],
        include_path=["src"],
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "embedsignature": True},
    ),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
    cmdclass={"build_py": OnlyPython, "sdist": CleanSdist},
)
