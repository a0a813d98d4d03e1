"""Running a command as an unprivileged user inside ``unshare -Urm``, whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SOMEBODY = 54321
_REPOSITORY = Path(__file__).parents[2]

# In a mount namespace of its own: an empty directory over the closed one, with what is needed put back.
_OPEN_UP = """
set -e
held=$(mktemp -d)
for path in {needed}; do mkdir -p "$held$path"; mount --rbind "$path" "$held$path"; done
mount -t tmpfs -o mode=755 tmpfs {closed}
for path in {needed}; do mkdir -p "$path"; mount --rbind "$held$path" "$path"; umount -l "$held$path"; done
rm -r "$held"
"""


def unshared(
    command: Sequence[str | os.PathLike[str]], scratch: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command as root of a user namespace; ``scratch`` is given to its user."""
    variables = {**os.environ, "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    inner = ["unshare", "-Urm", "--", *map(str, command)]
    if os.geteuid() == 0:
        os.chown(scratch, SOMEBODY, SOMEBODY)
        user = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", *inner]
        inner = ["unshare", "-m", "--", "sh", "-c", f'{_script()}\nexec "$@"', "sh", *user]
    return subprocess.run(inner, capture_output=True, text=True, env=variables, cwd=_REPOSITORY, check=False)


def as_somebody(
    command: Sequence[str | os.PathLike[str]],
    scratch: Path,
    *,
    shown: Mapping[Path, str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a plain user, in no namespace of its own; ``scratch`` is given to that user.

    ``shown``: files and the places they are shown at, when root runs the tests.
    """
    variables = {**os.environ, "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    inner = list(map(str, command))
    if os.geteuid() == 0:
        subprocess.run(["chown", "-hR", f"{SOMEBODY}:{SOMEBODY}", str(scratch)], check=True)
        user = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups", *inner]
        binds = "".join(f"mount --bind '{file}' '{place}'\n" for file, place in (shown or {}).items())
        inner = ["unshare", "-m", "--", "sh", "-c", f'{_script()}\n{binds}exec "$@"', "sh", *user]
    return subprocess.run(inner, capture_output=True, text=True, env=variables, cwd=_REPOSITORY, check=False)


def _script() -> str:
    """Makes the way to Python and to these tests open to everybody, where it is not."""
    needed = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, _REPOSITORY)}
    behind: dict[Path, list[str]] = {}
    for path in sorted(needed):
        closed = next((p for p in reversed(Path(path).parents) if not p.stat().st_mode & 0o001), None)
        if closed is not None:
            behind.setdefault(closed, []).append(f"'{path}'")
    return "".join(_OPEN_UP.format(closed=f"'{closed}'", needed=" ".join(paths)) for closed, paths in behind.items())
