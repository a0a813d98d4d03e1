/* Maps of sparse archive members: where the stored bytes of a file go.
 *
 * A map is a list of segments in file order; everything between them is a
 * hole. The four spellings that exist in archives are read here:
 *   old GNU (type 'S')   octal pairs in the header and in extension blocks
 *   PAX GNU.sparse 0.0   repeated GNU.sparse.offset / .numbytes records
 *   PAX GNU.sparse 0.1   "offset,length,offset,length" in GNU.sparse.map
 *   PAX GNU.sparse 1.0   decimal lines at the start of the body
 *
 * Memory follows the bytes of the map that were really there, never a count
 * or a size that the archive claims. Not thread-safe; release with
 * fl_sparse_free. `at` is the archive offset for messages.
 */
#ifndef FL_SPARSE_H
#define FL_SPARSE_H

#include <stdbool.h>

#include "fl_buf.h"

struct fl_segment {
    uint64_t pos; /* logical offset in the file */
    uint64_t len;
};

struct fl_sparse {
    struct fl_buf map;    /* struct fl_segment[] */
    bool half;            /* 0.0: an offset waits for its numbytes             */
    /* 1.0 text reader */
    uint64_t number;      /* digits so far                                     */
    uint32_t digits;
    bool counted;         /* the first line, the number of segments, was read  */
    uint64_t expect;      /* numbers still to come                             */
};

static inline size_t fl_sparse_count(const struct fl_sparse *s)
{
    return s->map.len / sizeof(struct fl_segment);
}

static inline const struct fl_segment *fl_sparse_at(const struct fl_sparse *s,
                                                    size_t i)
{
    return (const struct fl_segment *)(const void *)s->map.data + i;
}

/* Empties the map, keeps the memory. */
void fl_sparse_reset(struct fl_sparse *s);
void fl_sparse_free(struct fl_sparse *s);

/* One number of a flat "offset, length, offset, ..." list. */
int fl_sparse_add(struct fl_sparse *s, uint64_t number, struct fl_error *err);

/* Old GNU: up to `n` pairs of 12-byte fields; an empty offset ends the list. */
int fl_sparse_add_fields(struct fl_sparse *s, const uint8_t *fields, size_t n,
                         int64_t at, struct fl_error *err);

/* 0.1: the value of GNU.sparse.map. */
int fl_sparse_add_list(struct fl_sparse *s, const uint8_t *text, size_t len,
                       int64_t at, struct fl_error *err);

/* 1.0: takes the next bytes of the body. Returns 1 when the map is complete,
 * 0 when more lines are needed, -1 when malformed. */
int fl_sparse_add_text(struct fl_sparse *s, const uint8_t *text, size_t len,
                       int64_t at, struct fl_error *err);

/* Refuses a map that is odd, unordered, overlapping, reaches beyond `size`
 * bytes, or does not place exactly `stored` bytes. */
int fl_sparse_check(const struct fl_sparse *s, uint64_t size, uint64_t stored,
                    int64_t at, struct fl_error *err);

#endif
