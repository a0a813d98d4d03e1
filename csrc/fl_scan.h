/* A directory tree as flat records for an index, and many small files at once.
 *
 * A scan walks (fl_walk.h) and gathers entries without sockets into `records`
 * (struct fl_entry each, path_off relative to `heap`, flags 0).
 */
#ifndef FL_SCAN_H
#define FL_SCAN_H

#include "fl_hold.h"
#include "fl_ignore.h"
#include "fl_open.h"
#include "fl_pick.h"
#include "fl_source.h"
#include "fl_xattr.h"

struct fl_scan {
    struct fl_buf records;
    struct fl_buf heap;
    uint64_t entries;        /* delivered so far                               */
    uint64_t skipped_sockets;
    uint64_t dropped_xattrs;

    struct fl_source *source; /* private */
    struct fl_batch batch;
    uint32_t at;
    bool ended;
    bool ignores;
    struct fl_ignore_program program;
    struct fl_ignore ignore; /* of a source that does not know the patterns itself */
    struct fl_hold hold;     /* with patterns: what is not known to stay       */
};

struct fl_scan_options {
    enum fl_xattr_policy policy;
    const struct fl_pick_keys *only; /* NULL, or the paths to look at          */
    const void *ignore;              /* NULL, or a program (fl_ignore.h)       */
    size_t ignore_len;
};

/* On failure nothing needs freeing. root_fd: see fl_walk_open. What patterns leave
 * out is left out; the directories above what they take back are there. */
int fl_scan_init(struct fl_scan *s, int root_fd, const struct fl_scan_options *options,
                 struct fl_error *err);
void fl_scan_free(struct fl_scan *s);

/* Fills records and heap anew with at most max entries; 0 at the end, else 1. */
int fl_scan_next(struct fl_scan *s, uint32_t max, struct fl_error *err);

struct fl_read_many {
    struct fl_open open;
};

void fl_read_many_init(struct fl_read_many *r, int root_fd);
void fl_read_many_free(struct fl_read_many *r);

/* The whole of one regular file into buf. 1: *ret_len bytes, or -1 when the
 * path is gone or no regular file; 0: it does not fit into `room`. A file that
 * gets shorter or longer meanwhile is FL_ERR_CHANGED. */
int fl_read_many_next(struct fl_read_many *r, const uint8_t *path, uint32_t len,
                      uint8_t *buf, size_t room, int64_t *ret_len,
                      struct fl_error *err);

#endif
