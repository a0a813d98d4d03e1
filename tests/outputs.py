"""Files that a command is making: without a name, where the file system has such files, until they are complete."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from pathlib import Path


def made_in(process: subprocess.Popen[bytes], directory: Path) -> int:
    """Bytes of the file that it is making in a directory, with or without a name; -1 if there is none."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            status = os.stat(link)
            if stat.S_ISREG(status.st_mode) and os.path.dirname(os.readlink(link)) == str(directory):
                return status.st_size
    return -1


def has_nameless_files(directory: Path) -> bool:
    try:
        os.close(os.open(directory, os.O_WRONLY | os.O_TMPFILE))
    except OSError:
        return False
    return True
