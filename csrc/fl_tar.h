/* The tar reader: a push/pull state machine over archive bytes.
 *
 *   fl_tar_init(&t, NULL);
 *   for each piece of input (any length):
 *       while ((r = fl_tar_next(&t, &buf, &len, &ev, &err)) > 0)
 *           use ev;
 *       if (r < 0) refuse;
 *   fl_tar_finish(&t, &err);
 *   fl_tar_free(&t);
 *
 * fl_tar_next takes bytes off *buf (not NULL) / *len. It returns 1 with one event, 0 when
 * all of the input is used up, -1 with err filled (the reader is then dead and
 * may only be freed). Each entry gives:
 *
 *   FL_TAR_ENTRY     ev->entry
 *   FL_TAR_DATA      only regular files, any number of times: data_len > 0 bytes
 *                    for logical offset data_pos; pieces ascend and do not
 *                    overlap; what no piece covers is a hole (zeros)
 *   FL_TAR_FILE_END  only regular files, always, also for empty ones
 *
 * and FL_TAR_END comes once, at the end-of-archive block. Input after it is
 * taken and ignored, up to FL_TAR_MAX_TRAILING bytes: it may be an endless device. An archive may also end without it, at a block boundary.
 *
 * Ownership: ev->data points into the caller's input. ev->entry belongs to the
 * reader and stays valid, with all it points to, until the FL_TAR_FILE_END of
 * a regular file has been returned and fl_tar_next is called again; for other
 * types until the next call. Memory is bounded by limits.max_pax (extended
 * headers, long names and sparse maps each), whatever the archive claims.
 *
 * What is refused gives FL_ERR_FORMAT with the archive offset, or FL_ERR_LIMIT
 * for max_pax. Where readers differ, this one does the following (the Python
 * scanner in _baseline/tarread.py does the same):
 *   - the first zero block ends the archive;
 *   - octal fields: blanks, digits, then field end, or a NUL (rest ignored), or
 *     blanks and NULs up to the field end; no digits: only blanks and NULs, 0;
 *     base-256 with the sign in bit 6; overflow of int64 is refused; all of
 *     mode uid gid size mtime must be well formed even where PAX replaces them,
 *     device numbers only for devices; a negative mode or size is refused;
 *   - names: GNU.sparse.name (sparse files), PAX path, GNU long name, header;
 *     an empty one of these counts as not there; PAX linkpath likewise;
 *   - no prefix unless the magic is "ustar" NUL; 131 bytes of it when "tar" NUL
 *     stands at 508 (star), else 155;
 *   - two headers x, L or K for one entry, one without an entry behind it, a link
 *     without a target, and unknown types are refused; a malformed g header, too;
 *   - types NUL, 0 and 7 are files; one whose name (after PAX) ends in a slash
 *     is a directory: type NUL without a body, else refused unless of size 0;
 *   - types 1 to 6 have no body, whatever size says; sparse keys on them are ignored;
 *   - PAX numbers are digits only, at most INT64_MAX; times [-]digits[.digits*];
 *     an empty value unsets a key, of equal keys the last counts, a NUL in path,
 *     linkpath or GNU.sparse.name is refused, and so is an attribute name that
 *     is empty or longer than 255 (LIBARCHIVE.xattr: bad %XX, %00, bad base64);
 *   - sparse: type S needs the GNU magic and no x header; GNU.sparse needs major
 *     and minor 0.0, 0.1 or 1.0, or neither and one of map, offset, numblocks
 *     (0.x); size, else realsize, must be there; numblocks must fit if there;
 *     one map only; offset and numbytes alternate; segments ascend, stay within
 *     the size and add up to exactly the stored bytes.
 * Names are raw bytes: neither normalised nor checked for "..".
 */
#ifndef FL_TAR_H
#define FL_TAR_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_error.h"
#include "fl_pax.h"
#include "fl_sparse.h"

#define FL_TAR_BLOCK 512u
#define FL_TAR_MAX_PAX (1u << 20)
#define FL_TAR_MAX_TRAILING (256u << 20)

/* type of an entry; everything else is resolved or refused by the reader */
#define FL_TAR_FILE '0'
#define FL_TAR_HARDLINK '1'
#define FL_TAR_SYMLINK '2'
#define FL_TAR_CHAR '3'
#define FL_TAR_BLOCKDEV '4'
#define FL_TAR_DIR '5'
#define FL_TAR_FIFO '6'

