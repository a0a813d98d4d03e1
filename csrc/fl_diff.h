/* Two trees, walked in lockstep, as a change table.
 *
 *   fl_diff_init(&d, &options)
 *   while ((r = fl_diff_step(&d, &err)) > 0) ;
 *   settle every entry of d.unverified (only with columns), after any step;
 *   soon is better, as a pair that proves equal then takes no memory
 *   fl_diff_finish(&d, &err), then d.table is complete and the caller's to move
 *   fl_diff_free(&d)
 *
 * Each side is a directory (root >= 0), columns, or neither: the empty tree.
 * Descriptors and columns stay the caller's and must outlive the differ. The
 * rules of what is a change are those of docs/formats.md. With `only` the answer is that
 * about the whole trees if it names every path that differs, every name of each
 * hard-linked file among them, and all directories above. After a failure the
 * differ may only be freed. One thread at a time; walkers may be threads.
 */
#ifndef FL_DIFF_H
#define FL_DIFF_H

#include "fl_changes.h"
#include "fl_compare.h"
#include "fl_groups.h"
#include "fl_pick.h"
#include "fl_source.h"
#include "fl_table.h"

#define FL_DIFF_BATCH 4096u         /* entries of one step */
#define FL_DIFF_BATCH_BYTES 16777216u /* bytes compared in one step */

enum fl_diff_compare {
    FL_DIFF_AUTO = 0,     /* prove equality cheaply where possible, else read   */
    FL_DIFF_METADATA = 1, /* equal attributes are enough, and of an inode that  */
                          /* a table knows the ctime                            */
    FL_DIFF_CONTENT = 2,  /* read whatever is not the same inode                */
};

struct fl_diff_operand {
    int root;                         /* or -1                                 */
    const struct fl_columns *columns; /* or NULL                               */
};

struct fl_diff_options {
    struct fl_diff_operand a;
    struct fl_diff_operand b;
    enum fl_diff_compare compare;
    enum fl_xattr_policy xattrs;
    bool details;  /* decide CONTENT also where something else changed          */
    bool threaded; /* walk directories in threads                               */
    const struct fl_pick_keys *only; /* look at these paths of directories, or NULL: all */
    /* Not 0: two directories are one file system at two moments (snapshots of
     * a block device), and were the same at this one. Nanoseconds since 1970. */
    int64_t shared_until_ns;
};

/* A pair equal but for content that only hashing can prove. */
struct fl_diff_unverified {
    uint32_t row;
    uint32_t entry;   /* of the side that is columns and has the key            */
    uint32_t settled;
};

struct fl_diff_side {
    struct fl_diff_operand operand;
    struct fl_source *source;
    struct fl_batch batch;
    uint32_t at;     /* current entry of batch                                  */
    bool ended;
};

struct fl_diff {
    struct fl_diff_options options;
    struct fl_changes table;
    struct fl_buf unverified; /* struct fl_diff_unverified each                 */
    uint32_t settled;         /* so many of the first of them are settled       */
    uint64_t entries;         /* seen, both sides                               */
    uint64_t assumed;         /* files called different because nothing can tell */
    struct fl_content content; /* .bytes: compared                              */

    /* private */
    struct fl_diff_side a;
    struct fl_diff_side b;
    struct fl_groups groups;
    struct fl_buf gone;       /* stack of A's directories that B does not have  */
    bool comparing;           /* content of the current pair is being compared  */
    uint32_t what;            /* what is known of it                            */
};

/* On failure nothing needs freeing. */
int fl_diff_init(struct fl_diff *d, const struct fl_diff_options *options,
                 struct fl_error *err);
void fl_diff_free(struct fl_diff *d);

/* A batch. 1 there is more, 0 done, -1 failed. */
int fl_diff_step(struct fl_diff *d, struct fl_error *err);

static inline uint32_t fl_diff_unverified_count(const struct fl_diff *d)
{
    return (uint32_t)(d->unverified.len / sizeof(struct fl_diff_unverified));
}

/* NULL when there is no such ticket. */
struct fl_diff_unverified *fl_diff_unverified_at(struct fl_diff *d, uint64_t ticket);

/* The blake3 key that decides about u: FL_TABLE_KEY_LEN bytes. */
const uint8_t *fl_diff_unverified_key(const struct fl_diff *d,
                                      const struct fl_diff_unverified *u);

/* FL_ERR_USAGE: no such ticket, or settled before. */
int fl_diff_settle(struct fl_diff *d, uint64_t ticket, bool equal, struct fl_error *err);

/* FL_ERR_USAGE when something is unsettled. */
int fl_diff_finish(struct fl_diff *d, struct fl_error *err);

#endif
