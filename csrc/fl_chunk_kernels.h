/* The loops of the chunker, all with the contract of fl_chunk_scan.
 *
 * scalar   one hash, one byte after the other: the reference.
 * stripes  The hash depends on the last 64 bytes only, so a block is cut into three stripes, each hash warms up on
 *          the 63 bytes before its stripe, and the three dependency chains advance together. A block with a hit is
 *          searched again by the reference for the first one.
 */
#ifndef FL_CHUNK_KERNELS_H
#define FL_CHUNK_KERNELS_H

#include "fl_chunk.h"

size_t fl_chunk_scan_scalar(const uint64_t gear[256], const uint8_t *data, size_t from, size_t to, uint64_t limit);
size_t fl_chunk_scan_stripes(const uint64_t gear[256], const uint8_t *data, size_t from, size_t to, uint64_t limit);

#endif
