#include "fl_sha256.h"

#include <string.h>

static const uint32_t INITIAL[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint32_t K[64] __attribute__((aligned(16), unused)) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* ---- what the processor brings -----------------------------------------------------------------
 *
 * Group g of the 16 does four rounds with the message words in w[g % 4], which are then turned into those of group
 * g + 4. g is a constant wherever four_rounds is inlined.
 */

#define INLINE static inline __attribute__((always_inline))

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("sha,sse4.1,ssse3")))

typedef __m128i vec;

int fl_sha256_available(void)
{
    unsigned int a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}

/* The instructions want the words of a state as ABEF and CDGH. */
TARGET INLINE void load_state(const uint32_t h[8], vec s[2])
{
    const vec abcd = _mm_shuffle_epi32(_mm_loadu_si128((const vec *)h), 0xB1);
    const vec efgh = _mm_shuffle_epi32(_mm_loadu_si128((const vec *)(h + 4)), 0x1B);

    s[0] = _mm_alignr_epi8(abcd, efgh, 8);
    s[1] = _mm_blend_epi16(efgh, abcd, 0xF0);
}

TARGET INLINE void store_state(uint32_t h[8], const vec s[2])
{
    const vec feba = _mm_shuffle_epi32(s[0], 0x1B);
    const vec dchg = _mm_shuffle_epi32(s[1], 0xB1);

    _mm_storeu_si128((vec *)h, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128((vec *)(h + 4), _mm_alignr_epi8(dchg, feba, 8));
}

TARGET INLINE vec load_words(const uint8_t *data)
{
    const vec swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);

    return _mm_shuffle_epi8(_mm_loadu_si128((const vec *)data), swap);
}

TARGET INLINE vec add(vec a, vec b)
{
    return _mm_add_epi32(a, b);
}

TARGET INLINE void four_rounds(vec s[2], vec w[4], const int g)
{
    vec *const now = &w[g % 4], *const next = &w[(g + 1) % 4], *const last = &w[(g + 3) % 4];
    const vec m = add(*now, _mm_load_si128((const vec *)(K + 4 * g)));

    s[1] = _mm_sha256rnds2_epu32(s[1], s[0], m);
    if (g >= 3 && g < 15)
        *next = _mm_sha256msg2_epu32(add(*next, _mm_alignr_epi8(*now, *last, 4)), *now);
    s[0] = _mm_sha256rnds2_epu32(s[0], s[1], _mm_shuffle_epi32(m, 0x0E));
    if (g >= 1 && g < 13)
        *last = _mm_sha256msg1_epu32(*last, *now);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <arm_neon.h>
#include <sys/auxv.h>

#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif

#define TARGET __attribute__((target("+crypto")))

typedef uint32x4_t vec;

int fl_sha256_available(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0;
}

TARGET INLINE void load_state(const uint32_t h[8], vec s[2])
{
    s[0] = vld1q_u32(h);
    s[1] = vld1q_u32(h + 4);
}

TARGET INLINE void store_state(uint32_t h[8], const vec s[2])
{
    vst1q_u32(h, s[0]);
    vst1q_u32(h + 4, s[1]);
}

TARGET INLINE vec load_words(const uint8_t *data)
{
    return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data)));
}

TARGET INLINE vec add(vec a, vec b)
{
    return vaddq_u32(a, b);
}

TARGET INLINE void four_rounds(vec s[2], vec w[4], const int g)
{
    vec *const now = &w[g % 4], *const next = &w[(g + 1) % 4];
    const vec m = add(*now, vld1q_u32(K + 4 * g)), abcd = s[0];

    if (g >= 3 && g < 15)
        *next = vsha256su1q_u32(vsha256su0q_u32(*next, w[(g + 2) % 4]), w[(g + 3) % 4], *now);
    s[0] = vsha256hq_u32(s[0], s[1], m);
    s[1] = vsha256h2q_u32(s[1], abcd, m);
}

#endif

/* ---- the compression function, for `lanes` streams in step ------------------------------------
 *
 * The loops are unrolled, so that w and the states stay in registers.
 */

#ifdef TARGET

TARGET INLINE void compress(const int lanes, uint32_t *const h[], const uint8_t *data[], size_t blocks)
{
    vec s[2][2], before[2][2], w[2][4];

    for (int lane = 0; lane < lanes; lane++)
        load_state(h[lane], s[lane]);
    for (; blocks; blocks--) {
#pragma GCC unroll 2
        for (int lane = 0; lane < lanes; lane++) {
            before[lane][0] = s[lane][0];
            before[lane][1] = s[lane][1];
        }
#pragma GCC unroll 16
        for (int g = 0; g < 16; g++) {
#pragma GCC unroll 2
            for (int lane = 0; lane < lanes; lane++) {
                if (g < 4)
                    w[lane][g] = load_words(data[lane] + 16 * g);
                four_rounds(s[lane], w[lane], g);
            }
        }
#pragma GCC unroll 2
        for (int lane = 0; lane < lanes; lane++) {
            s[lane][0] = add(s[lane][0], before[lane][0]);
            s[lane][1] = add(s[lane][1], before[lane][1]);
            data[lane] += FL_SHA256_BLOCK;
        }
    }
    for (int lane = 0; lane < lanes; lane++)
        store_state(h[lane], s[lane]);
}

