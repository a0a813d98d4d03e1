/* Extended attributes: which ones travel, and reading them into a blob.
 *
 * A policy keeps or leaves out by name. security.selinux and trusted.overlay.*
 * belong to one machine and never travel, nor do the second names that XFS
 * gives the POSIX ACLs and the properties of btrfs (btrfs.*); all these but the
 * overlay's are not worth a warning and not counted.
 */
#ifndef FL_XATTR_H
#define FL_XATTR_H

#include <stdbool.h>

#include "fl_buf.h"

enum fl_xattr_policy {
    FL_XATTR_ALL = 0,
    FL_XATTR_DOCKER = 1, /* security.capability only                           */
    FL_XATTR_NONE = 2,
};

struct fl_xattr_reader {
    enum fl_xattr_policy policy;
    struct fl_buf list;     /* private: names, and after them one value         */
};

/* Never travels and is not counted. */
bool fl_xattr_is_host_only(const char *name, size_t len);

void fl_xattr_reader_free(struct fl_xattr_reader *r);

/* Appends the sorted blob (fl_entry.h) of what travels to `out`; its length and
 * the number of attributes left out go to ret_*. The file is `name` below
 * dirfd, never followed; "" is dirfd itself. A file system without extended
 * attributes has none. Errors carry no path. */
int fl_xattr_read(struct fl_xattr_reader *r, int dirfd, const char *name,
                  struct fl_buf *out, uint32_t *ret_len, uint32_t *ret_dropped,
                  struct fl_error *err);

/* The same selection from a blob. Refuses a malformed one (FL_ERR_FORMAT). */
int fl_xattr_filter(enum fl_xattr_policy policy, const uint8_t *blob,
                    uint32_t len, struct fl_buf *out, uint32_t *ret_len,
                    uint32_t *ret_dropped, struct fl_error *err);

#endif
