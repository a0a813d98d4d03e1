/* A growable byte heap outside of malloc, for large tables that come and go.
 *
 * Freeing a large block would make malloc serve later ones of that size from
 * its heap, where growing means copying and leaves holes. These are mapped and
 * moved by the kernel. New memory is zero. The struct is that of fl_buf.h; use
 * only these functions on it.
 */
#ifndef FL_MAP_H
#define FL_MAP_H

#include <sys/mman.h>

#include "fl_buf.h"

#define FL_MAP_FIRST 65536u
#define FL_MAP_PAGE 65536u /* at least the page size of any machine */

static inline void fl_map_free(struct fl_buf *b)
{
    if (b->data != NULL)
        munmap(b->data, b->cap);
    memset(b, 0, sizeof(*b));
}

/* Makes room for `extra` more bytes. */
static inline int fl_map_reserve(struct fl_buf *b, size_t extra, struct fl_error *err)
{
    size_t want, cap = b->cap ? b->cap : FL_MAP_FIRST;
    void *p;

    if (__builtin_add_overflow(b->len, extra, &want) || want > SIZE_MAX / 4)
        return fl_error_memory(err);
    if (want <= b->cap)
        return 0;
    while (cap < want)
        cap += ((cap >> 1) + FL_MAP_PAGE - 1) / FL_MAP_PAGE * FL_MAP_PAGE;
    p = b->data == NULL ? mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                        : mremap(b->data, b->cap, cap, MREMAP_MAYMOVE);
    if (p == MAP_FAILED)
        return fl_error_memory(err);
    b->data = p;
    b->cap = cap;
    return 0;
}

/* Appends. */
static inline int fl_map_add(struct fl_buf *b, const void *src, size_t n, struct fl_error *err)
{
    if (fl_map_reserve(b, n, err) < 0)
        return -1;
    if (n != 0)
        memcpy(b->data + b->len, src, n);
    b->len += n;
    return 0;
}

#endif