struct fl_tar_entry {
    uint8_t type;           /* FL_TAR_FILE ... FL_TAR_FIFO                       */
    bool sparse;            /* came with a map of holes                         */
    uint32_t mode;          /* 07777 bits only                                  */
    uint32_t uid;           /* <= 2^32-2                                        */
    uint32_t gid;
    uint32_t mtime_nsec;    /* 0..999999999, added to mtime_sec (floor)          */
    int64_t mtime_sec;
    uint64_t size;          /* files: logical bytes, holes included; else 0     */
    uint32_t rdev_major;    /* devices only: <= 4095                            */
    uint32_t rdev_minor;    /* devices only: <= 1048575                         */
    const uint8_t *path;    /* raw, not NUL-terminated, may be empty            */
    const uint8_t *link;    /* target of types '1' and '2', never empty for them */
    const uint8_t *xattrs;  /* fl_entry.h blob, sorted; SCHILY.xattr.*, and
                             * LIBARCHIVE.xattr.* for names without the former   */
    uint32_t path_len;
    uint32_t link_len;
    uint32_t xattr_len;
    int64_t offset;         /* of the entry's own header in the archive         */
    int64_t data_offset;    /* of the first stored body byte                    */
};

enum fl_tar_event_kind {
    FL_TAR_ENTRY = 1,
    FL_TAR_DATA = 2,
    FL_TAR_FILE_END = 3,
    FL_TAR_END = 4,
};

struct fl_tar_event {
    int kind;                         /* enum fl_tar_event_kind                 */
    const struct fl_tar_entry *entry; /* also set for DATA and FILE_END         */
    const uint8_t *data;
    size_t data_len;
    uint64_t data_pos;
};

struct fl_tar_limits {
    uint32_t max_pax; /* bytes of one extended header, long name or sparse map; 0: 1 MiB */
};

/* Everything here is private to fl_tar.c. */
struct fl_tar {
    struct fl_tar_limits limits;
    int state;
    int64_t pos;                   /* archive offset of the next input byte     */
    uint64_t trailing;             /* bytes after the end of the archive         */
    uint64_t left;                 /* stored bytes of a body still to come      */
    uint32_t pad;                  /* padding bytes after it                    */
    uint32_t have;                 /* bytes of `block` or `extra` collected     */
    uint32_t map_bytes;            /* bytes a sparse map took in the archive    */
    uint32_t pending;              /* which extended headers wait for an entry  */
    uint8_t extended;              /* 'x' 'g' 'L' 'K': the one being collected  */
    size_t segment;                /* current segment of pax.sparse             */
    uint64_t segment_done;
    struct fl_tar_entry entry;
    struct fl_pax pax;
    struct fl_buf pax_body;
    struct fl_buf global_body;
    struct fl_buf long_name;
    struct fl_buf long_link;
    uint8_t name[256];             /* prefix "/" name                           */
    uint8_t block[FL_TAR_BLOCK];   /* the header                                */
    uint8_t extra[FL_TAR_BLOCK];   /* a further block of a sparse map           */
};

/* limits: NULL for defaults. Allocates nothing. */
void fl_tar_init(struct fl_tar *t, const struct fl_tar_limits *limits);
void fl_tar_free(struct fl_tar *t);

int fl_tar_next(struct fl_tar *t, const uint8_t **buf, size_t *len,
                struct fl_tar_event *ev, struct fl_error *err);

/* Inside the body of a regular file: stored bytes that are still to come; else 0. */
uint64_t fl_tar_body_left(const struct fl_tar *t);

/* For bytes that somebody else puts into the file: takes up to len bytes of the body as if they had been given, and
 * returns how many, which belong at *ret_pos in one run; 0 outside of a body. FL_TAR_FILE_END comes with fl_tar_next. */
uint64_t fl_tar_take_body(struct fl_tar *t, uint64_t len, uint64_t *ret_pos);

/* The input ended. Refuses an archive cut inside a header, a body or between an
 * extended header and its entry; the last padding may be missing. Call only
 * after fl_tar_next returned 0. */
int fl_tar_finish(const struct fl_tar *t, struct fl_error *err);

#endif
