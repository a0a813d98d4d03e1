"""How an overlay was mounted, as far as ``diff_upper`` must know: the namespace of its marks, its lower directories.

A mount has one namespace, ``trusted.overlay.*`` or ``user.overlay.*``, and the other is data. The upper directory
itself cannot say which: everything a user of the mount may write, ``user.overlay.*`` on the merged root included, can
be there without overlayfs having put it.
"""

from __future__ import annotations

import errno
import os
import re

from fastlayer.errors import OperandError, UsageError, show_path

_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of the kernel
_TRUSTED, _USER = "trusted.overlay.", "user.overlay."
_PIECE = re.compile(r"\\[:\\]|:|[^:\\]+|\\")  # of a list of directories


def has_user_marks(userxattr: bool | None) -> bool:
    """The caller's choice; without one, whether the caller could only have mounted with ``userxattr``.

    That is so for who has no CAP_SYS_ADMIN in the initial user namespace, but for a root who dropped it there: he works
    on mounts of others.
    """
    if userxattr is not None:
        return userxattr
    return not (_sees_trusted() or (os.geteuid() == 0 and _in_initial_namespace()))


def _in_initial_namespace() -> bool:
    try:
        return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE
    except OSError:
        return True


def _sees_trusted() -> bool:
    """CAP_SYS_ADMIN in the initial user namespace. Reading would not tell: without it there seems to be no attribute.

    Where the question cannot be asked the answer is yes, which is never the one that obeys a stranger.
    """
    try:
        fd = os.memfd_create("fastlayer", os.MFD_CLOEXEC)
    except OSError:
        return True
    try:
        os.removexattr(fd, _TRUSTED + "fastlayer")
    except OSError as exc:
        return exc.errno != errno.EPERM
    finally:
        os.close(fd)
    return True


def doubtful_marks(upper_fd: int | None) -> str | None:
    """A warning when a root taken for one of an ordinary mount looks like one of a userxattr mount."""
    if upper_fd is None:
        return None
    try:
        names = os.listxattr(upper_fd)
    except OSError:
        return None
    if any(name.startswith(_TRUSTED) for name in names) or not any(name.startswith(_USER) for name in names):
        return None
    return "the upper directory has user.overlay.* attributes, taken for data: if it was mounted with userxattr, say so"


# ---- lower directories


def split_lowers(text: str) -> list[str]:
    r"""The names in a value of overlayfs' ``lowerdir=``, top first: separated by ``:``, with ``\:`` and ``\\`` escaped.

    Raises ``UsageError`` for an empty name and for data-only directories (``::``).
    """
    names = [""]
    for piece in _PIECE.findall(text):
        if piece == ":":
            names.append("")
        else:
            names[-1] += piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece
    if "" in names[1:-1]:
        raise UsageError(
            f"{show_path(text)}: data-only directories (after `::`) are not supported: compare the mounted overlay"
        )
    if "" in names:
        raise UsageError(f"{show_path(text)}: an empty name: separate lower directories by one colon")
    return names


def too_many_files(exc: BaseException, lowers: int) -> OperandError | None:
    """What to say instead of an error, when it is the limit of open files."""
    cause = exc if isinstance(exc, OSError) else exc.__cause__
    if not isinstance(cause, OSError) or cause.errno != errno.EMFILE:
        return None
    return OperandError(f"{lowers} lower directories: {os.strerror(errno.EMFILE)}: raise the limit (ulimit -n)")
