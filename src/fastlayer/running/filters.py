"""The seccomp filter of one program."""

from __future__ import annotations

from fastlayer._values import NamedTuple
from fastlayer.errors import RunError
from fastlayer.running import capabilities
from fastlayer.running.seccomp.profile import Circumstances, Profile, here
from fastlayer.running.spec import Spec, is_filtered


class Filter(NamedTuple):
    """``program``: struct sock_filter, 8 bytes each; empty: there is none. ``flags``: for seccomp(2)."""

    program: bytes
    flags: int


def filter_of(spec: Spec) -> Filter | None:
    """None: it has none.

    Docker's default on a machine whose calls are not known here is none, too. Raises ``RunError`` when a profile that
    was given cannot be met.
    """
    if not is_filtered(spec):
        return None
    if spec.seccomp is None:
        from fastlayer.running.seccomp import ready

        if found := ready.program(here(tuple(capabilities.names(spec.capabilities)))):
            return Filter(found, 0)
    from fastlayer.running.seccomp.compiler import program

    profile, where = profile_of(spec)
    found = program(profile, where)
    if not found and spec.seccomp is not None:
        remedy = "use isolation oci, or seccomp=unconfined"
        raise RunError(
            f"the system calls of {where.machine} are not known here, so no filter can be made", remedy=remedy
        )
    return Filter(found, profile.flags) if found else None


def may_make(spec: Spec, call: str) -> bool:
    """Whether the filter of the program lets it make that system call."""
    if not is_filtered(spec):
        return True
    from fastlayer.running.seccomp.compiler import allows

    return allows(*profile_of(spec), call)


def profile_of(spec: Spec) -> tuple[Profile, Circumstances]:
    """The profile that a program with a filter is under, and where."""
    where = here(tuple(capabilities.names(spec.capabilities)))
    if isinstance(spec.seccomp, Profile):
        return spec.seccomp, where
    from fastlayer.running.seccomp.default import DEFAULT

    return DEFAULT, where
