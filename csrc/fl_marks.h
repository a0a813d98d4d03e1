/* The extended attributes of one object in an overlay layer, told apart:
 * the overlay's own marks, and those a merged view would show.
 *
 * Marks are trusted.overlay.*, or with `userxattr` (the mount option) user.overlay.*.
 * A mount honours one of the two; the other is data like any attribute, and who
 * may not set trusted.* must not be able to make marks: so there is no "both".
 * An escaped mark, overlay.overlay.X, is visible as overlay.X.
 *
 * Zero-initialise; buffers are reused by the next read.
 */
#ifndef FL_MARKS_H
#define FL_MARKS_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_error.h"
#include "fl_xattr.h"

struct fl_marks {
    enum fl_xattr_policy policy;
    bool userxattr;         /* marks are user.overlay.*                         */
    bool whiteout;          /* overlay.whiteout is there                        */
    bool metacopy;          /* overlay.metacopy is there                        */
    char opaque;            /* first byte of overlay.opaque: 'y', 'x', or 0     */
    struct fl_buf redirect; /* overlay.redirect; empty = none. Checked: one name,
                             * or '/' and names; no empty ones, no dots         */
    uint32_t dropped;       /* visible, left out by policy (selinux not counted) */
    struct fl_buf visible;  /* fl_entry.h blob of those that travel             */

    struct fl_buf names;    /* private: the name list,                          */
    struct fl_buf kept;     /* which of it travel                               */
};

void fl_marks_free(struct fl_marks *m);

/* Reads those of `name` in dir_fd ("." for the directory itself), a symlink not
 * followed. With want_visible false, `visible` and `dropped` stay empty. */
int fl_marks_read(struct fl_marks *m, int dir_fd, const char *name,
                  bool want_visible, struct fl_error *err);

#endif
