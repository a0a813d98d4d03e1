/* A tree given as columns (an index, a scanned tar) as a source of entries.
 *
 * All pointers belong to the caller and must outlive the source. The columns
 * may come from a file: offsets, lengths, attribute blobs and the order of the
 * paths are checked as they go by (FL_ERR_FORMAT), contents are not.
 */
#ifndef FL_TABLE_H
#define FL_TABLE_H

#include "fl_source.h"
#include "fl_xattr.h"

#define FL_TABLE_KEY_LEN 32u

struct fl_columns {
    uint64_t count;       /* fewer than 2^32                                   */
    const uint64_t *dev;
    const uint64_t *ino;
    const uint64_t *size;
    const int64_t *mtime_sec;
    const int64_t *ctime_sec;
    const uint64_t *path_off;
    const uint32_t *mtime_nsec;
    const uint32_t *ctime_nsec;
    const uint32_t *mode;
    const uint32_t *uid;
    const uint32_t *gid;
    const uint32_t *nlink;
    const uint32_t *rdev_major;
    const uint32_t *rdev_minor;
    const uint32_t *path_len;
    const uint32_t *link_len;
    const uint32_t *xattr_len;
    const uint32_t *flags;
    const uint8_t *heap;
    uint64_t heap_len;
    const uint8_t *key;       /* FL_TABLE_KEY_LEN bytes per entry, or NULL      */
    const uint64_t *data_off; /* or NULL                                        */
    int64_t racy_ns;          /* ctimes from here on prove nothing              */
};

/* NULL on failure. Release with fl_source_free. */
struct fl_source *fl_table_open(const struct fl_columns *columns,
                                enum fl_xattr_policy policy, struct fl_error *err);

/* The blake3 key of entry i, or NULL when it is not known. */
static inline const uint8_t *fl_table_key(const struct fl_columns *c, uint64_t i)
{
    return c->key != NULL && c->flags[i] & FL_ENTRY_HAS_KEY
               ? c->key + i * FL_TABLE_KEY_LEN
               : NULL;
}

#endif
