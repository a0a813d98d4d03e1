/* The overlay fast path: the changes an upperdir makes to its lowerdirs.
 *
 *   fl_upper_init(&u, &options)
 *   while ((r = fl_upper_step(&u, &err)) > 0) ;
 *   fl_upper_finish(&u, &err), then u.table is complete and the caller's to move
 *   fl_upper_free(&u)
 *
 * The table is the one fl_diff would make of the merged lowerdirs and the
 * mounted overlay, but only directories that the upperdir has are looked into
 * (and the lower ones an opaque or redirected directory hides or brings in).
 * Two things cannot be seen from there and differ:
 *   - names in the lowerdirs that share an inode with a file the upperdir
 *     replaces are not listed again (they stay as they are, without it);
 *   - a copied-up file whose other names all went away with directories of the
 *     lowerdirs, or lie outside of them, is listed though its group is as it was;
 *   - with the mount option index=on, other names of a copied-up inode.
 * Regular files whose bytes are in a lowerdir (metacopy, renamed directories)
 * are FL_ROW_AUX rows 'P' with the number of the layer: 1 is the top lowerdir.
 * The encoder needs the roots upper, lower 1, lower 2, ...
 *
 * Descriptors stay the caller's and must outlive the differ. After a failure it
 * may only be freed. One thread at a time.
 */
#ifndef FL_UPPER_H
#define FL_UPPER_H

#include "fl_changes.h"
#include "fl_compare.h"
#include "fl_diff.h"
#include "fl_groups.h"
#include "fl_overlay.h"

#define FL_UPPER_MAX_LOWERS 65535u   /* what a row can name                    */
#define FL_UPPER_BATCH 1024u         /* names of one step                       */
#define FL_UPPER_BATCH_BYTES 16777216u /* bytes compared in one step            */

struct fl_upper_options {
    int upper;
    const int *lowers; /* top first                                             */
    uint32_t lower_count;
    enum fl_diff_compare compare;
    enum fl_xattr_policy xattrs;
    bool userxattr; /* as the mount option: the overlay's marks are user.overlay.* */
    bool details; /* decide CONTENT also where something else changed           */
};

/* One object as an entry; what varies in its length is in `heap`. */
struct fl_upper_side {
    struct fl_overlay_node node;
    struct fl_entry entry;
    struct fl_buf heap;
};

struct fl_upper {
    struct fl_upper_options options;
    struct fl_changes table;   /* the result; until finish in no order          */
    uint64_t entries;          /* names looked at                               */
    struct fl_content content; /* .bytes: compared                              */

    /* private */
    int *roots;
    struct fl_overlay overlay;
    struct fl_buf places;      /* directories still to look into                */
    struct fl_buf path;        /* of the directory at hand, then of a name in it */
    size_t dir_len;
    struct fl_overlay_dir dir_a;
    struct fl_overlay_dir dir_b;
    bool same_below;           /* B's lower parts are A's parts                 */
    struct fl_buf names;       /* of the directory at hand, NUL-terminated      */
    struct fl_buf sorted;      /* their offsets                                 */
    size_t next;               /* index into sorted                             */
    struct fl_upper_side a;
    struct fl_upper_side b;
    bool comparing;            /* contents of the current pair                  */
    uint32_t what;             /* what is known of it                           */
    struct fl_groups groups;
};

/* On failure nothing needs freeing; freeing a zeroed struct is harmless. */
int fl_upper_init(struct fl_upper *u, const struct fl_upper_options *options,
                  struct fl_error *err);
void fl_upper_free(struct fl_upper *u);

/* A batch. 1 there is more, 0 done, -1 failed. */
int fl_upper_step(struct fl_upper *u, struct fl_error *err);

int fl_upper_finish(struct fl_upper *u, struct fl_error *err);

/* After finish: where the lowerdirs have the bytes of their regular file at
 * `path` (not empty, NUL-terminated). 1 in lowerdir *ret_layer under *ret_path,
 * which is valid until the next call; 0 there is none. */
int fl_upper_old(struct fl_upper *u, const char *path, uint32_t *ret_layer,
                 const uint8_t **ret_path, size_t *ret_len, struct fl_error *err);

#endif
