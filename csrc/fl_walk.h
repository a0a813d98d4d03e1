/* Walking a directory tree in path order, as a source of entries (fl_source.h).
 *
 * The root itself comes first, as the empty path. Nothing but directories is
 * opened, no symbolic link is followed, access times stay where that is
 * permitted. Depth and path length are bounded by memory only; at most
 * FL_WALK_FDS directories are open at once (a parent further up is opened again
 * through ".." and must still be the same directory).
 *
 * An entry that vanishes between listing and stat is left out. An unreadable
 * directory is an error naming it; an entry that becomes something else under
 * our hands is FL_ERR_CHANGED.
 *
 * root_fd must be open for searching, may be O_PATH, stays the caller's and
 * must outlive the walk. `threaded`: a thread walks up to FL_WALK_RING batches
 * ahead; it has all signals blocked and ends with fl_source_free.
 */
#ifndef FL_WALK_H
#define FL_WALK_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_ignore.h"
#include "fl_source.h"
#include "fl_xattr.h"

#define FL_WALK_FDS 16u
#define FL_WALK_RING 4u
#define FL_WALK_BATCH 1024u        /* entries */
#define FL_WALK_BATCH_BYTES 524288u /* of heap; one entry may exceed it */

/* NULL on failure. Release with fl_source_free. ignore: NULL, or patterns, which must
 * outlive the walk: what they leave out is neither looked at nor entered. */
struct fl_source *fl_walk_open(int root_fd, enum fl_xattr_policy policy,
                               bool threaded, const struct fl_ignore_program *ignore,
                               struct fl_error *err);

/* What a walk does for one name below fd ("": fd itself): fills everything of the
 * zeroed *e but its path, and appends link and xattrs to `heap`. Errors carry no
 * path; what was appended before one is the caller's to cut off. */
int fl_walk_read(struct fl_xattr_reader *xattr, struct fl_buf *heap, int fd,
                 const char *name, struct fl_entry *e, struct fl_error *err);

#endif
