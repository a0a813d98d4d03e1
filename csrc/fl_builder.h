/* A change table from rows that somebody lists, in any order: a layer that no two trees were compared for.
 *
 *   struct fl_builder b = {0};
 *   for each row: fl_builder_xattr(&b, ...) for each of its attributes, then fl_builder_add(&b, &row, &err);
 *   fl_builder_finish(&b, &err);   b.table is finished (fl_changes.h); the caller takes it
 *   fl_builder_free(&b);
 *
 * What a layer cannot say is FL_ERR_USAGE with the path of the row: two rows of one path, a row below what is no
 * directory, names that are empty, "." or "..", ids and numbers that do not fit, attributes out of order. After a failure the object may only be freed.
 */
#ifndef FL_BUILDER_H
#define FL_BUILDER_H

#include <stdbool.h>

#include "fl_changes.h"

struct fl_builder_row {
    uint8_t kind;         /* FL_KIND_ADD, _MODIFY, _DELETE, _PARENT               */
    bool is_range;        /* the bytes are at `offset` of the file that is root `root`, else in the file `source` */
    uint32_t mode;        /* with its type                                       */
    uint32_t uid;
    uint32_t gid;
    uint32_t mtime_nsec;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t path_len;
    uint32_t link_len;
    uint32_t source_len;
    uint32_t root;
    uint32_t group;       /* 0, or the same number for all names of one hard link; numbers are few */
    int64_t mtime_sec;
    uint64_t size;        /* regular files only                                  */
    uint64_t offset;
    uint64_t ctime_ns;    /* that `source` must have; 0: any                     */
    const uint8_t *path;
    const uint8_t *link;  /* target of a symbolic link                           */
    const uint8_t *source;
};

struct fl_builder {
    struct fl_changes table;
    struct fl_buf groups; /* u32 per row                                         */
    struct fl_buf xattrs; /* blob of the next row                                */
    struct fl_buf aux;
    struct fl_buf last;   /* name of its last attribute                          */
};

int fl_builder_xattr(struct fl_builder *b, const void *name, size_t name_len, const void *value, size_t value_len,
                     struct fl_error *err);
int fl_builder_add(struct fl_builder *b, const struct fl_builder_row *row, struct fl_error *err);
int fl_builder_finish(struct fl_builder *b, struct fl_error *err);
void fl_builder_free(struct fl_builder *b);

#endif
