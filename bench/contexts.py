"""Build contexts and Dockerfiles that are measured: made of the trees of ``workloads``, the same every time.

twelve  12 instructions; a context of about 862 MB in 37.7 k files: wheels, and the largest files of Debian packages
four    FROM, RUN echo, COPY of one file, ENTRYPOINT
nothing FROM and 20 times RUN of a program that does nothing
large   COPY of 10 GB in 20 files
copied  one COPY of 564 MB in 11 k entries: what installing compilers, git and python adds to a Debian
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench import workloads

BASE = "fastlayer.invalid/busybox"
SIZE = 869_000_000  # bytes
TWELVE = f"""FROM {BASE}
ENV APP=/app LANG=C.UTF-8
WORKDIR /app
RUN mkdir -p /var/lib/app && echo ready >/var/lib/app/state
COPY requirements.txt ./
COPY packages /usr/lib/packages
COPY site-packages ./site-packages
RUN ls site-packages >installed
COPY src ./src
RUN sh src/check.sh >checked
EXPOSE 8080
ENTRYPOINT ["sh", "src/main.sh"]
"""
FOUR = f'FROM {BASE}\nRUN echo hello >/hello\nCOPY main.sh /main.sh\nENTRYPOINT ["sh", "/main.sh"]\n'
COPIED = f"FROM {BASE}\nCOPY tree /tree\n"
RUNS = 20
NOTHING = f"FROM {BASE}\n" + "".join(f'RUN ["/bin/true", "{number}"]\n' for number in range(RUNS))
_SOURCE = {"requirements.txt": "django\n", "src/check.sh": "echo checked\n", "src/main.sh": "echo main\n"}
_STAMP = 1_700_000_000  # seconds


def four(root: Path) -> Path:
    """A directory with the Dockerfile of four lines."""
    target = root / "context-four"
    shutil.rmtree(target, ignore_errors=True)
    return _files(target, {"Dockerfile": FOUR, "main.sh": "echo main\n"})


def nothing(root: Path) -> Path:
    """A directory with the Dockerfile whose steps do nothing."""
    return _files(_fresh(root / "context-nothing"), {"Dockerfile": NOTHING})


def large(root: Path) -> Path:
    """A directory with 20 files of 512 MB, no block like another."""
    target = _files(_fresh(root / "context-large"), {"Dockerfile": COPIED})
    (target / "tree").mkdir()
    block = bytearray(os.urandom(1 << 20))
    for number in range(20):
        with open(target / "tree" / f"{number}.bin", "wb") as file:
            for part in range(512):
                block[:8] = (number << 32 | part).to_bytes(8, "little")
                file.write(block)
    return target


def copied(root: Path) -> Path:
    target = root / "context-copied"
    if not target.exists():
        making = _fresh(root / "context-copied.making")
        _files(making, {"Dockerfile": COPIED})
        _debian_packages(root, making / "tree")
        making.rename(target)
    return target


def twelve(root: Path) -> Path:
    target = root / "context-twelve"
    if not target.exists():
        making = _fresh(root / "context-twelve.making")
        _files(making, {"Dockerfile": TWELVE, **_SOURCE})
        _run("cp", "-a", workloads.wheels(root).b, making / "site-packages")
        _largest(copied(root) / "tree", making / "packages", SIZE - _size(making))
        making.rename(target)
    change(target, 0)
    return target


def change(context: Path, number: int) -> None:
    """One small file of a context is another one than before."""
    _files(context, {"src/main.sh": f"echo main {number}\n"})


def _debian_packages(root: Path, target: Path) -> None:
    """The files of the larger Debian that the smaller has not got, or has in another state."""
    pair = workloads.debian(root)
    target.mkdir()
    _run("rsync", "-qaH", "--no-D", "-m", f"--compare-dest={pair.a}/", f"{pair.b}/", f"{target}/")


def _largest(tree: Path, target: Path, wanted: int) -> None:
    """Files of a tree, the largest first, until there are so many bytes."""
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    target.mkdir()
    for path in sorted(files, key=lambda path: (-path.stat().st_size, path)):
        size = path.stat().st_size
        if size <= wanted:
            wanted -= size
            place = target / path.relative_to(tree)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


def _files(target: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
        os.utime(target / name, (_STAMP, _STAMP))
    return target


def _fresh(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _size(tree: Path) -> int:
    return sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir())


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True)
