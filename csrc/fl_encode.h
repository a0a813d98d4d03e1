/* A change table as a layer tar, pulled by the caller.
 *
 * Rows are written in `table->order`, which must be there (fl_changes_finish).
 * The table and the descriptors in `roots` belong to the caller and must
 * outlive the encoder. roots[0] is tree B; FL_ROW_AUX rows name others.
 *
 * Contents go from read() into the caller's buffer; nothing is allocated per
 * entry. An empty file is not opened. A file that is not what its row says, or
 * changes while it is read, is FL_ERR_CHANGED (fl_origin.h). Holes are found
 * with SEEK_DATA and not read.
 *
 * A path with a component ".wh.*" is FL_ERR_UNSAFE: a layer cannot say it.
 * After an error the encoder may only be freed. One thread at a time.
 */
#ifndef FL_ENCODE_H
#define FL_ENCODE_H

#include <stdbool.h>
#include <sys/types.h>

#include "fl_header.h"
#include "fl_origin.h"

struct fl_encode {
    const struct fl_changes *table;
    struct fl_origin origin;
    bool has_clamp;
    int64_t clamp;         /* seconds; later mtimes become exactly this         */
    uint64_t entries;      /* tar entries begun                                 */
    uint64_t payload;      /* bytes of regular-file content written             */

    /* private */
    uint32_t next;         /* index into order                                  */
    uint8_t ended;         /* the two zero blocks are on their way              */
    uint8_t sparse;        /* the file has holes                                */
    struct fl_origin_file file; /* being written                                */
    uint32_t pad;          /* zero bytes owed before the next header            */
    uint64_t left;         /* bytes of the file still to write                  */
    uint64_t data_until;   /* sparse: end of the data segment at pos            */
    uint64_t hole_until;   /* sparse: end of the hole at pos                    */
    const struct fl_row *row; /* of the file                                    */
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