#else

#define TARGET

int fl_sha256_available(void)
{
    return 0;
}

static void compress(const int lanes, uint32_t *const h[], const uint8_t *data[], size_t blocks)
{
    (void)lanes, (void)h, (void)data, (void)blocks, (void)K;
}

#endif

TARGET static void compress1(struct fl_sha256 *s, const uint8_t *data, size_t blocks)
{
    uint32_t *const h[1] = {s->state};

    compress(1, h, &data, blocks);
}

TARGET static void
compress2(struct fl_sha256 *a, const uint8_t *data_a, struct fl_sha256 *b, const uint8_t *data_b, size_t blocks)
{
    uint32_t *const h[2] = {a->state, b->state};
    const uint8_t *data[2] = {data_a, data_b};

    compress(2, h, data, blocks);
}

/* ---- streams ----------------------------------------------------------------------------------*/

void fl_sha256_init(struct fl_sha256 *s)
{
    memcpy(s->state, INITIAL, sizeof(INITIAL));
    s->length = 0;
}

/* Completes a held block; returns how much of data was taken. */
static size_t top_up(struct fl_sha256 *s, const uint8_t *data, size_t n)
{
    const size_t held = s->length % FL_SHA256_BLOCK;
    size_t taken = FL_SHA256_BLOCK - held;

    if (!held || !n)
        return 0;
    if (taken > n)
        taken = n;
    memcpy(s->held + held, data, taken);
    s->length += taken;
    if (held + taken == FL_SHA256_BLOCK)
        compress1(s, s->held, 1);
    return taken;
}

/* What is left of the data after `blocks` whole ones that are in the state already. */
static void keep_rest(struct fl_sha256 *s, const uint8_t *data, size_t n, size_t blocks)
{
    const size_t done = blocks * FL_SHA256_BLOCK, more = (n - done) / FL_SHA256_BLOCK;
    const size_t rest = (n - done) % FL_SHA256_BLOCK;

    if (more)
        compress1(s, data + done, more);
    if (rest)
        memcpy(s->held, data + n - rest, rest);
    s->length += n;
}

void fl_sha256_update(struct fl_sha256 *s, const uint8_t *data, size_t n)
{
    const size_t taken = top_up(s, data, n);

    if (n > taken)
        keep_rest(s, data + taken, n - taken, 0);
}

void fl_sha256_update2(struct fl_sha256 *a, const uint8_t *data_a, size_t n_a,
                       struct fl_sha256 *b, const uint8_t *data_b, size_t n_b)
{
    const size_t taken_a = top_up(a, data_a, n_a), taken_b = top_up(b, data_b, n_b);
    size_t both;

    n_a -= taken_a;
    n_b -= taken_b;
    both = (n_a < n_b ? n_a : n_b) / FL_SHA256_BLOCK;
    if (both)
        compress2(a, data_a + taken_a, b, data_b + taken_b, both);
    if (n_a)
        keep_rest(a, data_a + taken_a, n_a, both);
    if (n_b)
        keep_rest(b, data_b + taken_b, n_b, both);
}

void fl_sha256_digest(const struct fl_sha256 *s, uint8_t out[FL_SHA256_SIZE])
{
    struct fl_sha256 end = *s;
    const size_t held = s->length % FL_SHA256_BLOCK;
    const uint64_t bits = s->length * 8;
    uint8_t tail[2 * FL_SHA256_BLOCK] = {0};
    const size_t size = held < FL_SHA256_BLOCK - 8 ? FL_SHA256_BLOCK : 2 * FL_SHA256_BLOCK;

    memcpy(tail, s->held, held);
    tail[held] = 0x80;
    for (int i = 0; i < 8; i++)
        tail[size - 1 - i] = (uint8_t)(bits >> (8 * i));
    compress1(&end, tail, size / FL_SHA256_BLOCK);
    for (int i = 0; i < 8; i++) {
        out[4 * i] = (uint8_t)(end.state[i] >> 24);
        out[4 * i + 1] = (uint8_t)(end.state[i] >> 16);
        out[4 * i + 2] = (uint8_t)(end.state[i] >> 8);
        out[4 * i + 3] = (uint8_t)end.state[i];
    }
}

void fl_sha256_many(const uint8_t *data, const uint64_t *bounds, size_t n, uint8_t *out)
{
    struct fl_sha256 a, b;

    for (; n >= 2; n -= 2, bounds += 4, out += 2 * FL_SHA256_SIZE) {
        fl_sha256_init(&a);
        fl_sha256_init(&b);
        fl_sha256_update2(&a, data + bounds[0], bounds[1] - bounds[0], &b, data + bounds[2], bounds[3] - bounds[2]);
        fl_sha256_digest(&a, out);
        fl_sha256_digest(&b, out + FL_SHA256_SIZE);
    }
    if (n) {
        fl_sha256_init(&a);
        fl_sha256_update(&a, data + bounds[0], bounds[1] - bounds[0]);
        fl_sha256_digest(&a, out);
    }
}
