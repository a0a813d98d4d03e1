/* Mounting: the system calls of the new mount API (Linux 5.2 and later: fsopen,
 * fsconfig, fsmount, open_tree, move_mount, mount_setattr), mount(2) for older
 * kernels, and what tells one mount from another.
 *
 * Each function is one step; what is tried in which order, and what takes its
 * place where a kernel lacks it (ENOSYS, EINVAL), is the caller's business
 * (src/fastlayer/mounts). Descriptors that are returned are the caller's and
 * O_CLOEXEC; a mount that was made is detached until fl_mount_attach and goes
 * away when its descriptor is closed before. Failures are FL_ERR_OS; `detail`
 * then holds what the file system wrote about it into the log of its context,
 * if it did. The numbers of attributes and flags are the kernel's
 * (linux/mount.h).
 */
#ifndef FL_MOUNT_H
#define FL_MOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "fl_error.h"

/* A context to configure a file system of that type in. */
int fl_mount_open(const char *type, struct fl_error *err);

/* One parameter: a string, or a descriptor (value NULL), or a flag (and fd -1).
 * The kernel takes no string longer than 255 bytes (EINVAL). */
int fl_mount_set(int context, const char *key, const char *value, int fd, struct fl_error *err);

/* The configured file system as a mount with `attributes` (MOUNT_ATTR_*). */
int fl_mount_create(int context, uint32_t attributes, struct fl_error *err);

/* A copy of the mount at `path`, with what is mounted below it if `recursive`. */
int fl_mount_clone(const char *path, bool recursive, struct fl_error *err);

/* Attributes of a mount (of all below it, too, if `recursive`). userns >= 0 makes
 * it idmapped by that user namespace (MOUNT_ATTR_IDMAP is added to `set`). */
int fl_mount_change(int mount, uint64_t set, uint64_t clear, int userns, bool recursive,
                    struct fl_error *err);

/* Puts a detached mount onto the directory that `target` is open on. */
int fl_mount_attach(int mount, int target, struct fl_error *err);

/* umount2(2). */
int fl_mount_detach(const char *path, int flags, struct fl_error *err);

/* mount(2), with the directory `cwd` as the start of relative names in source and
 * data if it is not -1: done in a thread with a working directory of its own. */
int fl_mount_old(const char *source, const char *target, const char *type, unsigned long flags,
                 const char *data, int cwd, struct fl_error *err);

enum fl_mount_about {
    FL_MOUNT_UNIQUE = 1, /* the number is never used again (Linux 6.8)           */
    FL_MOUNT_ROOT = 2,   /* the descriptor is the root of the mount              */
};

/* The mount that `fd` is on; `plain` asks for its number in /proc/self/mountinfo.
 * Returns bits of enum fl_mount_about. ENOSYS before Linux 5.8. */
int fl_mount_id(int fd, bool plain, uint64_t *ret_id, struct fl_error *err);

/* A user namespace with these maps (as written to /proc/PID/uid_map), which no
 * process is in. */
int fl_mount_userns(const char *uid_map, const char *gid_map, struct fl_error *err);

#endif
