#include <stdbool.h>

#include "fl_chunk_kernels.h"

#define STRIPE 2048 /* bytes each hash advances before all are warmed up anew */
#define WARM (FL_CHUNK_WINDOW - 1)

size_t fl_chunk_scan_scalar(const uint64_t gear[256], const uint8_t *data, size_t from, size_t to, uint64_t limit)
{
    uint64_t h = 0;

    for (size_t i = from - WARM; i < from; i++)
        h = (h << 1) + gear[data[i]];
    for (size_t i = from; i < to; i++) {
        h = (h << 1) + gear[data[i]];
        if (h < limit)
            return i;
    }
    return to;
}

/* The hit is rare and the branches are free; folded into conditional moves they would lengthen every step. */
#define RETURN_IF_HIT(h) \
    do {                 \
        if ((h) < limit) \
            return true; \
        __asm__ volatile(""); \
    } while (0)

/* Runs the hashes of three stripes from p on; true as soon as one of them is below limit. */
static inline bool block_hit(const uint64_t gear[256], const uint8_t *p, uint64_t limit)
{
    const uint8_t *a = p - WARM, *b = a + STRIPE, *c = b + STRIPE;
    uint64_t ha = 0, hb = 0, hc = 0;
    int i;

    for (i = 0; i < WARM; i++) {
        ha = (ha << 1) + gear[a[i]];
        hb = (hb << 1) + gear[b[i]];
        hc = (hc << 1) + gear[c[i]];
    }
    for (; i < WARM + STRIPE; i++) {
        ha = (ha << 1) + gear[a[i]];
        hb = (hb << 1) + gear[b[i]];
        hc = (hc << 1) + gear[c[i]];
        RETURN_IF_HIT(ha);
        RETURN_IF_HIT(hb);
        RETURN_IF_HIT(hc);
    }
    return false;
}

size_t fl_chunk_scan_stripes(const uint64_t gear[256], const uint8_t *data, size_t from, size_t to, uint64_t limit)
{
    for (; to - from >= 3 * STRIPE; from += 3 * STRIPE)
        if (block_hit(gear, data + from, limit))
            break;
    return from < to ? fl_chunk_scan_scalar(gear, data, from, to, limit) : to;
}
