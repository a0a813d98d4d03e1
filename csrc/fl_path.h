/* Directories below an untrusted root, found as a process chrooted into the
 * root would find them, and remembered while a layer is applied.
 *
 * Each directory that was met has a number (struct fl_dir, its name in its
 * parent, its identity, a descriptor). A path is walked component by component
 * through these numbers; a component not met yet is opened below its parent
 * with O_NOFOLLOW, a symbolic link is expanded here: ".." goes to the parent's
 * number and stops at the root, an absolute target starts at the root, more
 * than 40 links are refused (FL_ERR_UNSAFE). So the kernel is never asked to
 * leave a directory upwards or to follow a link, and links that point outside,
 * mazes and magic links lead nowhere else. Paths may be longer than PATH_MAX.
 *
 * Only few descriptors are kept (FL_PATH_OPEN_MAX, least recently used closed).
 * One that was closed is opened again from an open child or parent, or by its
 * path without links - in one call with openat2(RESOLVE_BENEATH |
 * RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), else component by component -
 * and must be the same inode, or FL_ERR_CHANGED.
 *
 * What this process removes or replaces must be told (fl_path_forget): then no
 * walk comes upon it, or upon anything below it, again.
 *
 * Names are single components, NUL-terminated. One struct per thread.
 */
#ifndef FL_PATH_H
#define FL_PATH_H

#include <stdbool.h>
#include <sys/stat.h>

#include "fl_seen.h"

#define FL_PATH_OPEN_MAX 16u
#define FL_PATH_LINKS_MAX 40u

#define FL_DIR_GONE 1u         /* removed or replaced, as is all below it           */
#define FL_DIR_CLEAN 2u        /* it and all below it are only what entries of this layer made */
#define FL_DIR_ENTRY 4u        /* the layer has an entry for it                     */
#define FL_DIR_TOUCHED 8u      /* names came or went                                */
#define FL_DIR_TIMES 16u       /* mtime below is to be set at the end               */
#define FL_DIR_MODE 32u        /* final_mode below is to be set at the end          */
#define FL_DIR_BORN 64u        /* born_uid, born_gid are known                      */
#define FL_DIR_ACL_KNOWN 128u  /* it is known whether it has a default ACL: next    */
#define FL_DIR_ACL 256u
#define FL_DIR_OPAQUE_KNOWN 512u /* overlay, aufs: it is known whether it is opaque */
#define FL_DIR_OPAQUE 1024u
#define FL_DIR_XWHITEOUTS 2048u /* marked as having whiteouts in xattrs             */

/* Number 0 is the root, number 1 the first below it, ... The flags and what is
 * below them belong to the user of this file, who finds GONE, and TIMES with
 * the mtime at the first meeting. */
struct fl_dir {
    uint64_t dev;
    uint64_t ino;
    size_t name_off;     /* in names; NUL-terminated                             */
    uint32_t parent;
    int fd;              /* -1: closed                                           */
    uint32_t last_used;
    uint32_t flags;      /* FL_DIR_*                                             */
    int64_t mtime_sec;
    uint32_t mtime_nsec;
    uint32_t uid;        /* at the first meeting                                 */
    uint32_t gid;
    uint16_t mode;       /* 07777 bits, likewise                                 */
    uint16_t final_mode;
    uint32_t born_uid;   /* owner that a new file in it has                      */
    uint32_t born_gid;
};

enum fl_walk_stop {
    FL_WALK_DONE = 0,    /* p->at is the directory                               */
    FL_WALK_MISSING = 1, /* p->name is not in p->at                              */
    FL_WALK_BLOCKED = 2, /* p->name in p->at is neither directory nor link       */
};

struct fl_path {
    struct fl_dir *dirs;
    uint32_t count;
    uint32_t at;          /* where the walk is                                   */
    char name[256];       /* the component it stopped at                         */
    uint32_t name_len;
    unsigned links;       /* that the walk has followed                          */

    /* private from here on */
    int root_fd;
    bool has_openat2;
    bool takes_permission; /* permissions count for us: directories of our own are opened up */
    uint32_t cap, clock;
    uint32_t open[FL_PATH_OPEN_MAX];
    uint32_t open_count;
    struct fl_seen seen;
    struct fl_buf names;
    struct fl_buf rest;   /* components still to be walked                       */
    size_t rest_pos;
    struct fl_buf last;   /* the directory path that was resolved last           */
    uint32_t last_dir;
    bool last_valid;
    struct fl_buf scratch;
};

/* root: an open directory; it is not kept. */
int fl_path_init(struct fl_path *p, int root, struct fl_error *err);
void fl_path_free(struct fl_path *p);

/* Forgets everything; the root is number 0 again. Must be called before the first walk, too. */
int fl_path_reset(struct fl_path *p, struct fl_error *err);

/* A descriptor open for reading, valid until two more were asked for. */
int fl_path_fd(struct fl_path *p, uint32_t dir, struct fl_error *err);

/* The same for the end of a layer: 1 with *ret_fd, 0 when the directory is not there any more. */
int fl_path_find(struct fl_path *p, uint32_t dir, int *ret_fd, struct fl_error *err);

/* Starts a walk to a directory (components joined by '/', empty = root). */
int fl_walk_begin(struct fl_path *p, const char *dir, size_t len, struct fl_error *err);

/* Walks on: enum fl_walk_stop, or -1. After a stop the caller may put a directory there and go on. */
int fl_walk_next(struct fl_path *p, struct fl_error *err);

/* Opens directory `name` of `dir`: 1 with its number, 0 missing, 2 not a directory, -1.  */
int fl_path_enter(struct fl_path *p, uint32_t dir, const char *name, size_t len,
                  uint32_t *ret_dir, struct fl_error *err);

/* `name` in `dir` was removed or replaced. */
void fl_path_forget(struct fl_path *p, uint32_t dir, const char *name, size_t len);

/* Marks everything below directories that are gone as gone, too. */
void fl_path_spread_gone(struct fl_path *p);

/* Is dir, or any directory above it, gone? */
bool fl_path_is_gone(const struct fl_path *p, uint32_t dir);

#endif
