/* A change table: what has to be done to tree A to get tree B.
 *
 * Producers (fl_diff, fl_upper) append rows in path order and call
 * fl_changes_finish once; consumers (fl_encode, listing) read `rows`/`heap`
 * and, for a layer, `order`. The table owns its memory; release with
 * fl_changes_free. Not thread-safe; many readers are fine after finish.
 *
 * fl_changes_finish(drop unneeded rows and order the rest):
 *   - removes FL_KIND_NONE rows and PARENT rows without a kept descendant
 *     (a root row, path_len 0, of kind PARENT is always removed);
 *   - sets `leader`: among kept non-directory ADD/MODIFY rows with
 *     FL_ROW_GROUP and the same group, the first in path order leads;
 *   - fills `order`: row numbers in tar order, i.e. sorted by the key
 *       path                      for a kept entry
 *       dir "/" NUL name          for a DELETE of dir/name (NUL name at the root)
 *     so a directory comes before its whiteouts, and they before its children.
 */
#ifndef FL_CHANGES_H
#define FL_CHANGES_H

#include "fl_buf.h"
#include "fl_entry.h"

struct fl_changes {
    struct fl_row *rows;
    uint32_t count;
    uint32_t cap;
    struct fl_buf heap;
    uint32_t *order;        /* count entries; NULL before finish               */
    uint64_t skipped_sockets;
    uint64_t dropped_xattrs; /* xattrs left out by policy, in kept rows        */
    struct fl_buf dropped;  /* private: see fl_changes_dropped                 */
};

/* Appends a zeroed row whose variable part is copied from the three pieces.
 * Returns 0; the row is rows[count - 1] and may be filled in further. */
int fl_changes_add(struct fl_changes *t, const void *path, uint32_t path_len,
                   const void *link, uint32_t link_len, const void *xattrs,
                   uint32_t xattr_len, struct fl_row **ret_row,
                   struct fl_error *err);

/* Policy left `n` xattrs out of the latest row. They count towards
 * dropped_xattrs if finish keeps the row. */
int fl_changes_dropped(struct fl_changes *t, uint32_t n, struct fl_error *err);

/* Puts rows that came in any order into path order, with `group` (count numbers,
 * or NULL) alongside. No two rows may have the same path. Needs little more
 * memory than a second heap. */
int fl_changes_sort(struct fl_changes *t, uint32_t *group, struct fl_error *err);

/* Takes back the latest row and its part of the heap. */
void fl_changes_pop(struct fl_changes *t);

/* `group` gives each row's hard-link group number (0 = none), count entries,
 * or NULL when no row has FL_ROW_GROUP. Rows must be in path order. Verify
 * marks and the heap space of dropped rows are gone afterwards. */
int fl_changes_finish(struct fl_changes *t, const uint32_t *group,
                      struct fl_error *err);

void fl_changes_free(struct fl_changes *t);

#define FL_AUX_CTIME_LEN 9u

static inline uint64_t fl_aux_nanoseconds(int64_t sec, int64_t nsec)
{
    return (uint64_t)sec * 1000000000u + (uint64_t)nsec;
}

/* The aux of a file that is read at its own path (fl_entry.h). */
static inline void fl_aux_ctime(uint8_t aux[FL_AUX_CTIME_LEN], int64_t sec, int64_t nsec)
{
    uint64_t ns = fl_aux_nanoseconds(sec, nsec);

    aux[0] = 'C';
    memcpy(aux + 1, &ns, sizeof(ns));
}

static inline const uint8_t *fl_row_path(const struct fl_changes *t,
                                         const struct fl_row *r)
{
    return t->heap.data + r->path_off;
}

static inline const uint8_t *fl_row_link(const struct fl_changes *t,
                                         const struct fl_row *r)
{
    return t->heap.data + r->path_off + r->path_len;
}

static inline const uint8_t *fl_row_xattrs(const struct fl_changes *t,
                                           const struct fl_row *r)
{
    return t->heap.data + r->path_off + r->path_len + r->link_len;
}

#endif
