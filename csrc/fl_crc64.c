#include "fl_crc64.h"

#include <string.h>

#define POLYNOMIAL 0xd800000000000000u

uint64_t fl_crc64_bitwise(uint64_t crc, const uint8_t *data, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
    }
    return ~crc;
}

/* Times x^64, which is x^4 + x^3 + x + 1 here. Bit 63 is the coefficient of 1: a shift to the right is a factor x. The
 * four coefficients that a first such product pushes out, of x^64 and more, are multiplied once more. */
static inline uint64_t times_x64(uint64_t r)
{
    const uint64_t out = r << 63 ^ r << 61 ^ r << 60;

    return r ^ r >> 1 ^ r >> 3 ^ r >> 4 ^ out ^ out >> 1 ^ out >> 3 ^ out >> 4;
}

static inline uint64_t load_le64(const uint8_t *p)
{
    uint64_t word;

    memcpy(&word, p, sizeof(word));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

uint64_t fl_crc64_update(uint64_t crc, const uint8_t *data, size_t n)
{
    crc = ~crc;
    for (; n >= 8; data += 8, n -= 8)
        crc = times_x64(crc ^ load_le64(data));
    return fl_crc64_bitwise(~crc, data, n);
}
