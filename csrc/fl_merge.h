/* A stack of layer tars as one tree: what extracting them would make, without
 * making it. The Python one in _baseline/merge.py does the same.
 *
 *   fl_merge_init, then for each layer, lowest first:
 *       fl_merge_begin_layer; fl_merge_put for each entry of the tar;
 *   fl_merge_finish, then fl_merge_next until it returns 0; fl_merge_free.
 *
 * Whiteouts hide what lower layers have and nothing of their own layer; parents
 * are resolved inside the tree, links too; the last of equal names wins.
 *
 * Memory is flat: 56 bytes for an inode, 20 for a name, a slot of 4 in a hash
 * table at most three quarters full, and the bytes of names, link targets and
 * attributes. Refused are names as in fl_name.h, what would replace the root,
 * hard links to what is no file, more than 40 links in one path (FL_ERR_UNSAFE),
 * and trees beyond 2^31 names (FL_ERR_LIMIT).
 */
#ifndef FL_MERGE_H
#define FL_MERGE_H

#include <stdbool.h>

#include "fl_buf.h"
#include "fl_entry.h"
#include "fl_name.h"
#include "fl_tar.h"

#define FL_MERGE_KEY_LEN 32u

/* 0: no limit. Exceeding one is FL_ERR_LIMIT, worded as in fl_extract.c. */
struct fl_merge_limits {
    uint64_t max_entries;   /* of one layer                                       */
    uint64_t max_size;      /* bytes of all regular files of one layer            */
    uint64_t max_file_size;
};

struct fl_merge {
    uint64_t count;      /* after fl_merge_finish: paths that fl_merge_next gives */
    uint64_t size;       /* bytes of all regular files put so far, hidden or not  */
    bool sparse;         /* some file is not stored as it is                      */
    bool in_place;       /* data_off is the place in the tar, else in a spool     */
    struct fl_merge_limits limits;

    /* private */
    uint64_t secret[2];
    struct fl_buf nodes; /* struct node; 0 is the root                            */
    struct fl_buf names; /* struct name                                           */
    struct fl_buf bytes; /* of names: u8 length, bytes                            */
    struct fl_buf parts; /* of inodes: u32 link length, u32 xattr length, both    */
    struct fl_buf keys;
    struct fl_buf table; /* these, `events`, `scratch`: fl_map.h                 */
    uint32_t *slots;     /* in `table`: 1 + number of a name; 0 is free           */
    uint32_t mask;
    uint32_t layer;
    uint64_t layer_entries;
    uint64_t layer_size;
    bool root_known;
    bool root_given;     /* by fl_merge_next                                      */
    struct fl_name name;
    struct fl_name link;
    struct fl_buf trail; /* directories from the root to where we are             */
    struct fl_buf todo;  /* what is left of a path                                */
    struct fl_buf other;
    struct fl_buf frames;
    struct fl_buf events;
    struct fl_buf scratch;
    struct fl_buf path;
};

/* in_place: one plain tar, whose bytes are read where they are. */
int fl_merge_init(struct fl_merge *m, const struct fl_merge_limits *limits, bool in_place, struct fl_error *err);
void fl_merge_free(struct fl_merge *m);

void fl_merge_begin_layer(struct fl_merge *m);

/* 1: a regular file of the tree, *ret_node is its inode and *ret_off the place
 * of its bytes in a spool that has all files one behind the other; 0: anything else. */
int fl_merge_put(struct fl_merge *m, const struct fl_tar_entry *e, uint32_t *ret_node,
                 uint64_t *ret_off, struct fl_error *err);

/* The blake3 key of what fl_merge_put has given. */
int fl_merge_set_key(struct fl_merge *m, uint32_t node, const uint8_t key[FL_MERGE_KEY_LEN],
                     struct fl_error *err);

/* All layers are there: counts names. Nothing can be put any more. */
int fl_merge_finish(struct fl_merge *m, struct fl_error *err);

/* The next path in order: 1, or 0 at the end. Path, link and xattrs are appended
 * to heap at ret->path_off. *ret_key: NULL when there is none. dev and ctime are 0. */
int fl_merge_next(struct fl_merge *m, struct fl_entry *ret, struct fl_buf *heap,
                  uint64_t *ret_data_off, const uint8_t **ret_key, struct fl_error *err);

#endif
