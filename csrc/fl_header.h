/* Writing tar headers: ustar where it fits, a PAX header before it where not.
 *
 * The layout is exact, so that any other writer following docs/formats.md gets
 * the same bytes:
 *   - "ustar\0" "00", owner names empty, every number zero-padded octal with
 *     a closing NUL, checksum as six digits, NUL, blank;
 *   - a path of up to 100 bytes is the name; a longer one is cut at its last
 *     slash at or before byte 155 if 1..100 bytes remain behind it; else PAX;
 *   - PAX records: hdrcharset=BINARY (when path or linkpath need PAX and are
 *     not UTF-8), gid, linkpath, mtime, path, size, uid, SCHILY.xattr.* in the
 *     order of the blob. An attribute name with '=' cannot be a key: it becomes
 *     LIBARCHIVE.xattr.<percent-encoded> = base64 without padding;
 *   - what went to PAX leaves behind: the first 100 bytes (path, linkpath), the
 *     seconds clamped to 0..2^33-1 (mtime), 0 (uid, gid, size).
 */
#ifndef FL_HEADER_H
#define FL_HEADER_H

#include "fl_buf.h"
#include "fl_error.h"

#define FL_HEADER_BLOCK 512u

struct fl_header {
    const uint8_t *path;   /* as stored: directories end in '/'                 */
    const uint8_t *link;   /* symlink target or path of the hard link's leader  */
    const uint8_t *xattrs; /* fl_entry.h blob                                   */
    uint64_t size;         /* regular files; else 0                             */
    int64_t mtime_sec;
    uint32_t mtime_nsec;   /* 0..999999999, counts forward from mtime_sec       */
    uint32_t mode;         /* only 07777 is written                             */
    uint32_t uid;
    uint32_t gid;
    uint32_t rdev_major;   /* at most 2097151                                   */
    uint32_t rdev_minor;
    uint32_t path_len;
    uint32_t link_len;
    uint32_t xattr_len;
    uint8_t type;          /* '0' file, '1' hard link, '2' symlink, '3' char,
                            * '4' block, '5' directory, '6' fifo                */
};

/* Appends the header blocks of one entry (a multiple of 512 bytes) to `out`.
 * `scratch` is working memory, kept by the caller to be reused. */
int fl_header_write(const struct fl_header *h, struct fl_buf *out,
                    struct fl_buf *scratch, struct fl_error *err);

#endif
