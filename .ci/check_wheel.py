"""A wheel has the Python files of this checkout, byte for byte, and the native modules without their source; an sdist
has all sources and nothing generated."""

import sys
import tarfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
MODULES = {source.stem for source in SOURCE.glob("fastlayer/_native/*.pyx")}
PYTHON = {
    str(path.relative_to(SOURCE)): path.read_bytes()
    for path in SOURCE.glob("fastlayer/**/*")
    if path.suffix in (".py", ".pyi", ".typed")
}
assert MODULES and PYTHON, "no modules in this checkout"


def check_wheel(wheel: zipfile.ZipFile) -> list[str]:
    members = wheel.namelist()
    found = {m.rpartition("/")[2].partition(".")[0] for m in members if m.endswith(".so")}
    faults = [f"has {m}" for m in members if m.endswith((".pyx", ".pxd", ".c", ".h", ".o", ".a"))]
    faults += [f"lacks the module {name}" for name in sorted(MODULES - found)]
    faults += [f"has {m}" for m in members if m.endswith((".py", ".pyi")) and m not in PYTHON]
    faults += [f"lacks {name}" for name in sorted(PYTHON.keys() - set(members))]
    return faults + [f"has another {m}" for m in members if m in PYTHON and wheel.read(m) != PYTHON[m]]


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
        faults = check_wheel(zipfile.ZipFile(name))
    else:
        with tarfile.open(name) as sdist:
            faults = check_sdist(sdist.getnames())
    if faults:
        sys.exit(f"{name}: {'; '.join(faults)}")
    print(f"{name}: complete")
