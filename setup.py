"""Builds csrc once as a static library and links every Cython module of _native against it."""

from __future__ import annotations

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_py import build_py

CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-fPIC", "-pthread"]
SANITIZE = os.environ.get("FASTLAYER_SANITIZE")
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"]
LDFLAGS = ["-pthread"] + ([f"-fsanitize={SANITIZE}"] if SANITIZE else [])

HEADERS = sorted(glob.glob("csrc/*.h"))
LIBRARY = (
    "fl",
    {
        "sources": sorted(glob.glob("csrc/*.c")),
        "include_dirs": ["csrc"],
        "cflags": CFLAGS,
        "obj_deps": {"": HEADERS},
    },
)


class OnlyPython(build_py):
    """Wheels carry no source of the native part."""

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        files: list[str] = super().find_data_files(package, src_dir)
        return [f for f in files if not f.endswith((".pyx", ".pxd", ".c"))]


def extensions() -> list[Extension]:
    return [
        Extension(
            f"fastlayer._native.{os.path.basename(source)[:-4]}",
            [source],
            include_dirs=["csrc"],
            extra_compile_args=[f for f in CFLAGS if f not in ("-Wextra",)] + ["-Wno-unused-function"],
            extra_link_args=LDFLAGS,
            depends=HEADERS + [c for c in sorted(glob.glob("csrc/*.c"))],
        )
        for source in sorted(glob.glob("src/fastlayer/_native/*.pyx"))
    ]


setup(
    libraries=[LIBRARY],
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_clib": build_clib, "build_py": OnlyPython},
)
