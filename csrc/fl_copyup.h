/* Copy-up: one path from a lower directory into an upper one, as overlayfs does
 * it on the first write (kernel Documentation/filesystems/overlayfs.rst).
 *
 * The copy is made complete in a private directory below `work` - on the file
 * system of `upper` - and appears under its name by a rename that replaces
 * nothing. Missing parents are made the same way with the attributes they have
 * below; directories come alone, without children; an upper parent keeps its
 * times. What the upper directory already has stays as it is. A whiteout, an
 * opaque parent or a whiteout of the lower directory itself hides the lower
 * path: ENOENT. A symbolic link as a parent is FL_ERR_UNSAFE on either side.
 * overlayfs' own xattrs are left out. File data is synced before the rename.
 *
 * path: components separated by single slashes; none may be "." or "..". One
 * thread does the work; descriptors are the caller's and stay open. A crash
 * leaves nothing but a directory fastlayer-* below `work`.
 */
#ifndef FL_COPYUP_H
#define FL_COPYUP_H

#include "fl_backing.h"
#include "fl_clone.h"

struct fl_copyup;

/* backing: what is behind `lower` and `work` where these are an overlay's, or NULL. */
struct fl_copyup *fl_copyup_new(int lower, int upper, int work, const char *path, const struct fl_backing *backing,
                                struct fl_error *err);

/* Waits up to wait_ms: 1 = still at work, 0 = complete, -1 = failed. */
int fl_copyup_step(struct fl_copyup *c, unsigned wait_ms, struct fl_error *err);

/* Zeros until complete. entries is 0 when the upper directory had the path. */
void fl_copyup_read_stats(const struct fl_copyup *c, struct fl_clone_stats *ret_stats);

/* Stops what is still running and cleans up. NULL is fine. */
void fl_copyup_free(struct fl_copyup *c);

#endif
