/* Opening a regular file beneath a root for reading.
 *
 * No component of the path may be a symbolic link and none may be ".."; the
 * file is opened without waiting (a fifo cannot hang us) and without changing
 * its access time where that is permitted. Paths have no leading or trailing
 * slash and any length: longer than PATH_MAX works.
 *
 * The kernel resolves in one call where it has openat2; else, and always with
 * FASTLAYER_NO_OPENAT2=1, component by component with the same answers.
 * Neighbours are the common case, so the directory of the second file in a row
 * from one directory stays open until a file from another one is asked for.
 */
#ifndef FL_OPEN_H
#define FL_OPEN_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_error.h"

struct fl_open {
    int root;           /* the caller's; never closed here                      */
    int dir_fd;         /* the directory `dir`, or -1                           */
    bool no_atime;      /* O_NOATIME is worth trying                            */
    struct fl_buf dir;  /* directory of the last path asked for                 */
    struct fl_buf name; /* NUL-terminated working copy                          */
};

void fl_open_init(struct fl_open *o, int root);
void fl_open_free(struct fl_open *o);

/* Opens path; the caller owns *ret_fd. What was opened may still be anything
 * but a symlink: the caller must fstat. ENOENT, ENOTDIR and ELOOP (a component
 * is missing, not a directory, a symlink) are FL_ERR_CHANGED: it was there when
 * the tree was listed. */
int fl_open_file(struct fl_open *o, const uint8_t *path, uint32_t len,
                 int *ret_fd, struct fl_error *err);

/* The resolution itself, for any flags; an empty path is `at`. `path` is
 * NUL-terminated, its slashes may be overwritten. Returns a descriptor or -errno
 * (ELOOP or ENOTDIR: a component is a symlink or ".."). */
int fl_open_beneath(int at, char *path, size_t len, int flags);

#endif
