/* PAX extended headers: "LENGTH KEY=VALUE\n" records.
 *
 * Records are cut by their length and nothing else: LENGTH is 1 to 9 decimal
 * digits, counts the whole record, and the record ends in a newline; a body
 * that is not exactly a run of such records is refused as a whole. Of equal
 * keys the last counts; an empty value unsets a key (but is a value for an
 * extended attribute); unknown keys are ignored.
 *
 * Slices in struct fl_pax point into the parsed body and live as long as it.
 * Zero-initialise, reset between members, release with fl_pax_free.
 */
#ifndef FL_PAX_H
#define FL_PAX_H

#include "fl_buf.h"
#include "fl_sparse.h"

#define FL_PAX_PATH 1u
#define FL_PAX_LINKPATH 2u
#define FL_PAX_SIZE 4u
#define FL_PAX_UID 8u
#define FL_PAX_GID 16u
#define FL_PAX_MTIME 32u
#define FL_PAX_SPARSE_NAME 64u
#define FL_PAX_SPARSE_SIZE 128u     /* GNU.sparse.size                          */
#define FL_PAX_SPARSE_REALSIZE 256u /* GNU.sparse.realsize                      */
#define FL_PAX_SPARSE_MAJOR 512u
#define FL_PAX_SPARSE_MINOR 1024u
#define FL_PAX_SPARSE_BLOCKS 2048u  /* GNU.sparse.numblocks: segments of the map */
#define FL_PAX_SPARSE_MAP 4096u     /* 0.1: the map is in `sparse`; never with   */
#define FL_PAX_SPARSE_PAIRS 8192u   /* 0.0: likewise                            */

struct fl_slice {
    const uint8_t *data;
    uint32_t len;
};

struct fl_pax {
    uint32_t set;             /* FL_PAX_*: which of the following mean anything  */
    struct fl_slice path;     /* no NUL inside                                   */
    struct fl_slice linkpath; /* no NUL inside                                   */
    struct fl_slice sparse_name;
    uint64_t size;            /* <= INT64_MAX                                    */
    uint64_t uid;
    uint64_t gid;
    int64_t mtime_sec;        /* floor; nsec is 0..999999999                     */
    uint32_t mtime_nsec;
    uint64_t sparse_size;
    uint64_t sparse_realsize;
    uint64_t sparse_major;
    uint64_t sparse_minor;
    uint64_t sparse_blocks;
    struct fl_sparse sparse;
    struct fl_buf xattrs;     /* fl_entry.h blob, sorted by name                 */
    struct fl_buf found;      /* private: attributes in record order             */
    struct fl_buf scratch;    /* private: decoded LIBARCHIVE.xattr names, values */
};

struct fl_pax_record {
    struct fl_slice key;
    struct fl_slice value;
};

/* Cuts the next record off *body. Returns 1, 0 at the end, -1 when malformed.
 * `at` is the archive offset of the body's first byte, for messages. */
int fl_pax_next(const uint8_t **body, const uint8_t *end,
                struct fl_pax_record *ret_record, int64_t at,
                struct fl_error *err);

/* Parses a body into p (which must be freshly reset). */
int fl_pax_parse(struct fl_pax *p, const uint8_t *body, size_t len, int64_t at,
                 struct fl_error *err);

/* Only checks that a body is well formed (global headers). */
int fl_pax_check(const uint8_t *body, size_t len, int64_t at,
                 struct fl_error *err);

void fl_pax_reset(struct fl_pax *p);
void fl_pax_free(struct fl_pax *p);

#endif
