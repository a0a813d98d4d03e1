#include "fl_chunk.h"

#include <string.h>

#include "fl_chunk_kernels.h"

static void fill_gear(uint64_t gear[256])
{
    uint64_t state = FL_CHUNK_SEED;

    for (int i = 0; i < 256; i++) {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        gear[i] = z ^ (z >> 31);
    }
}

size_t fl_chunk_scan(const struct fl_chunk *c, const uint8_t *data, size_t from, size_t to, uint64_t limit)
{
    if (c->kernel == FL_CHUNK_SCALAR)
        return fl_chunk_scan_scalar(c->gear, data, from, to, limit);
    return fl_chunk_scan_stripes(c->gear, data, from, to, limit);
}

int fl_chunk_init(struct fl_chunk *c, uint64_t min, uint64_t avg, uint64_t max, int kernel, struct fl_error *err)
{
    int bits;

    if (min < FL_CHUNK_WINDOW || avg < 256 || min > avg || avg > max || max > (1u << 31))
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "chunk sizes need 64 <= min <= avg <= max <= 2^31, avg >= 256");
    memset(c, 0, sizeof(*c));
    fill_gear(c->gear);
    bits = 63 - __builtin_clzll(avg);
    c->limit_small = (uint64_t)1 << (64 - (bits + 2));
    c->limit_large = (uint64_t)1 << (64 - (bits - 2));
    c->min = (uint32_t)min;
    c->avg = (uint32_t)avg;
    c->max = (uint32_t)max;
    c->kernel = kernel;
    return 0;
}

/* Windows that reach back behind the beginning of data are looked at in a small copy: tail, then the beginning. */
static size_t scan_joined(const struct fl_chunk *c, const uint8_t *data, size_t from, size_t to, uint64_t limit)
{
    uint8_t joined[2 * FL_CHUNK_WINDOW];
    size_t straddle = to < FL_CHUNK_WINDOW - 1 ? to : FL_CHUNK_WINDOW - 1, hit;

    if (from >= straddle)
        return fl_chunk_scan(c, data, from, to, limit);
    memcpy(joined, c->tail, FL_CHUNK_WINDOW);
    memcpy(joined + FL_CHUNK_WINDOW, data, straddle);
    hit = fl_chunk_scan(c, joined, FL_CHUNK_WINDOW + from, FL_CHUNK_WINDOW + straddle, limit) - FL_CHUNK_WINDOW;
    if (hit < straddle || straddle == to)
        return hit;
    return fl_chunk_scan(c, data, straddle, to, limit);
}

static void keep_tail(struct fl_chunk *c, const uint8_t *data, size_t n)
{
    if (n >= FL_CHUNK_WINDOW) {
        memcpy(c->tail, data + n - FL_CHUNK_WINDOW, FL_CHUNK_WINDOW);
    } else {
        memmove(c->tail, c->tail + n, FL_CHUNK_WINDOW - n);
        memcpy(c->tail + FL_CHUNK_WINDOW - n, data, n);
    }
}

/* Looks for a cut whose chunk length lies in [low, high), as an index of its last byte; `to` when there is none. */
static size_t find_cut(const struct fl_chunk *c, const uint8_t *data, size_t start, size_t to, uint32_t low,
                       uint32_t high, uint64_t limit)
{
    /* byte i of data makes the chunk i - start + length + 1 long */
    size_t from = start, end = to;

    if (c->length + 1 < low)
        from = start + (low - c->length - 1);
    if (c->length + (to - start) >= high)
        end = c->length + 1 >= high ? start : start + (high - c->length - 1);
    if (from >= end)
        return to;
    from = scan_joined(c, data, from, end, limit);
    return from < end ? from : to;
}

int fl_chunk_next(struct fl_chunk *c, const uint8_t *data, size_t n, size_t *pos)
{
    size_t start = *pos, room = c->max - c->length, to = n - start < room ? n : start + room, hit;

    hit = find_cut(c, data, start, to, c->min, c->avg, c->limit_small);
    if (hit == to)
        hit = find_cut(c, data, start, to, c->avg, c->max, c->limit_large);
    if (hit == to && to - start < room) {
        c->length += (uint32_t)(to - start);
        keep_tail(c, data, n);
        *pos = n;
        return 0;
    }
    *pos = hit == to ? to : hit + 1;
    c->base += c->length + (*pos - start);
    c->length = 0;
    return 1;
}
