/* A change table as a layer tar, pulled by the caller.
 *
 * Rows are written in `table->order`, which must be there (fl_changes_finish).
 * The table and the descriptors in `roots` belong to the caller and must
 * outlive the encoder. roots[0] is tree B; FL_ROW_AUX rows name others.
 *
 * Contents go from read() into the caller's buffer; nothing is allocated per
 * entry. An empty file is not opened. A file must still have the size, mtime
 * and inode of its row when it is opened (inode 0: unknown; of an aux row only
 * the size is compared) and must not have changed when its last byte was read;
 * else FL_ERR_CHANGED. Holes are found with SEEK_DATA and not read.
 *
 * A path with a component ".wh.*" is FL_ERR_UNSAFE: a layer cannot say it.
 * After an error the encoder may only be freed. One thread at a time.
 */
#ifndef FL_ENCODE_H
#define FL_ENCODE_H

#include <stdbool.h>
#include <sys/types.h>
#include <time.h>

#include "fl_changes.h"
#include "fl_header.h"
#include "fl_open.h"

struct fl_encode {
    const struct fl_changes *table;
    struct fl_open *roots;
    uint32_t root_count;
    bool has_clamp;
    int64_t clamp;         /* seconds; later mtimes become exactly this         */
    uint64_t entries;      /* tar entries begun                                 */
    uint64_t payload;      /* bytes of regular-file content written             */

    /* private */
    uint32_t next;         /* index into order                                  */
    uint8_t ended;         /* the two zero blocks are on their way              */
    uint8_t own_fd;        /* fd is to be closed                                */
    uint8_t verify;        /* fd is to be compared with `before` at its end     */
    uint8_t sparse;        /* fd has holes                                      */
    int fd;                /* the file being written, or -1                     */
    uint32_t pad;          /* zero bytes owed before the next header            */
    uint64_t pos;          /* next byte of fd                                   */
    uint64_t left;         /* bytes of fd still to write                        */
    uint64_t data_until;   /* sparse: end of the data segment at pos            */
    uint64_t hole_until;   /* sparse: end of the hole at pos                    */
    const struct fl_row *row; /* of fd                                          */
    struct timespec before_mtime; /* of fd when it was opened                   */
    struct timespec before_ctime;
    size_t head_pos;       /* bytes of `head` already given out                 */
    struct fl_buf head;    /* header blocks waiting                             */
    struct fl_buf scratch;
    struct fl_buf path;
};

/* clamp: NULL or seconds. On failure nothing needs freeing. */
int fl_encode_init(struct fl_encode *e, const struct fl_changes *table,
                   const int *roots, uint32_t root_count, const int64_t *clamp,
                   struct fl_error *err);
void fl_encode_free(struct fl_encode *e);

/* Fills buf; less than cap only at the end of the layer, then 0. */
ssize_t fl_encode_read(struct fl_encode *e, uint8_t *buf, size_t cap,
                       struct fl_error *err);

#endif
