"""A wheel carries no source of the native part and has its modules; an sdist has all sources and nothing generated."""

import sys
import tarfile
import zipfile
from pathlib import Path

MODULES = {source.stem for source in Path(__file__).parent.parent.glob("src/fastlayer/_native/*.pyx")}
assert MODULES, "no modules in this checkout"


def check_wheel(members: list[str]) -> list[str]:
    found = {m.rpartition("/")[2].partition(".")[0] for m in members if m.endswith(".so")}
    faults = [f"has {m}" for m in members if m.endswith((".pyx", ".pxd", ".c", ".h", ".o", ".a"))]
    faults += [f"lacks the module {name}" for name in sorted(MODULES - found)]
    return faults + ([] if "fastlayer/py.typed" in members else ["lacks py.typed"])


def is_made(name: str) -> bool:
    return name.endswith((".so", ".o", ".a")) or ("_native/" in name and name.endswith(".c"))


def check_sdist(members: list[str]) -> list[str]:
    names = {m.partition("/")[2] for m in members}
    faults = [
        f"has {m}" for m in sorted(names) if m.endswith((".so", ".o", ".a")) or ("_native/" in m and m.endswith(".c"))
    ]
    wanted = [f"src/fastlayer/_native/{name}.pyx" for name in sorted(MODULES)]
    wanted += [
        "src/fastlayer/_native/libfl.pxd",
        "src/fastlayer/py.typed",
        "csrc/fl_tar.h",
        "csrc/fl_tar.c",
        "setup.py",
    ]
    return faults + [f"lacks {name}" for name in wanted if name not in names]


for name in sys.argv[1:]:
    if name.endswith(".whl"):
        faults = check_wheel(zipfile.ZipFile(name).namelist())
    else:
        with tarfile.open(name) as sdist:
            faults = check_sdist(sdist.getnames())
    if faults:
        sys.exit(f"{name}: {'; '.join(faults)}")
    print(f"{name}: complete")
