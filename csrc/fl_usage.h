/* What a tree takes on the disk: allocated blocks, every inode once.
 *
 *   fl_usage_init(&u, root_fd, &err)
 *   while ((r = fl_usage_step(&u, &err)) > 0) ;
 *   the three sums are complete; fl_usage_free(&u)
 *
 * Everything below the open directory `root_fd` and itself, on its file system
 * only; no link is followed, no depth costs more than a few descriptors. What
 * vanishes meanwhile does not count. The descriptor stays the caller's and open.
 */
#ifndef FL_USAGE_H
#define FL_USAGE_H

#include <stdbool.h>
#include <sys/types.h>

#include "fl_links.h"

struct fl_usage {
    uint64_t bytes;  /* allocated: st_blocks * 512                              */
    uint64_t inodes;
    uint64_t shared; /* of bytes: in blocks that other files have as well; 0
                        where files cannot share                                */

    /* private */
    int root;
    dev_t device;
    bool sharing;
    struct fl_buf waiting; /* directories still to look into, a stack           */
    struct fl_buf records; /* what getdents64 fills                             */
    struct fl_links seen;  /* inodes of several names                           */
};

int fl_usage_init(struct fl_usage *u, int root_fd, struct fl_error *err);
void fl_usage_free(struct fl_usage *u);

/* A batch of directories. 1 there is more, 0 complete, -1 failed. */
int fl_usage_step(struct fl_usage *u, struct fl_error *err);

#endif
