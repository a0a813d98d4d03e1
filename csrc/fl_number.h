/* Numbers as archives write them.
 *
 * fl_number_field    a fixed field of a tar header: octal or base-256
 * fl_number_decimal  a whole PAX value
 * fl_number_time     a PAX time: seconds with an optional fraction
 *
 * All return 0, or -1 for anything that is not exactly such a number; the
 * caller knows the name of the field and writes the message.
 */
#ifndef FL_NUMBER_H
#define FL_NUMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FL_NSEC_PER_SEC 1000000000u

static inline bool fl_is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

/* Two's complement, big-endian; bit 7 of the first byte is the marker and bit 6 the sign. */
static inline int fl_number_base256(const uint8_t *f, size_t n, int64_t *ret)
{
    int64_t v = (f[0] & 0x40) ? -1 : 0;

    v = v * 64 + (f[0] & 0x3f);
    for (size_t i = 1; i < n; i++) {
        if (v > (INT64_MAX >> 8) || v < -(INT64_MAX >> 8) - 1)
            return -1;
        v = v * 256 + f[i];
    }
    *ret = v;
    return 0;
}

/* Blanks, octal digits, then the end of the field, a NUL (what follows it is
 * stale memory of old writers) or blanks up to the end. Without digits only
 * blanks and NULs may be there, and mean 0: after a leading NUL readers
 * disagree about digits. n <= 12. */
static inline int fl_number_octal(const uint8_t *f, size_t n, int64_t *ret)
{
    int64_t v = 0;
    size_t i = 0, first;

    while (i < n && f[i] == ' ')
        i++;
    first = i;
    for (; i < n && (uint8_t)(f[i] - '0') < 8; i++)
        v = v << 3 | (f[i] - '0');
    *ret = v;
    if (i == n || (f[i] == '\0' && i > first))
        return 0;
    for (; i < n; i++) {
        if (f[i] != ' ' && f[i] != '\0')
            return -1;
    }
    return 0;
}

static inline int fl_number_field(const uint8_t *f, size_t n, int64_t *ret)
{
    if (f[0] & 0x80)
        return fl_number_base256(f, n, ret);
    return fl_number_octal(f, n, ret);
}

/* Digits and nothing else, at most INT64_MAX. */
static inline int fl_number_decimal(const uint8_t *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;

    if (n == 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        unsigned d = (unsigned)p[i] - '0';

        if (d > 9 || v > ((uint64_t)INT64_MAX - d) / 10)
            return -1;
        v = v * 10 + d;
    }
    *ret = v;
    return 0;
}

/* [-]digits[.digits]: digits after the ninth of the fraction are cut, the sign
 * belongs to the whole number ("-1.5" is -2 s + 500000000 ns). */
static inline int fl_number_time(const uint8_t *p, size_t n, int64_t *ret_sec,
                                 uint32_t *ret_nsec)
{
    bool negative = n > 0 && p[0] == '-';
    uint32_t nsec = 0, unit = FL_NSEC_PER_SEC / 10;
    uint64_t whole;
    size_t i = negative, dot;

    for (dot = i; dot < n && p[dot] != '.'; dot++)
        ;
    if (fl_number_decimal(p + i, dot - i, &whole) < 0)
        return -1;
    for (i = dot + 1; i < n; i++, unit /= 10) {
        if (!fl_is_digit(p[i]))
            return -1;
        nsec += unit * (uint32_t)(p[i] - '0');
    }
    *ret_sec = negative ? -(int64_t)whole - (nsec != 0) : (int64_t)whole;
    *ret_nsec = negative && nsec != 0 ? FL_NSEC_PER_SEC - nsec : nsec;
    return 0;
}

#endif
