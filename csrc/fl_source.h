/* A tree as a stream of entries in path order, in batches.
 *
 * Entry i's path, link and xattrs are at heap + entries[i].path_off, one after
 * the other. A batch stays valid until the next call of fl_source_next.
 * Sockets are delivered like anything else; the xattr policy has been applied.
 * The number of xattrs the policy left out is in the upper half of `flags`.
 * FL_ENTRY_PASSED: a directory that patterns leave out (fl_ignore.h), in the
 * stream because of what may be below it.
 */
#ifndef FL_SOURCE_H
#define FL_SOURCE_H

#include "fl_entry.h"
#include "fl_error.h"

#define FL_ENTRY_DROPPED_SHIFT 16u
#define FL_ENTRY_PASSED 4u

struct fl_batch {
    const struct fl_entry *entries;
    const uint8_t *heap;
    uint32_t count;  /* 0: the end                                             */
    uint32_t first;  /* number of entries delivered before this batch          */
};

struct fl_source {
    int (*next)(struct fl_source *s, struct fl_batch *ret, struct fl_error *err);
    void (*free)(struct fl_source *s);
};

static inline int fl_source_next(struct fl_source *s, struct fl_batch *ret,
                                 struct fl_error *err)
{
    return s->next(s, ret, err);
}

/* NULL is fine. */
static inline void fl_source_free(struct fl_source *s)
{
    if (s != NULL)
        s->free(s);
}

static inline uint32_t fl_entry_dropped(const struct fl_entry *e)
{
    return e->flags >> FL_ENTRY_DROPPED_SHIFT;
}

#endif
