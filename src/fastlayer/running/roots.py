"""The steps by which a root file system is mounted in the keeper's mount namespace, where nobody else sees it."""

from __future__ import annotations

import os

from fastlayer.errors import RunError
from fastlayer.mounts import mounting, overlay
from fastlayer.mounts.mount import Mount
from fastlayer.mounts.options import sort_out
from fastlayer.running import steps
from fastlayer.running.spec import Bind, Spec
from fastlayer.running.steps import Plan, step


def place_of(spec: Spec) -> str:
    """A directory to mount the root on: one that need not be seen any more."""
    first = spec.root[0]
    if first.type == "bind":
        return first.source
    if first.type == "overlay":
        uppers = (option.partition("=")[2] for option in first.options if option.startswith("upperdir="))
        return next(uppers, first.lowers[0] if first.lowers else "/")
    return place_of_all()


def place_of_all() -> str:
    """One that everybody can reach."""
    return next(filter(os.path.isdir, ("/mnt", "/srv", "/media", "/tmp")), "/proc")


def mount_root(plan: Plan, spec: Spec, place: str, *, in_user_namespace: bool) -> int:
    """Adds the steps of the keeper; the slot of the root's directory is returned."""
    made = list(spec.root_fds)
    for value in spec.root:
        if made:
            plan.keeper.append(step(steps.ATTACH, place, slot=plan.slot(os.dup(made.pop(0)))))
        elif in_user_namespace or not _made_here(plan, value, place):
            _made_there(plan, value, place)
        if value.subdirectory:
            plan.keeper.append(step(steps.ATTACH, place, slot=_part(plan, value.subdirectory, place)))
    root = plan.slot()
    # once more: what was attached may be a peer of a mount of the host
    plan.keeper += [step(steps.PRIVATE), step(steps.OPEN, place, slot=root)]
    return root


def show_parts(plan: Plan, spec: Spec, binds: dict[str, int], place: str) -> None:
    """Of a mount of which only a directory is to be shown, the slot becomes that of the directory.

    What is attached nowhere cannot be copied in part (open_tree(2), before Linux 6.15), so all of it is attached at
    ``place`` first, where the root hides it. ``binds``: target -> slot.
    """
    for mount in spec.mounts:
        if isinstance(mount, Bind) and mount.subdirectory:
            plan.keeper.append(step(steps.ATTACH, place, slot=binds[mount.target]))
            binds[mount.target] = _part(plan, mount.subdirectory, place)
            if mount.readonly:
                plan.keeper.append(step(steps.READONLY, slot=binds[mount.target]))


def _part(plan: Plan, subdirectory: str, place: str) -> int:
    """The slot of a copy of a directory in what is mounted at ``place``."""
    slot = plan.slot()
    plan.keeper.append(step(steps.TREE, f"{place}/{subdirectory}", slot=slot))
    return slot


def copy_source(plan: Plan, source: str, *, in_user_namespace: bool, how: int = 0) -> int:
    """Adds a step of the keeper; the slot of the copy is returned. ``how``: ``steps.TREE_ALONE`` and its like.

    It comes before the mount namespace is made, so that a name below /proc/PID/fd can be copied as well; who needs a
    user namespace has no rights there, and copies what that name stands for.
    """
    path = os.path.abspath(source)
    if in_user_namespace and path.startswith("/proc/"):
        real = os.path.realpath(path)
        if not _is_same(path, real):
            raise RunError(f"{real}: only root can show what is not mounted there any more to a step")
        path = real
    slot = plan.slot()
    plan.keeper.append(step(steps.TREE, path, slot=slot, number=how))
    return slot


def _is_same(one: str, two: str) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(two))
    except OSError:
        return False


def _made_here(plan: Plan, value: Mount, place: str) -> bool:
    """By this process, attached nowhere; False where the kernel cannot do that."""
    fd = mounting.detached(value)
    if fd is None:
        return False
    plan.keeper.append(step(steps.ATTACH, place, slot=plan.slot(fd)))
    return True


def _made_there(plan: Plan, value: Mount, place: str) -> None:
    """By the keeper, who is root in its user namespace."""
    parts = sort_out(value.options)
    if value.type == "bind":
        copy = plan.slot()
        plan.keeper.append(step(steps.TREE, value.source, slot=copy))
        if value.readonly:
            plan.keeper.append(step(steps.READONLY, slot=copy))
        plan.keeper.append(step(steps.ATTACH, place, slot=copy))
    elif value.type == "overlay":
        if value.id_map:
            raise RunError("an overlay with an id map cannot be mounted by an unprivileged user: run as root")
        cwd, data = overlay.as_page(value, parts)
        plan.keeper += [
            step(steps.CHDIR, os.fsdecode(cwd)),
            step(steps.MOUNT, "overlay", place, os.fsdecode(data), number=parts.flags),
            step(steps.CHDIR, "/"),
        ]
    else:
        plan.keeper.append(step(steps.MOUNT, value.type, place, None, number=parts.flags))
