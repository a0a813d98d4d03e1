/* Copying the attributes of one object onto another: owner, mode, xattrs (ACLs
 * are xattrs here), times - in this order, because chown clears setuid bits and
 * security.capability and chmod changes the ACL mask. Only user.* xattrs come
 * before the mode, which may take away the permission for them.
 *
 * The destination must have been made by this process inside a directory that
 * fl_attrs_make_private has treated, so that owner, group and mode of a new
 * object are known without asking and no ACL is inherited. Calls that would
 * change nothing are left out.
 *
 * What an unprivileged caller or the destination's file system cannot keep
 * (EPERM on the owner, EPERM or ENOTSUP on an xattr) is counted, not an error;
 * setuid and setgid go when the owner could not be kept.
 *
 * One struct per thread; zero-initialise, fl_attrs_init, fl_attrs_free.
 */
#ifndef FL_ATTRS_H
#define FL_ATTRS_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fl_buf.h"
#include "fl_error.h"

struct fl_attrs {
    uid_t uid;              /* owner, group and umask of what this process makes */
    gid_t gid;
    mode_t umask;
    bool skip_overlay;      /* leave out trusted.overlay.* and user.overlay.*    */
    uint64_t lost_owners;
    uint64_t lost_xattrs;
    struct fl_buf names;    /* scratch, reused */
    struct fl_buf value;
};

void fl_attrs_init(struct fl_attrs *a);
void fl_attrs_free(struct fl_attrs *a);

/* Mode to create a copy of `st` with: its own when the umask leaves that alone, else 0 (and chmod follows). */
mode_t fl_attrs_create_mode(const struct fl_attrs *a, const struct stat *st);

/* Makes a directory that is surely 0700, whatever the umask. */
int fl_attrs_mkdir(const struct fl_attrs *a, int dir, const char *name, struct fl_error *err);

/* Copies all attributes from the open object src (whose fstat is `st`) to dst, which has mode `created` now. */
int fl_attrs_copy_fd(struct fl_attrs *a, int src, const struct stat *st, int dst, mode_t created, struct fl_error *err);

/* The same for what cannot be opened: symbolic links, devices, fifos. Names are single components. */
int fl_attrs_copy_at(struct fl_attrs *a, int src_dir, const char *src_name, const struct stat *st, int dst_dir,
                     const char *dst_name, struct fl_error *err);

/* Makes a fresh directory 0700, of this process' group, without setgid and without ACLs. */
int fl_attrs_make_private(const struct fl_attrs *a, int dir_fd, struct fl_error *err);

#endif
