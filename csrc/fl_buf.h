/* A growable byte heap and scope-bound cleanup.
 *
 * `struct fl_buf` owns `data`; zero-initialise it, release it with fl_buf_free.
 * Growth doubles through realloc (mremap for large blocks, so no copy and no
 * doubled physical memory). Offsets into it stay valid, pointers do not.
 */
#ifndef FL_BUF_H
#define FL_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fl_error.h"

struct fl_buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

static inline void fl_buf_free(struct fl_buf *b)
{
    free(b->data);
    memset(b, 0, sizeof(*b));
}

/* Makes room for `extra` more bytes. */
static inline int fl_buf_reserve(struct fl_buf *b, size_t extra,
                                 struct fl_error *err)
{
    size_t want, cap;
    uint8_t *p;

    if (__builtin_add_overflow(b->len, extra, &want))
        return fl_error_memory(err);
    if (want <= b->cap)
        return 0;
    cap = b->cap ? b->cap : 256;
    while (cap < want)
        cap += cap >> 1;
    p = realloc(b->data, cap);
    if (p == NULL)
        return fl_error_memory(err);
    b->data = p;
    b->cap = cap;
    return 0;
}

/* Appends; the old length (the offset of the new bytes) goes to *ret_off if not NULL. */
static inline int fl_buf_add(struct fl_buf *b, const void *src, size_t n,
                             uint64_t *ret_off, struct fl_error *err)
{
    if (fl_buf_reserve(b, n, err) < 0)
        return -1;
    if (ret_off != NULL)
        *ret_off = b->len;
    if (n != 0)
        memcpy(b->data + b->len, src, n);
    b->len += n;
    return 0;
}

static inline void fl_cleanup_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void fl_cleanup_free_(void *p)
{
    free(*(void **)p);
}

/* `cleanup_fd int fd = -1;` closes at scope end; `fl_steal_fd(&fd)` hands it out. */
#define cleanup_fd __attribute__((cleanup(fl_cleanup_fd_)))
#define cleanup_free __attribute__((cleanup(fl_cleanup_free_)))

static inline int fl_steal_fd(int *fd)
{
    int r = *fd;
    *fd = -1;
    return r;
}

#endif
