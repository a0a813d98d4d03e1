/* Copying a whole tree exactly, with a few threads over its directories.
 *
 * Every object but sockets (counted) is copied with owner, mode, xattrs, ACLs,
 * times, holes and hard links. Directories get their attributes when all their
 * own names exist; the root of the copy last of all, so until then it is 0700
 * and nobody else can reach into the unfinished tree.
 *
 * dst_fd: an empty directory of the caller's own, in a place where others do not
 * rename things. A failed or freed clone leaves a partial tree there; removing it
 * is the caller's. Neither descriptor is closed here.
 *
 * A file that changes while it is copied is FL_ERR_CHANGED; with FL_CLONE_LIVE it
 * is taken as it is read (fl_node_fill) and counted. Names that go are ENOENT.
 *
 * Threads start in fl_clone_new and are joined in fl_clone_free at the latest.
 */
#ifndef FL_CLONE_H
#define FL_CLONE_H

#include <stdint.h>

#include "fl_backing.h"
#include "fl_error.h"

struct fl_clone;

struct fl_clone_stats {
    uint64_t entries;      /* names made below the root                             */
    uint64_t bytes;        /* sizes of the regular files, every inode once          */
    uint64_t shared;       /* of these: bytes of files that share the source's extents */
    uint64_t copied;       /* of these: bytes moved; holes are in neither            */
    uint64_t sockets;      /* skipped                                               */
    uint64_t lost_owners;
    uint64_t lost_xattrs;
    uint64_t changed;      /* files that changed while they were copied             */
};

#define FL_CLONE_LIVE 1u

/* jobs: threads, 1 to 16; 0 = the usable processors, at most 4. flags: FL_CLONE_*. backing: what is behind the two, or
 * NULL. NULL on failure. */
struct fl_clone *fl_clone_new(int src_fd, int dst_fd, unsigned jobs, unsigned flags, const struct fl_backing *backing,
                              struct fl_error *err);

/* Waits up to wait_ms: 1 = more to do, 0 = complete, -1 = failed (and all threads have stopped). */
int fl_clone_step(struct fl_clone *c, unsigned wait_ms, struct fl_error *err);

/* entries and bytes at any time, the others once the clone is complete (0 before). */
void fl_clone_read_stats(struct fl_clone *c, struct fl_clone_stats *ret_stats);

/* Stops what is still running. NULL is fine. */
void fl_clone_free(struct fl_clone *c);

#endif
