"""Which extended attributes are an upper directory's marks: ``trusted.overlay.*`` or ``user.overlay.*``.

A mount has one namespace, and the other is data. The directory itself cannot say which: everything a user of the
mount may write, ``user.overlay.*`` on the merged root included, can be there without overlayfs having put it.
"""

from __future__ import annotations

import errno
import os

_TRUSTED, _USER = "trusted.overlay.", "user.overlay."


def has_user_marks(userxattr: bool | None) -> bool:
    """The caller's choice; without one ``user.overlay.*`` only for those whom the kernel does not show ``trusted.*``.

    These cannot have mounted anything else either, unless with ``userxattr``.
    """
    return not _sees_trusted() if userxattr is None else userxattr


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
