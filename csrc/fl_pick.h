/* Named parts of a directory tree, as a source of entries (fl_source.h).
 *
 * What a walk would deliver, but only of the paths that are asked for: for those
 * who know where to look (btrfs generations). A key is a path, for that one
 * entry, or a path with a slash behind it, for everything below a directory
 * (not itself). What is not there is left out: a missing path, a path below
 * something that is no directory. No symbolic link is followed.
 *
 * Keys are NUL-terminated, one behind the other, in byte order, no two the same,
 * none below one with a slash; the first is "" (the root). Byte order of keys is
 * the order of entries. Anything else is FL_ERR_USAGE.
 */
#ifndef FL_PICK_H
#define FL_PICK_H

#include "fl_source.h"
#include "fl_xattr.h"

struct fl_pick_keys {
    const char *data; /* the caller's; must outlive the source                  */
    size_t len;       /* the last NUL included                                  */
};

/* NULL on failure. Release with fl_source_free. root_fd: see fl_walk_open. */
struct fl_source *fl_pick_open(int root_fd, const struct fl_pick_keys *keys,
                               enum fl_xattr_policy policy, struct fl_error *err);

#endif
