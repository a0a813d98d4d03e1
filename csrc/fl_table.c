#include "fl_table.h"

#include <string.h>

#define BATCH 1024u
#define BATCH_BYTES 524288u
#define FLAGS (FL_ENTRY_HAS_KEY | FL_ENTRY_NO_CTIME)

struct table {
    struct fl_source source;
    const struct fl_columns *columns;
    enum fl_xattr_policy policy;
    uint64_t at;
    struct fl_buf heap;
    struct fl_entry entries[BATCH];
};

static int malformed(uint64_t i, const char *what, struct fl_error *err)
{
    return fl_error_format(err, -1, "entry %llu of the tree table: %s",
                           (unsigned long long)i, what);
}

static int check_bounds(const struct fl_columns *c, uint64_t i, struct fl_error *err)
{
    uint64_t len = (uint64_t)c->path_len[i] + c->link_len[i] + c->xattr_len[i];

    if (c->path_off[i] > c->heap_len || len > c->heap_len - c->path_off[i])
        return malformed(i, "outside of the heap", err);
    return 0;
}

static int check_order(const struct fl_columns *c, uint64_t i, struct fl_error *err)
{
    uint32_t a_len, b_len;
    int order;

    if (i == 0)
        return 0;
    a_len = c->path_len[i - 1];
    b_len = c->path_len[i];
    order = memcmp(c->heap + c->path_off[i - 1], c->heap + c->path_off[i],
                   a_len < b_len ? a_len : b_len);
    if (order < 0 || (order == 0 && a_len < b_len))
        return 0;
    return malformed(i, "out of order", err);
}

static void fill_numbers(const struct fl_columns *c, uint64_t i, struct fl_entry *e)
{
    e->dev = c->dev[i];
    e->ino = c->ino[i];
    e->size = c->size[i];
    e->mtime_sec = c->mtime_sec[i];
    e->ctime_sec = c->ctime_sec[i];
    e->mtime_nsec = c->mtime_nsec[i];
    e->ctime_nsec = c->ctime_nsec[i];
    e->mode = c->mode[i];
    e->uid = c->uid[i];
    e->gid = c->gid[i];
    e->nlink = c->nlink[i];
    e->rdev_major = c->rdev_major[i];
    e->rdev_minor = c->rdev_minor[i];
    e->path_len = c->path_len[i];
    e->link_len = c->link_len[i];
}

static int fill_entry(struct table *t, uint64_t i, struct fl_entry *e, struct fl_error *err)
{
    const struct fl_columns *c = t->columns;
    uint32_t fixed = c->path_len[i] + c->link_len[i], dropped = 0;
    const uint8_t *variable;

    if (check_bounds(c, i, err) < 0 || check_order(c, i, err) < 0)
        return -1;
    variable = c->heap + c->path_off[i];
    fill_numbers(c, i, e);
    e->xattr_len = 0;
    if (fl_buf_add(&t->heap, variable, fixed, &e->path_off, err) < 0)
        return -1;
    if (c->xattr_len[i] != 0 &&
        fl_xattr_filter(t->policy, variable + fixed, c->xattr_len[i], &t->heap,
                        &e->xattr_len, &dropped, err) < 0)
        return -1;
    e->flags = (c->flags[i] & FLAGS) | dropped << FL_ENTRY_DROPPED_SHIFT;
    return 0;
}

static int next(struct fl_source *source, struct fl_batch *ret, struct fl_error *err)
{
    struct table *t = (struct table *)source;
    uint32_t n = 0;

    ret->first = (uint32_t)t->at;
    t->heap.len = 0;
    if (fl_buf_reserve(&t->heap, 1, err) < 0) /* the root alone needs no byte */
        return -1;
    while (n < BATCH && t->heap.len < BATCH_BYTES && t->at < t->columns->count) {
        if (fill_entry(t, t->at, &t->entries[n], err) < 0)
            return -1;
        n++;
        t->at++;
    }
    ret->entries = t->entries;
    ret->heap = t->heap.data;
    ret->count = n;
    return 0;
}

static void free_table(struct fl_source *source)
{
    struct table *t = (struct table *)source;

    fl_buf_free(&t->heap);
    free(t);
}

struct fl_source *fl_table_open(const struct fl_columns *columns,
                                enum fl_xattr_policy policy, struct fl_error *err)
{
    struct table *t;

    if (columns->count >= UINT32_MAX) {
        fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "a tree of more than 2^32 entries");
        return NULL;
    }
    t = calloc(1, sizeof(*t));
    if (t == NULL) {
        fl_error_memory(err);
        return NULL;
    }
    t->source.next = next;
    t->source.free = free_table;
    t->columns = columns;
    t->policy = policy;
    return &t->source;
}
