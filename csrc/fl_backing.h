/* The files behind those of an overlay.
 *
 * FICLONE refuses a file of an overlay and one outside (EXDEV), also where the
 * file that the overlay shows lies on the other's file system. Here is found what
 * is surely that file, so that data can be shared with it; names, owners, modes,
 * xattrs and times go through the overlay all the same.
 *
 * Whoever works in the overlay may rename meanwhile, so a name proves nothing:
 * the file under it is taken only if it has the inode number that the overlay
 * shows (of layers on one file system it shows the real ones: kernel,
 * Documentation/filesystems/overlayfs.rst, "Inode properties") and lies on the
 * file system of the directory given. Of what is read also type, mode, size,
 * mtime and ctime are the same: what was copied up keeps the number of its
 * origin, but nobody can set a ctime. What does not match is not used, and
 * neither is anything below it: the topmost layer that has a name decides.
 *
 * Symbolic links are not followed; fifos and devices are never opened.
 */
#ifndef FL_BACKING_H
#define FL_BACKING_H

#include <stdbool.h>
#include <sys/stat.h>

#define FL_BACKING_LAYERS 32u

/* Real directories of two of an overlay's, as the caller found them. Descriptors are the caller's. */
struct fl_backing {
    int layers[FL_BACKING_LAYERS]; /* that are seen merged in the source, topmost first                */
    unsigned count;                /* 0: the source is not in an overlay, or nothing is known of it    */
    int target;                    /* where files that are made in the destination are; -1 likewise    */
};

/* The same for one directory of a walk below these. One struct per thread; the descriptors are its own. */
struct fl_behind {
    struct fl_backing at;
    bool from_overlay, to_overlay; /* so `at` is needed for that side     */
    dev_t view;                    /* of the source in the overlay's eyes */
    dev_t source_dev;              /* of the layers                       */
    dev_t target_dev;
};

/* No directories. fl_behind_free closes those there are and does this. */
void fl_behind_init(struct fl_behind *b);
void fl_behind_free(struct fl_behind *b);

/* What there is of the directories `source` and `target` (paths without links, empty = the root) below those of `of`;
 * `root` is the source's root in the overlay. What cannot be opened is left out; if that may hide what is topmost,
 * all are. */
void fl_behind_enter(struct fl_behind *b, const struct fl_backing *of, int root, const char *source,
                     const char *target);

/* Opens what FICLONE takes instead of the two files, which are `src_name` (fstat: st) and the new, empty `dst_name`, open
 * as dst. An output of -1 is the file itself, which is in no overlay. True when at least one is not. */
bool fl_behind_open(const struct fl_behind *b, const char *src_name, const struct stat *st, const char *dst_name, int dst,
                    int *ret_src, int *ret_dst);

#endif
