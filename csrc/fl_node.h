/* Copying one object - anything but a directory's children - from an open
 * source directory into an open destination directory, with all attributes.
 *
 * The destination directory is private to this process (fl_attrs.h) and the
 * name must not exist there. Source names are never followed when they are
 * symbolic links; fifos and devices are never opened. Names are single
 * components, NUL-terminated. One struct per thread.
 */
#ifndef FL_NODE_H
#define FL_NODE_H

#include "fl_attrs.h"
#include "fl_backing.h"
#include "fl_copy.h"

struct fl_node {
    struct fl_copy copy;
    struct fl_attrs attrs;
    struct fl_behind behind; /* of the two directories that files are copied between, where these are an overlay's */
    bool keep_atime;  /* O_NOATIME is worth trying */
    uint64_t changed; /* files that changed meanwhile and were taken as they were read: copy.live */
    char target[4096];
};

void fl_node_init(struct fl_node *n);
void fl_node_free(struct fl_node *n);

/* Opens for reading, without waiting and where permitted without changing the access time.
 * flags: O_DIRECTORY or 0. A symbolic link is FL_ERR_CHANGED: the caller saw something else. */
int fl_node_open(struct fl_node *n, int dir, const char *name, int flags, int *ret_fd, struct fl_error *err);

/* Creates the file (empty) to be filled from an object with fstat `st`. */
int fl_node_create(struct fl_node *n, int dir, const char *name, const struct stat *st, int *ret_fd,
                   struct fl_error *err);

/* Content and attributes of src into dst made by fl_node_create, which have these names in their directories. FL_ERR_CHANGED when src changed meanwhile, unless
 * copy.live: then up to st_size bytes as they were read, which is what a file that only grows was at the fstat. */
int fl_node_fill(struct fl_node *n, int src, const char *src_name, const struct stat *st, int dst, const char *dst_name,
                 struct fl_error *err);

/* A symbolic link, device, fifo or socket whose lstat is `st`. */
int fl_node_copy_special(struct fl_node *n, int src_dir, const char *src_name, const struct stat *st, int dst_dir,
                         const char *dst_name, struct fl_error *err);

/* Opens the directory `path` (no leading slash, empty = root itself) beneath root; no component may be a symbolic
 * link or "..". Any length. flags are added to O_DIRECTORY. */
int fl_node_open_beneath(int root, const char *path, int flags, int *ret_fd, struct fl_error *err);

#endif
