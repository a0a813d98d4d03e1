/* What the fuzz targets share. A broken invariant aborts: that is what the fuzzer looks for. */
#ifndef FUZZ_COMMON_H
#define FUZZ_COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fl_error.h"

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #x); \
            abort(); \
        } \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy that ends where its block ends, so that reading beyond it is seen. Never NULL. */
static inline uint8_t *exact_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size != 0 ? size : 1);

    CHECK(copy != NULL);
    if (size != 0)
        memcpy(copy, data, size);
    return copy;
}

/* A failure must say what failed: a kind, and words for one line. */
static inline void check_error(const struct fl_error *err)
{
    size_t n = strnlen(err->detail, sizeof(err->detail));

    CHECK(err->kind == FL_ERR_FORMAT || err->kind == FL_ERR_LIMIT);
    CHECK(n > 0 && n < sizeof(err->detail));
    CHECK(memchr(err->detail, '\n', n) == NULL);
    CHECK(err->path_len <= FL_ERROR_PATH_MAX);
}

/* An attribute blob of fl_entry.h: sorted, no name twice, nothing left over. */
static inline void check_xattrs(const uint8_t *blob, size_t len)
{
    const uint8_t *last = NULL;
    uint16_t last_len = 0, name_len;
    uint32_t value_len;

    while (len != 0) {
        CHECK(len >= 6);
        memcpy(&name_len, blob, sizeof(name_len));
        memcpy(&value_len, blob + 2, sizeof(value_len));
        CHECK(name_len > 0 && name_len <= 255);
        CHECK(len - 6 >= (size_t)name_len + value_len);
        if (last != NULL) {
            int r = memcmp(last, blob + 6, last_len < name_len ? last_len : name_len);

            CHECK(r < 0 || (r == 0 && last_len < name_len));
        }
        last = blob + 6;
        last_len = name_len;
        blob += 6 + (size_t)name_len + value_len;
        len -= 6 + (size_t)name_len + value_len;
    }
}

#endif
