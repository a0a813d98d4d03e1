/* Copying the bytes of one regular file, by the cheapest way that works:
 * sharing the extents (FICLONE), copy_file_range, read and write. Holes stay
 * holes. What a pair of file systems cannot do is tried once and remembered.
 *
 * src is open for reading, dst open for writing, empty and at offset 0. `st` is
 * src's fstat. Exactly st_size bytes are copied, else FL_ERR_CHANGED; with `live`
 * a file that became shorter is copied to its new end, and what shares its
 * extents has the size that it had at that moment.
 *
 * Of a pair of which one is in an overlay, other descriptors of the same files may
 * be given, which can share their extents: fl_copy_behind.
 *
 * One struct per thread; zero-initialise, fl_copy_free at the end.
 * `stop` (may be NULL) is looked at between pieces of a few MiB; when it became
 * true the call fails and the caller knows why.
 */
#ifndef FL_COPY_H
#define FL_COPY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fl_error.h"

#define FL_COPY_PAIRS 8

struct fl_copy_pair {
    dev_t src;
    bool no_clone;
    bool no_behind;
    bool no_range;
};

struct fl_copy {
    const atomic_bool *stop;
    bool live;
    unsigned pair_count;
    struct fl_copy_pair pairs[FL_COPY_PAIRS]; /* source devices seen; the destination is one file system */
    uint8_t *buf;
    uint64_t shared;  /* bytes of files that share their extents now */
    uint64_t copied;  /* bytes moved; holes are in neither */
};

/* Is it worth looking for the files behind those of an overlay (fl_backing.h)? */
bool fl_copy_wants_behind(struct fl_copy *c, const struct stat *st);

/* Shares the extents of what is behind the two, -1: of the file itself. 1 = done, 0 = fl_copy_data must do it. */
int fl_copy_behind(struct fl_copy *c, int src, const struct stat *st, int dst, int real_src, int real_dst,
                   struct fl_error *err);

int fl_copy_data(struct fl_copy *c, int src, const struct stat *st, int dst, struct fl_error *err);

/* `len` bytes, not 0, from `off` of src to `pos` of dst, which may have something already and ends there or before.
 * Whole blocks, and what goes to the end of src, can share extents. Holes are filled. FL_ERR_CHANGED when src ends
 * before. */
int fl_copy_extent(struct fl_copy *c, int src, uint64_t off, int dst, uint64_t pos, uint64_t len, struct fl_error *err);
void fl_copy_free(struct fl_copy *c);

#endif
