/* What fl_merge.c and fl_merge_walk.c share. */
#ifndef FL_MERGE_PRIVATE_H
#define FL_MERGE_PRIVATE_H

#include <sys/stat.h>

#include "fl_merge.h"

#define FL_MERGE_NONE UINT32_MAX
#define FL_MERGE_NO_PARTS UINT64_MAX

/* An inode. Of a directory `size` is how many names it has. */
struct fl_merge_node {
    int64_t mtime_sec;
    uint64_t size;
    union {
        uint64_t data_off;
        struct {
            uint32_t first; /* name, or FL_MERGE_NONE                             */
            uint32_t clean; /* the layer whose marker has been carried out here   */
        } dir;
    } of;
    uint64_t parts;         /* offset, or FL_MERGE_NO_PARTS                       */
    uint32_t mtime_nsec;
    uint32_t uid;
    uint32_t gid;
    uint32_t names;         /* counted by fl_merge_finish                         */
    uint32_t key;           /* 1 + number of a key                                */
    uint32_t mode;
};

/* A name in a directory. What is removed stays, with node FL_MERGE_NONE. */
struct fl_merge_name {
    uint32_t parent;
    uint32_t node;
    uint32_t layer; /* that put it there                                          */
    uint32_t next;  /* of the same directory                                      */
    uint32_t off;   /* in `bytes`                                                 */
};

_Static_assert(sizeof(struct fl_merge_node) == 56 && sizeof(struct fl_merge_name) == 20, "flat");

static inline struct fl_merge_node *fl_merge_node_at(const struct fl_merge *m, uint32_t i)
{
    return (struct fl_merge_node *)(void *)m->nodes.data + i;
}

static inline struct fl_merge_name *fl_merge_name_at(const struct fl_merge *m, uint32_t i)
{
    return (struct fl_merge_name *)(void *)m->names.data + i;
}

static inline bool fl_merge_is_dir(const struct fl_merge *m, uint32_t node)
{
    return S_ISDIR(fl_merge_node_at(m, node)->mode);
}

/* Target and attributes of an inode; their lengths may be 0. */
static inline const uint8_t *fl_merge_parts(const struct fl_merge *m, const struct fl_merge_node *n,
                                            uint32_t *ret_link, uint32_t *ret_xattrs)
{
    *ret_link = *ret_xattrs = 0;
    if (n->parts == FL_MERGE_NO_PARTS)
        return NULL;
    memcpy(ret_link, m->parts.data + n->parts, 4);
    memcpy(ret_xattrs, m->parts.data + n->parts + 4, 4);
    return m->parts.data + n->parts + 8;
}

/* fl_merge_names.c: the table of names. */
int fl_merge_new_node(struct fl_merge *m, uint32_t mode, uint32_t *ret, struct fl_error *err);
uint32_t fl_merge_find(const struct fl_merge *m, uint32_t parent, const void *s, size_t len);
int fl_merge_link(struct fl_merge *m, uint32_t parent, const void *s, size_t len, uint32_t node, struct fl_error *err);
void fl_merge_unlink(struct fl_merge *m, uint32_t name);

#endif
