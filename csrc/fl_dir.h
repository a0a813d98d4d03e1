/* One directory's children in walking order.
 *
 * Path order (fl_entry.h) puts "a-b" between "a" and "a/b". Sorting each
 * directory with two events per subdirectory gives exactly that: visit at the
 * key "a", descend at the key "a/".
 *
 * Events are stacked in `events` as offsets into `names`, where each is
 * { u8 kind, name, NUL }; the caller remembers the lengths of both before and
 * cuts them back when done with the directory.
 */
#ifndef FL_DIR_H
#define FL_DIR_H

#include "fl_buf.h"

#define FL_DIR_VISIT 0u
#define FL_DIR_DESCEND 1u

struct fl_dir_lists {
    struct fl_buf names;
    struct fl_buf events;  /* u32 each                                         */
    struct fl_buf scratch; /* private */
};

void fl_dir_lists_free(struct fl_dir_lists *l);

/* Appends all children of fd, sorted. fd: a directory open for reading, at its
 * beginning. Errors carry no path. */
int fl_dir_read(struct fl_dir_lists *l, int fd, struct fl_error *err);

#endif
