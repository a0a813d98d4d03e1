/* Hard links met during a copy: (dev, ino) of the source -> path of the first
 * copy. Not thread-safe: `lock` is for the caller, who holds it from the look-up
 * until the first name exists in the destination.
 */
#ifndef FL_LINKS_H
#define FL_LINKS_H

#include <pthread.h>
#include <stdint.h>

#include "fl_buf.h"
#include "fl_error.h"

struct fl_link_slot {
    uint64_t dev;
    uint64_t ino;
    uint64_t path_off; /* in paths, NUL-terminated; 0 = free slot */
};

struct fl_links {
    pthread_mutex_t lock;
    struct fl_link_slot *slots;
    size_t cap;        /* a power of two */
    size_t count;
    struct fl_buf paths;
};

void fl_links_init(struct fl_links *l);
void fl_links_free(struct fl_links *l);

/* The path of the first copy (valid until the next add), or NULL. */
const char *fl_links_find(const struct fl_links *l, uint64_t dev, uint64_t ino);

/* Remembers dir/name (dir without trailing slash, may be empty). */
int fl_links_add(struct fl_links *l, uint64_t dev, uint64_t ino, const char *dir, const char *name,
                 struct fl_error *err);

#endif
