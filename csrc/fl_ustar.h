/* The 512-byte tar header block, for readers: where its fields are, whether it is
 * one. `block` is always USTAR_BLOCK readable bytes.
 */
#ifndef FL_USTAR_H
#define FL_USTAR_H

#include <string.h>

#include "fl_number.h"

#define USTAR_BLOCK 512u

/* Offsets and widths of the header's fields (ustar, POSIX 1003.1; GNU tar(5)). */
#define USTAR_NAME 0
#define USTAR_MODE 100
#define USTAR_UID 108
#define USTAR_GID 116
#define USTAR_SIZE 124
#define USTAR_MTIME 136
#define USTAR_CHECKSUM 148
#define USTAR_TYPE 156
#define USTAR_LINKNAME 157
#define USTAR_MAGIC 257
#define USTAR_MAJOR 329
#define USTAR_MINOR 337
#define USTAR_PREFIX 345
#define USTAR_STAR_TRAILER 508
#define GNU_MAP_FIELDS 386
#define GNU_MAP_MORE 482
#define GNU_REALSIZE 483
#define GNU_EXTENSION_MORE 504

#define USTAR_W_ID 8u /* mode, uid, gid, checksum, device numbers */
#define USTAR_W_SIZE 12u
#define USTAR_W_NAME 100u
#define USTAR_W_PREFIX 155u
#define USTAR_W_STAR_PREFIX 131u

#define GNU_HEADER_SEGMENTS 4
#define GNU_EXTENSION_SEGMENTS 21

static inline bool fl_ustar_is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, USTAR_BLOCK - 1) == 0;
}

/* Four 16-bit lanes hold 128 bytes each: 128 * 255 < 2^16. */
static inline uint32_t fl_ustar_sum(const uint8_t *block)
{
    const uint64_t even = 0x00ff00ff00ff00ffu;
    uint64_t lanes = 0, word;

    for (size_t i = 0; i < USTAR_BLOCK; i += sizeof(word)) {
        memcpy(&word, block + i, sizeof(word));
        lanes += (word & even) + (word >> 8 & even);
    }
    return (uint32_t)((lanes & 0xffff) + (lanes >> 16 & 0xffff) +
                      (lanes >> 32 & 0xffff) + (lanes >> 48));
}

/* Old writers summed signed chars. */
static inline uint32_t fl_ustar_count_high(const uint8_t *p, size_t n)
{
    uint32_t high = 0;

    for (size_t i = 0; i < n; i++)
        high += p[i] >> 7;
    return high;
}

static inline bool fl_ustar_checksum_fits(const uint8_t *block)
{
    const uint8_t *field = block + USTAR_CHECKSUM;
    int64_t want, sum = fl_ustar_sum(block) + USTAR_W_ID * ' ';

    if (fl_number_octal(field, USTAR_W_ID, &want) < 0)
        return false;
    for (size_t i = 0; i < USTAR_W_ID; i++)
        sum -= field[i];
    if (sum == want)
        return true;
    sum -= 256 * (int64_t)(fl_ustar_count_high(block, USTAR_BLOCK) - fl_ustar_count_high(field, USTAR_W_ID));
    return sum == want;
}

#endif
