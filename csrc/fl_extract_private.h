/* What the files of the extractor share: fl_extract.c (layers, limits), fl_placing.c (rows of a table),
 * fl_extract_types.c (one function per entry type), fl_owner.c (attributes),
 * fl_whiteout.c (markers), fl_dirtimes.c (directories at the end).
 */
#ifndef FL_EXTRACT_PRIVATE_H
#define FL_EXTRACT_PRIVATE_H

#include "fl_copy.h"
#include "fl_extract.h"
#include "fl_name.h"
#include "fl_path.h"
#include "fl_remove.h"
#include "fl_tar.h"
#include "fl_work.h"

/* A place for an entry: a name in a directory. */
struct fl_place {
    uint32_t dir;
    const char *name; /* NUL-terminated */
    uint32_t len;
};

/* The regular file that is being written; fd -1: none, and data is skipped. */
struct fl_writing {
    int fd;
    uint32_t dir;
    mode_t created;   /* mode it was created with */
    uint64_t end;     /* bytes up to here were written */
    bool is_donated;  /* all bytes were there before   */
};

/* A part of a file. */
struct fl_extent {
    int fd;
    uint64_t offset;
    uint64_t len;
};

struct fl_placing;

struct fl_extract {
    struct fl_extract_options opt;
    struct fl_id_range *ranges;     /* both maps */
    struct fl_work work;            /* runs feed and end */
    const uint8_t *input;           /* of the feed that is at work */
    size_t input_len;
    struct fl_extent extent;        /* the same of fl_extract_feed_extent */
    struct fl_copy copy;
    const char *xattr_prefix;       /* attributes of the storage format, or NULL */
    const char *xattr_opaque;
    const char *xattr_whiteout;
    bool keeps_markers;             /* every format but dir                      */
    bool is_overlay;
    bool in_layer;
    bool is_ending;
    bool failed;
    bool has_donor;                 /* for this layer                            */
    uint32_t uid, gid;              /* that new files have, if nothing is special */
    mode_t umask;
    uint64_t size;                  /* of the files of this layer so far          */
    struct fl_tar tar;
    struct fl_path path;
    struct fl_name name;
    struct fl_name link;
    struct fl_remove remove;
    struct fl_writing writing;
    struct fl_placing *placing;     /* NULL: none is under way                      */
    struct fl_extract_stats stats;
    struct fl_buf list;             /* names of xattrs, of directory entries      */
    struct fl_buf stack;            /* directories being pruned                   */
    char target[4096];              /* of a symbolic link, NUL-terminated         */
};

static inline struct fl_dir *fl_extract_dir(const struct fl_extract *x, uint32_t dir)
{
    return &x->path.dirs[dir];
}

/* ---- fl_extract.c ---- */

/* Counts the entry and makes what it says; of a regular file there is x->writing then. */
int fl_extract_take(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err);

/* Attributes and the end of x->writing, whose content is there. */
int fl_extract_close_file(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err);

/* ---- fl_placing.c ---- */

/* NULL on failure. */
struct fl_placing *fl_placing_new(struct fl_extract *x, const struct fl_changes *table, const int *roots,
                                  uint32_t root_count, const int64_t *clamp, unsigned helpers, struct fl_error *err);

/* The next batch of rows: 1 = there are more, 0 = all are complete, -1. */
int fl_placing_step(struct fl_placing *p, struct fl_error *err);

/* May be called by another thread: what is being copied stops soon. */
void fl_placing_stop(struct fl_placing *p);

/* NULL is fine. */
void fl_placing_free(struct fl_placing *p);

/* ---- fl_extract_types.c ---- */

/* Makes the entry e at x->name (of kind PLAIN or ROOT). */
int fl_extract_entry(struct fl_extract *x, const struct fl_tar_entry *e, struct fl_error *err);

/* Finds the directory of a name. Missing parents are made when `make`; so are
 * those that are in the way when `replace`. 1 = found, 0 = not there, -1. */
int fl_extract_parent(struct fl_extract *x, const struct fl_name *name, bool make, bool replace,
                      uint32_t *ret_dir, struct fl_error *err);

/* Removes whatever is at the place. 1 = something was there (or hidden), 0, -1. */
int fl_extract_vacate(struct fl_extract *x, struct fl_place at, struct fl_error *err);

/* ---- fl_owner.c ---- */

/* Counts what was left out of the entry; the first is the example. `name`: of an attribute, or "". */
int fl_owner_lose(struct fl_extract *x, enum fl_extract_loss kind, const char *name, const struct fl_tar_entry *e,
                  struct fl_error *err);

/* Owner, mode and attributes of a regular file just written, then its times. */
int fl_owner_file(struct fl_extract *x, const struct fl_writing *w, const struct fl_tar_entry *e, struct fl_error *err);

/* The same for a link, device or fifo just made. */
int fl_owner_node(struct fl_extract *x, struct fl_place at, mode_t created, const struct fl_tar_entry *e,
                  struct fl_error *err);

/* A directory: e NULL for one that has no entry (0755, 0:0). Its times are noted for the end. */
int fl_owner_dir(struct fl_extract *x, uint32_t dir, const struct fl_tar_entry *e, struct fl_error *err);

/* Mode to create something of `mode` with; when it differs a chmod follows. */
int fl_owner_create_mode(struct fl_extract *x, uint32_t dir, const struct fl_tar_entry *e, mode_t *ret_mode,
                         struct fl_error *err);

/* ---- fl_donor.c ---- */

#define FL_DONOR_MODE ((mode_t)-1) /* of what was made before: unlike any that an entry can have */

/* The file of the entry comes from the donor, to its place, which nothing has: 1 = x->writing is it, 0 = it does not, -1. */
int fl_donor_take(struct fl_extract *x, struct fl_place at, const struct fl_tar_entry *e, struct fl_error *err);

/* Something of this layer is replaced: -1 where that must not be. */
int fl_donor_check(const struct fl_extract *x, struct fl_error *err);

/* ---- fl_whiteout.c ---- */

/* x->name is a whiteout or an opaque marker. */
int fl_whiteout_apply(struct fl_extract *x, struct fl_error *err);

/* Lower layers do not show through the directory. */
int fl_whiteout_set_opaque(struct fl_extract *x, uint32_t dir, struct fl_error *err);

/* Something in the directory is no name of this layer: a later marker above must look, and remove what it leaves empty. */
void fl_whiteout_note(struct fl_extract *x, uint32_t dir);

/* aufs: takes the marker of a name away. 1 = there was one, 0, -1. */
int fl_whiteout_reveal(struct fl_extract *x, struct fl_place at, struct fl_error *err);

/* Is what is at the place a whiteout? 1, 0, -1. */
int fl_whiteout_is_hidden(struct fl_extract *x, struct fl_place at, struct fl_error *err);

/* ---- fl_dirtimes.c ---- */

/* Modes and times of directories, matched by inode; fsync of what was touched. */
int fl_dirtimes_settle(struct fl_extract *x, struct fl_error *err);

#endif
