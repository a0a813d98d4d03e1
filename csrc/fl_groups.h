/* Which hard-link groups of tree B are not what they were in tree A.
 *
 * A group is the walked names of one (dev, ino). A group of B is as it was if
 * each of its names is an otherwise unchanged entry of one and the same group
 * of A, and every name of that group which B still has is in this group. Any
 * other group goes into the layer whole: who unpacks a layer by itself cannot
 * link to a file of a layer below. Names outside the tree do not count.
 *
 * Where A is not walked whole (`partial`), its link counts speak for the names
 * that were not met: a name that B has on another inode left them behind, and its
 * group is not as it was. Unless that inode has more links than names: those are
 * overlayfs' own (index=on), which gives the names left behind the new inode, too.
 */
#ifndef FL_GROUPS_H
#define FL_GROUPS_H

#include <stdbool.h>

#include "fl_changes.h"

#define FL_GROUPS_NO_ROW UINT32_MAX

struct fl_groups {
    bool partial;        /* to be set before the first name                    */
    struct fl_buf names; /* private: struct name each                          */
};

/* Can this entry be one of several names? (nlink is of its own tree.) */
static inline int fl_groups_shared(const struct fl_entry *e)
{
    return e->nlink > 1 && e->ino != 0 && (e->mode & 0170000) != 0040000;
}

/* A path of B and what A has there. To be called for every path of B for which
 * fl_groups_shared is true of either side. a: NULL if A has nothing there.
 * row: of the path in the change table, of kind NONE when otherwise
 * unchanged; FL_GROUPS_NO_ROW when B has a directory there. */
int fl_groups_add(struct fl_groups *g, const struct fl_entry *a,
                  const struct fl_entry *b, uint32_t row, struct fl_error *err);

/* A path that A has with other names, and B has not at all. Only for a partial A. */
int fl_groups_gone(struct fl_groups *g, const struct fl_entry *a, struct fl_error *err);

/* Turns the rows of changed groups into changes (FL_WHAT_LINK where nothing
 * else changed). Groups of two or more get FL_ROW_GROUP and their number in
 * *ret_group (table->count numbers from malloc, the caller's; NULL when there
 * are none), ready for fl_changes_finish. */
int fl_groups_resolve(struct fl_groups *g, struct fl_changes *table,
                      uint32_t **ret_group, struct fl_error *err);

void fl_groups_free(struct fl_groups *g);

#endif
