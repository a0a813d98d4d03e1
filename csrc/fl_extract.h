/* Puts layer tars onto a tree.
 *
 *   x = fl_extract_new(target_fd, &options, &err);
 *   for each layer, lowest first:
 *       fl_extract_begin(x, &err);
 *       fl_extract_feed(x, data, len, ms, &err);  any number of times
 *       fl_extract_end(x, ms, &err);
 *   fl_extract_free(x);
 *
 * All return 0, or -1 with err filled; after a failure the object may only be
 * freed. The target is not opened through any name and only changed below it.
 *
 * How odd cases are decided (beyond fl_name.h and fl_path.h; the Python
 * extractor in _baseline/extract.py decides the same way):
 *   - an existing directory gets all attributes of its entry and keeps its
 *     children; anything else that is in the way is removed; the last entry of
 *     a path counts; nothing is ever written in place;
 *   - missing parents, and parents that are no directories, become directories
 *     of mode 0755 and owner 0:0; so does a lower directory whose whiteout
 *     comes after entries below it, when it has no entry of its own;
 *   - a directory without an entry keeps its mtime when names come and go in it;
 *   - whiteouts spare what the same layer made, wherever they stand in it;
 *   - an entry for the root must be a directory and sets its attributes;
 *   - a hard link keeps the attributes of its target, which must exist, be no
 *     directory, no whiteout and not the link itself;
 *   - nothing is inherited from a setgid bit or a default ACL;
 *   - extended attributes that are not set, counted and reported: trusted.*,
 *     security.selinux, those of the storage format (user.overlay.* in
 *     overlay-userxattr), and what the kernel or file system refuses with
 *     EPERM or ENOTSUP; what is never set is not removed from directories that
 *     get new attributes, either;
 *   - with ignore_chown an owner that may not be set is left, and then the
 *     setuid and setgid bits are left out;
 *   - with skip_devices a character or block device that may not be made (EPERM)
 *     is left out, counted and reported, and so are hard links to it in the same
 *     layer; what was in their places goes, but on formats with markers what
 *     lower layers have there shows (needs_lower);
 *   - overlay formats: a directory that takes the place of anything else, a
 *     whiteout included, is opaque; an entry for device 0:0 is refused; no
 *     whiteout is made below an opaque directory.
 */
#ifndef FL_EXTRACT_H
#define FL_EXTRACT_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_changes.h"
#include "fl_error.h"

enum fl_extract_format {
    FL_FORMAT_DIR = 0,               /* whiteouts are carried out              */
    FL_FORMAT_OVERLAY = 1,           /* char 0:0, trusted.overlay.opaque=y     */
    FL_FORMAT_OVERLAY_USERXATTR = 2, /* the same with user.overlay.*; where 0:0 may not be
                                      * made: empty files with user.overlay.whiteout */
    FL_FORMAT_AUFS = 3,              /* .wh.NAME and .wh..wh..opq files        */
};

struct fl_id_range {
    uint32_t inside;
    uint32_t outside;
    uint32_t count;
};

struct fl_id_map {
    const struct fl_id_range *ranges; /* count 0: ids are taken as they are; else
                                       * those outside of all ranges are refused */
    uint32_t count;
};

struct fl_extract_options {
    int format;             /* enum fl_extract_format                           */
    bool ignore_chown;
    bool skip_devices;
    bool fsync;             /* every file and directory, before fl_extract_end returns */
    int donor;              /* -1, or a directory: see below                    */
    uint32_t max_pax;
    uint64_t max_entries;   /* per layer; 0 = no limit                          */
    uint64_t max_size;      /* bytes of a layer's regular files, holes included */
    uint64_t max_file_size;
    struct fl_id_map uid_map; /* the ranges are copied                          */
    struct fl_id_map gid_map;
};

/* What was left out, and why. */
enum fl_extract_loss {
    FL_LOSS_POLICY = 0,  /* not taken from layers                              */
    FL_LOSS_EPERM = 1,
    FL_LOSS_ENOTSUP = 2,
    FL_LOSS_SETID = 3,   /* set-id bits left out because the owner was          */
    FL_LOSS_DEVICE = 4,  /* no attribute: a name that was left out             */
    FL_LOSS_KINDS = 5,
};

