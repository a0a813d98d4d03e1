"""The steps of mounting (csrc/fl_mount.h)."""

from fastlayer import errors as _errors
from fastlayer._native.errors cimport raise_error
from fastlayer._native.libfl cimport (
    FL_MOUNT_ROOT, FL_MOUNT_UNIQUE, fl_error, fl_mount_attach, fl_mount_change, fl_mount_clone, fl_mount_create,
    fl_mount_detach, fl_mount_id, fl_mount_old, fl_mount_open, fl_mount_set, fl_mount_userns,
)
from libc.stdint cimport uint32_t, uint64_t


cdef const char *_text(bytes value) except NULL:
    if b"\0" in value:
        raise _errors.UsageError("a path or option of a mount cannot contain a NUL byte")
    return <const char *>value


def open_fs(bytes fs_type not None):
    """A context for a file system of that type (fsopen)."""
    cdef const char *name = _text(fs_type)
    cdef fl_error err
    cdef int fd

    with nogil:
        fd = fl_mount_open(name, &err)
    if fd < 0:
        raise_error(&err)
    return fd


def set_parameters(int context, parameters):
    """Sets ``(key, value)`` pairs in order (fsconfig); a value is bytes, a descriptor, or None for a flag."""
    cdef const char *name
    cdef const char *text
    cdef fl_error err
    cdef int fd, r

    for key, value in parameters:
        name = _text(key)
        text = _text(value) if isinstance(value, bytes) else NULL
        fd = value if isinstance(value, int) else -1
        with nogil:
            r = fl_mount_set(context, name, text, fd, &err)
        if r < 0:
            # err.op points into key, which is alive here
            raise_error(&err)


def create_mount(int context, uint32_t attributes):
    """The configured file system as a detached mount."""
    cdef fl_error err
    cdef int fd

    with nogil:
        fd = fl_mount_create(context, attributes, &err)
    if fd < 0:
        raise_error(&err)
    return fd


def clone_mount(bytes path not None, *, bint recursive):
    """A detached copy of the mount at path (open_tree)."""
    cdef const char *name = _text(path)
    cdef fl_error err
    cdef int fd

    with nogil:
        fd = fl_mount_clone(name, recursive, &err)
    if fd < 0:
        raise_error(&err)
    return fd


def change_mount(int mount, *, uint64_t set, uint64_t clear=0, int userns=-1, bint recursive=False):
    """Attributes of a mount (mount_setattr)."""
    cdef fl_error err
    cdef int r

    with nogil:
        r = fl_mount_change(mount, set, clear, userns, recursive, &err)
    if r < 0:
        raise_error(&err)


def attach(int mount, int target):
    """Puts a detached mount onto the directory ``target`` (move_mount)."""
    cdef fl_error err
    cdef int r

    with nogil:
        r = fl_mount_attach(mount, target, &err)
    if r < 0:
        raise_error(&err)


def detach(bytes path not None, int flags):
    """umount2(2)."""
    cdef const char *name = _text(path)
    cdef fl_error err
    cdef int r

    with nogil:
        r = fl_mount_detach(name, flags, &err)
    if r < 0:
        raise_error(&err)


def mount_old(bytes source not None, bytes target not None, bytes fs_type not None, unsigned long flags,
              bytes data not None, *, int cwd=-1):
    """mount(2); names in source and data are relative to the directory ``cwd`` if it is given."""
    cdef const char *c_source = _text(source)
    cdef const char *c_target = _text(target)
    cdef const char *c_type = _text(fs_type)
    cdef const char *c_data = _text(data)
    cdef fl_error err
    cdef int r

    with nogil:
        r = fl_mount_old(c_source, c_target, c_type, flags, c_data, cwd, &err)
    if r < 0:
        raise_error(&err)


def mount_id(int fd, *, bint plain=False):
    """``(number, unique, root)`` of the mount that fd is on."""
    cdef uint64_t number = 0
    cdef fl_error err
    cdef int r

    with nogil:
        r = fl_mount_id(fd, plain, &number, &err)
    if r < 0:
        raise_error(&err)
    return number, bool(r & FL_MOUNT_UNIQUE), bool(r & FL_MOUNT_ROOT)


def user_namespace(bytes uid_map not None, bytes gid_map not None):
    """A user namespace that no process is in."""
    cdef const char *uids = _text(uid_map)
    cdef const char *gids = _text(gid_map)
    cdef fl_error err
    cdef int fd

    with nogil:
        fd = fl_mount_userns(uids, gids, &err)
    if fd < 0:
        raise_error(&err)
    return fd
