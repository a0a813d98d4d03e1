/* The two flat records that cross the native boundary.
 *
 * fl_entry  one path of one tree as a walk, an index or a tar sees it (96 bytes).
 * fl_row    one line of a change table (64 bytes; see fl_changes.h).
 *
 * Both point into a byte heap: variable parts follow each other from path_off:
 *   entry: path | link | xattrs
 *   row:   path | link-or-aux | xattrs
 * Paths are relative to the root, without leading or trailing slash; the root
 * itself is the empty path. Order everywhere is the byte order of the full
 * path (memcmp, shorter first), so "a" < "a-b" < "a/b".
 *
 * xattr blob: repeated { u16 name_len, u32 value_len, name, value }, native
 * byte order, unaligned, sorted by name (memcmp). No duplicates.
 */
#ifndef FL_ENTRY_H
#define FL_ENTRY_H

#include <stdint.h>

struct fl_entry {
    uint64_t dev;        /* st_dev as the kernel's makedev; 0 when unknown      */
    uint64_t ino;        /* 0 when unknown; equal (dev, ino) = one hard-link group */
    uint64_t size;       /* regular: bytes; symlink: target bytes; else 0       */
    int64_t mtime_sec;
    int64_t ctime_sec;
    uint64_t path_off;
    uint32_t mtime_nsec;
    uint32_t ctime_nsec;
    uint32_t mode;       /* st_mode: type and 07777                             */
    uint32_t uid;
    uint32_t gid;
    uint32_t nlink;      /* st_nlink; for a tar: members of the group           */
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t path_len;
    uint32_t link_len;   /* symlink target                                      */
    uint32_t xattr_len;
    uint32_t flags;      /* FL_ENTRY_*                                          */
};

#define FL_ENTRY_HAS_KEY 1u      /* a blake3 content key is known (regular files) */
#define FL_ENTRY_NO_CTIME 2u     /* dev, ino and ctime mean nothing (from a tar)  */

_Static_assert(sizeof(struct fl_entry) == 96,
               "fl_entry layout");

/* kind */
#define FL_KIND_NONE 0     /* dropped                                           */
#define FL_KIND_PARENT 'P' /* unchanged directory above a change                */
#define FL_KIND_ADD 'A'
#define FL_KIND_MODIFY 'C'
#define FL_KIND_DELETE 'D'

/* what changed (MODIFY); 0 for the others */
#define FL_WHAT_CONTENT 1u
#define FL_WHAT_MODE 2u
#define FL_WHAT_OWNER 4u
#define FL_WHAT_MTIME 8u
#define FL_WHAT_XATTR 16u
#define FL_WHAT_TYPE 32u
#define FL_WHAT_LINK 64u    /* symlink target, or hard-link group membership    */
#define FL_WHAT_DEVICE 128u /* device numbers                                   */

/* flags */
#define FL_ROW_VERIFY 1u   /* equal but for content that could not be proved here */
#define FL_ROW_GROUP 2u    /* member of a hard-link group of two or more in B     */
#define FL_ROW_AUX 4u      /* regular file with a word about its bytes: aux, below */
#define FL_ROW_KEY 8u      /* 32 bytes of blake3 key follow the xattrs            */
#define FL_ROW_HELD 128u   /* while a table is made: its number is noted somewhere */

/* `link` of a regular file with FL_ROW_AUX (packed, native order):
 *   'C' u64 ctime             its path under root 0, where it had this ctime (ns) when it was listed
 *   'P' u16 root  path...     the file `path` under encoder root number `root`
 *   'F' u16 root  u64 ctime  path...  the same, where it had this ctime (ns)
 *   'O' u8 root  u64 offset   `size` bytes at `offset` of the file that is root `root` */
#define FL_AUX_PATH_HEAD 3u /* bytes before the path of 'P'                       */
#define FL_AUX_DATED_HEAD 11u /* of 'F'                                          */

#define FL_NO_LEADER UINT32_MAX

struct fl_row {
    uint64_t ino;
    uint64_t size;       /* regular: bytes; device: major << 32 | minor         */
    int64_t mtime_sec;
    uint64_t path_off;
    uint32_t mtime_nsec;
    uint32_t uid;
    uint32_t gid;
    uint32_t path_len;
    uint32_t xattr_len;
    uint32_t leader;     /* row of the hard link's first name, or FL_NO_LEADER  */
    uint16_t mode;       /* type (S_IFMT) and 07777 of B; DELETE: of A          */
    uint16_t link_len;   /* symlink target or aux                               */
    uint16_t what;
    uint8_t kind;
    uint8_t flags;
};

_Static_assert(sizeof(struct fl_row) == 64, "fl_row layout");

#endif