struct fl_extract_lost {
    uint64_t count;
    struct fl_buf example; /* of the first: attribute name, NUL, path of the entry */
};

struct fl_extract_stats {
    uint64_t entries;   /* of this layer, markers included                      */
    uint64_t payload;   /* bytes of file content, holes not counted             */
    uint64_t whiteouts; /* markers                                              */
    uint64_t skipped_xattrs;
    uint64_t shared;    /* of placed files and extents: bytes that share their extents with the source */
    uint64_t copied;    /* bytes that were moved; holes are in neither          */
    uint64_t donated;   /* bytes of the files that were taken from the donor    */
    bool root_is_opaque; /* on overlay, which cannot say so of a root           */
    bool needs_lower;    /* with markers: what it makes depends on lower layers */
    struct fl_extract_lost lost[FL_LOSS_KINDS];
};

/* A donor is a directory on the target's file system that an earlier extraction of the same layer was cut short in: its
 * files are moved to the target instead of being written again, those that have the size of their entry. The caller
 * vouches that it was fed the same bytes. Everything else - attributes, links, markers - is made as ever. Only what goes
 * into an empty target is taken. A layer that has two entries of one name may have left the content of another one than
 * is asked for: what then replaces an entry fails with FL_ERR_CHANGED, and has to be extracted without the donor. */

struct fl_extract;

/* target: an open directory, not kept. NULL on failure. */
struct fl_extract *fl_extract_new(int target, const struct fl_extract_options *options, struct fl_error *err);
void fl_extract_free(struct fl_extract *x);

#define FL_EXTRACT_RUNNING 1

int fl_extract_begin(struct fl_extract *x, struct fl_error *err);

/* Removing a large tree or syncing files takes as long as it takes: after wait_ms these return
 * FL_EXTRACT_RUNNING, with the work going on in a thread of the object, and fl_extract_wait
 * answers in their place. Until then data must stay and nothing else be called, but stop. */
int fl_extract_feed(struct fl_extract *x, const uint8_t *data, size_t len, unsigned wait_ms, struct fl_error *err);
int fl_extract_end(struct fl_extract *x, unsigned wait_ms, struct fl_error *err);
int fl_extract_wait(struct fl_extract *x, unsigned wait_ms, struct fl_error *err);

/* Feeds the len bytes from `offset` of the file fd, which belong into the body of the file at hand and are no more than
 * the rest of it (else FL_ERR_FORMAT): copied as fl_copy_extent does. FL_ERR_CHANGED when that file ends before. The
 * descriptor stays the caller's and must stay open until the answer is not FL_EXTRACT_RUNNING. */
int fl_extract_feed_extent(struct fl_extract *x, int fd, uint64_t offset, uint64_t len, unsigned wait_ms,
                           struct fl_error *err);

/* The other way to feed a layer: a finished change table (fl_changes.h) and the descriptors of its files, without the
 * tar in between. The result is that of the tar that fl_encode makes of them, but contents are copied as fl_copy.h
 * does, and a file that is not what the table says is FL_ERR_CHANGED (fl_origin.h). clamp: see fl_encode.h; NULL: none.
 * helpers: threads that fill large files while names are made. Table and descriptors must outlive the placing.
 *
 * After fl_extract_place_begin call fl_extract_place, each time for a batch, while fl_extract_is_placing. It returns
 * as fl_extract_feed does. */
int fl_extract_place_begin(struct fl_extract *x, const struct fl_changes *table, const int *roots, uint32_t root_count,
                           const int64_t *clamp, unsigned helpers, struct fl_error *err);
int fl_extract_place(struct fl_extract *x, unsigned wait_ms, struct fl_error *err);
bool fl_extract_is_placing(const struct fl_extract *x);

/* Ends running work at its next step (a name removed, a file or directory synced) and returns when it has
 * ended; the object may then only be freed. */
void fl_extract_stop(struct fl_extract *x);

/* Of the current or last layer; valid until the next begin. */
const struct fl_extract_stats *fl_extract_read_stats(const struct fl_extract *x);

#endif
