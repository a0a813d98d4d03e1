/* Content-defined chunking: FastCDC with a gear hash over the last 64 bytes.
 *
 * The specification (kernel "scalar" and the baseline are its two writings):
 *
 *   gear[0..255]  the first 256 outputs of splitmix64 with the starting state
 *                 FL_CHUNK_SEED ("fastlaye" in ASCII).
 *   H(p)          sum over k = 0..63 of gear[byte p-1-k] << k, modulo 2^64: the
 *                 hash of the 64 bytes before position p, the newest weighing 1.
 *   bits          floor(log2(avg)).
 *   A chunk of length L ends at position p when
 *                 L == max, or
 *                 min <= L < avg  and the top bits + 2 bits of H(p) are zero, or
 *                 avg <= L        and the top bits - 2 bits of H(p) are zero,
 *                 or the data ends.
 *
 * 64 <= min <= avg <= max <= 2^31, avg >= 256. As min >= 64 the window never
 * reaches into the chunk before, so a cut depends on bytes of its own chunk only.
 *
 * Kernels differ in speed, never in the answer. Memory: the struct, nothing else.
 */
#ifndef FL_CHUNK_H
#define FL_CHUNK_H

#include <stddef.h>
#include <stdint.h>

#include "fl_error.h"

#define FL_CHUNK_SEED 0x666173746c617965u
#define FL_CHUNK_WINDOW 64

enum fl_chunk_kernel {
    FL_CHUNK_SCALAR = 0,  /* the reference                              */
    FL_CHUNK_STRIPES = 1, /* three hashes over three stripes at once    */
};

struct fl_chunk {
    uint64_t gear[256];
    uint64_t limit_small;  /* H < limit <=> its top bits are zero: below avg   */
    uint64_t limit_large;  /* from avg on                                      */
    uint32_t min, avg, max;
    int kernel;
    uint64_t base;         /* stream offset of the chunk's start               */
    uint32_t length;       /* bytes of the chunk seen, no cut among them       */
    uint8_t tail[FL_CHUNK_WINDOW]; /* the last bytes seen, newest at the end   */
};

/* kernel: enum fl_chunk_kernel. Sizes outside the rule above are FL_ERR_USAGE. */
int fl_chunk_init(struct fl_chunk *c, uint64_t min, uint64_t avg, uint64_t max, int kernel, struct fl_error *err);

/* Takes data[*pos .. n) of the stream and moves *pos to behind the next cut: 1 = a cut (base is its offset now),
 * 0 = all taken, no further cut. */
int fl_chunk_next(struct fl_chunk *c, const uint8_t *data, size_t n, size_t *pos);

/* First position p in [from, to) with the hash of data[p-63 .. p] below limit, else `to`. 63 <= from <= to. */
size_t fl_chunk_scan(const struct fl_chunk *c, const uint8_t *data, size_t from, size_t to, uint64_t limit);

#endif
