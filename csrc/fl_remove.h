/* Removing one name with everything below it.
 *
 * Never follows a symbolic link, never recurses, holds at most 10 descriptors
 * whatever the depth. The way back up from deep levels is "..", accepted only
 * when it is the very directory that was left (else FL_ERR_CHANGED).
 * Directories that their owner may not change are opened up on the way. What is
 * mounted somewhere in the tree is not the tree's: EBUSY before it is entered.
 * One struct may be reused; zero-initialise, fl_remove_free.
 */
#ifndef FL_REMOVE_H
#define FL_REMOVE_H

#include <stdatomic.h>

#include "fl_buf.h"

struct fl_remove {
    const atomic_bool *stop; /* once true the removal ends with ECANCELED (fl_work.h); NULL: it does not */
    struct fl_buf levels;  /* private: directories being emptied                */
    struct fl_buf names;   /* private: directories still to be removed, stacked */
    struct fl_buf records; /* private: what getdents64 fills                    */
    uint64_t mount;        /* private: what is being removed lies on              */
    unsigned retries;
};

void fl_remove_free(struct fl_remove *r);

/* `name` is one component of the open directory `dir`. 1 = removed, 0 = was not there. */
int fl_remove_at(struct fl_remove *r, int dir, const char *name,
                 struct fl_error *err);

/* Is the open directory reached through this mount (fl_sys_mount_id)? 0, or -1 with EBUSY. */
int fl_remove_check_mount(int fd, uint64_t mount, struct fl_error *err);

/* All names in the open directory (read from its start), NUL-terminated, one
 * behind the other, without "." and "..". Appends to ret_names. */
int fl_remove_list(struct fl_remove *r, int dir, struct fl_buf *ret_names,
                   struct fl_error *err);

#endif
