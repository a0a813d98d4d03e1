/* CRC-64 of ISO 3309 as Go's hash/crc64 (table ISO) and tar-split have it: polynomial x^64 + x^4 + x^3 + x + 1,
 * bits reflected, begun and ended with all bits turned over. "123456789" gives b90956c775a41001.
 *
 * Memory: none. fl_crc64_bitwise is the reference; fl_crc64_update gives the same.
 */
#ifndef FL_CRC64_H
#define FL_CRC64_H

#include <stddef.h>
#include <stdint.h>

/* crc: 0 to begin with, then what the call before returned. */
uint64_t fl_crc64_update(uint64_t crc, const uint8_t *data, size_t n);
uint64_t fl_crc64_bitwise(uint64_t crc, const uint8_t *data, size_t n);

#endif
