/* SHA-256 (FIPS 180-4) of one stream, or of two at once, by the processor's own instructions.
 *
 * One stream is bound by the latency of a round, which needs the result of the one before; a second stream fills the
 * gaps, so that two cost little more than one. There is no portable version here: where fl_sha256_available() is 0
 * (no SHA extensions), callers use another implementation.
 *
 * Memory: the struct, nothing else. Streams of up to 2^61 - 1 bytes.
 */
#ifndef FL_SHA256_H
#define FL_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define FL_SHA256_BLOCK 64
#define FL_SHA256_SIZE 32

struct fl_sha256 {
    uint32_t state[8];
    uint64_t length;                 /* bytes taken                             */
    uint8_t held[FL_SHA256_BLOCK];   /* length % 64 of them, not yet in state   */
};

int fl_sha256_available(void);

void fl_sha256_init(struct fl_sha256 *s);
void fl_sha256_update(struct fl_sha256 *s, const uint8_t *data, size_t n);

/* The same as two updates of different streams. */
void fl_sha256_update2(struct fl_sha256 *a, const uint8_t *data_a, size_t n_a,
                       struct fl_sha256 *b, const uint8_t *data_b, size_t n_b);

/* The digests of n pieces of data, one behind the other in out (n * FL_SHA256_SIZE bytes), two at a time. Piece i is
 * data[bounds[2 * i] .. bounds[2 * i + 1]); the caller has checked that they are inside. */
void fl_sha256_many(const uint8_t *data, const uint64_t *bounds, size_t n, uint8_t *out);

/* The digest of what was taken so far; the stream can go on. */
void fl_sha256_digest(const struct fl_sha256 *s, uint8_t out[FL_SHA256_SIZE]);

#endif
