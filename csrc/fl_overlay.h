/* Merged directories of an overlay, without mounting it.
 *
 * The layers are directories: number 0 the upperdir (or -1 where there is
 * none), 1..n the lowerdirs, top first. A merged directory is the list of real
 * directories that make it up; fl_overlay_lookup finds a name in one as the
 * kernel does (Documentation/filesystems/overlayfs.rst):
 *   - whiteouts: a character device 0:0, or an empty regular file with the
 *     xattr overlay.whiteout;
 *   - opaque directories (overlay.opaque "y") end the merge;
 *   - overlay.redirect names another place for what lies below: a sibling
 *     name, or with a leading slash a path from the root of the layers;
 *   - overlay.metacopy: the bytes of a regular file come from further below.
 * The xattrs live in trusted.overlay. or, of a userxattr mount, in user.overlay.
 * (fl_marks.h).
 *
 * One struct per thread. The descriptors of the layers are the caller's.
 */
#ifndef FL_OVERLAY_H
#define FL_OVERLAY_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fl_buf.h"
#include "fl_error.h"
#include "fl_marks.h"

#define FL_OVERLAY_UPPER 0u

struct fl_overlay_part {
    uint32_t layer;
    int fd;            /* opened when first needed, or -1                       */
    uint32_t path_off; /* in `paths`: where the directory is within its layer   */
    uint32_t path_len;
};

struct fl_overlay_dir {
    struct fl_buf parts; /* struct fl_overlay_part, top first                   */
    struct fl_buf paths;
};

/* An object found in a merged directory. Buffers are reused by the next lookup
 * into the same node. */
struct fl_overlay_node {
    bool found;
    uint32_t layer;            /* the object itself is here                     */
    uint32_t data_layer;       /* and the bytes of a regular file are here,     */
    struct fl_buf data_path;   /* under this path                               */
    struct stat st;
    uint32_t dropped;          /* xattrs left out by policy (selinux not counted) */
    struct fl_buf xattrs;      /* fl_entry.h blob of those that travel          */
    struct fl_buf link;        /* target of a symbolic link                     */
    struct fl_overlay_dir dir; /* of a directory                                */
};

struct fl_overlay {
    const int *roots;
    uint32_t count;        /* layers, the upper one included                    */
    struct fl_marks marks; /* set policy and userxattr; the rest is private    */
    struct fl_buf where;   /* the name searched for: one component or /a/b/c    */
    struct fl_buf asked;   /* as it was before the layer at hand changed it     */
    struct fl_buf scratch;
};

void fl_overlay_free(struct fl_overlay *o);

/* The merged root: layers first..count-1. */
int fl_overlay_root(const struct fl_overlay *o, uint32_t first,
                    struct fl_overlay_dir *ret_dir, struct fl_error *err);

/* The attributes of the root: those of its top layer. dir is left empty. */
int fl_overlay_root_node(struct fl_overlay *o, struct fl_overlay_dir *root,
                         struct fl_overlay_node *ret_node, struct fl_error *err);

/* Looks up one name; node->found says whether it is there. `below` may give
 * what the same name is in the parts after the first (else NULL): it saves
 * asking them again where the first part has a plain directory. */
int fl_overlay_lookup(struct fl_overlay *o, struct fl_overlay_dir *dir,
                      const char *name, const struct fl_overlay_node *below,
                      struct fl_overlay_node *node, struct fl_error *err);

/* Appends the names (NUL-terminated, "." and ".." left out, whiteouts not) of
 * one part to `ret_names`. */
int fl_overlay_list(struct fl_overlay *o, struct fl_overlay_dir *dir, uint32_t part,
                    struct fl_buf *ret_names, struct fl_error *err);

/* Opens the bytes of a regular file; the caller owns *ret_fd. */
int fl_overlay_open(struct fl_overlay *o, const struct fl_overlay_node *node,
                    int *ret_fd, struct fl_error *err);

static inline uint32_t fl_overlay_parts(const struct fl_overlay_dir *d)
{
    return (uint32_t)(d->parts.len / sizeof(struct fl_overlay_part));
}

static inline struct fl_overlay_part *fl_overlay_part(const struct fl_overlay_dir *d,
                                                      uint32_t i)
{
    return (struct fl_overlay_part *)(void *)d->parts.data + i;
}

/* Are a's parts from a_first on the same places as b's from b_first on? */
bool fl_overlay_same(const struct fl_overlay_dir *a, uint32_t a_first,
                     const struct fl_overlay_dir *b, uint32_t b_first);

/* Appends the places (not the descriptors) of src's parts from `first` on. */
int fl_overlay_append(struct fl_overlay_dir *dst, const struct fl_overlay_dir *src,
                      uint32_t first, struct fl_error *err);

/* Closes the descriptors; fl_overlay_dir_free frees the rest, too. */
void fl_overlay_dir_close(struct fl_overlay_dir *d);
void fl_overlay_dir_free(struct fl_overlay_dir *d);
void fl_overlay_node_free(struct fl_overlay_node *n);

#endif
