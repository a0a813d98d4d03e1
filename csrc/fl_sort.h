/* Merge sort of references into a heap of byte strings.
 *
 * An item has an eight-byte key that decides most comparisons without touching
 * the heap; equal keys ask `less(ctx, a, b)`. Stable, never worse than
 * n log n, linear on input that is already ascending or descending. Header
 * only, so that `less` is inlined at each use.
 */
#ifndef FL_SORT_H
#define FL_SORT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct fl_sort_item {
    uint64_t key;
    uint32_t ref;
    uint32_t aux;
};

typedef bool (*fl_sort_less)(const void *ctx, const struct fl_sort_item *a,
                             const struct fl_sort_item *b);

#define FL_SORT_RUN 12u

/* Up to eight bytes as a number that sorts like memcmp, shorter first. */
static inline uint64_t fl_sort_key(const uint8_t *s, size_t len)
{
    uint64_t key = 0;

    memcpy(&key, s, len < 8 ? len : 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    key = __builtin_bswap64(key);
#endif
    return key;
}

static inline __attribute__((always_inline)) bool
fl_sort_before(const struct fl_sort_item *a, const struct fl_sort_item *b,
               fl_sort_less less, const void *ctx)
{
    return a->key != b->key ? a->key < b->key : less(ctx, a, b);
}

static inline __attribute__((always_inline)) void
fl_sort_insert(struct fl_sort_item *a, uint32_t n, fl_sort_less less,
               const void *ctx)
{
    for (uint32_t i = 1; i < n; i++) {
        struct fl_sort_item x = a[i];
        uint32_t j = i;

        for (; j > 0 && fl_sort_before(&x, &a[j - 1], less, ctx); j--)
            a[j] = a[j - 1];
        a[j] = x;
    }
}

/* Merges a[0..mid) and a[mid..n); tmp holds mid items. */
static inline __attribute__((always_inline)) void
fl_sort_merge(struct fl_sort_item *a, uint32_t mid, uint32_t n,
              struct fl_sort_item *tmp, fl_sort_less less, const void *ctx)
{
    uint32_t i = 0, j = mid, out = 0;

    if (!fl_sort_before(&a[mid], &a[mid - 1], less, ctx))
        return;
    memcpy(tmp, a, mid * sizeof(*a));
    while (i < mid && j < n) {
        bool right = fl_sort_before(&a[j], &tmp[i], less, ctx);

        a[out++] = right ? a[j++] : tmp[i++];
    }
    memcpy(a + out, tmp + i, (mid - i) * sizeof(*a));
}

static inline __attribute__((always_inline)) void
fl_sort_reverse_if_descending(struct fl_sort_item *a, uint32_t n,
                              fl_sort_less less, const void *ctx)
{
    for (uint32_t i = 1; i < n; i++)
        if (!fl_sort_before(&a[i], &a[i - 1], less, ctx))
            return;
    for (uint32_t i = 0, j = n - 1; i < j; i++, j--) {
        struct fl_sort_item x = a[i];

        a[i] = a[j];
        a[j] = x;
    }
}

/* n < 2^31; tmp holds at least n items. */
static inline __attribute__((always_inline)) void
fl_sort(struct fl_sort_item *a, uint32_t n, struct fl_sort_item *tmp,
        fl_sort_less less, const void *ctx)
{
    if (n < 2)
        return;
    fl_sort_reverse_if_descending(a, n, less, ctx);
    for (uint32_t i = 0; i < n; i += FL_SORT_RUN)
        fl_sort_insert(a + i, n - i < FL_SORT_RUN ? n - i : FL_SORT_RUN, less, ctx);
    for (uint32_t w = FL_SORT_RUN; w < n; w *= 2)
        for (uint32_t i = 0; n - i > w; i += 2 * w) {
            uint32_t len = n - i < 2 * w ? n - i : 2 * w;

            fl_sort_merge(a + i, w, len, tmp, less, ctx);
            if (len < 2 * w)
                break;
        }
}

#endif
