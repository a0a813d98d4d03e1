#include "fl_groups.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

struct inode {
    uint64_t dev;
    uint64_t ino;
};

struct name {
    struct inode a; /* ino 0: not known                                        */
    struct inode b;
    uint32_t row;
    uint32_t links_a; /* of a partial A; else 0                                */
    uint32_t links_b; /* the same                                              */
    bool gone;        /* B has nothing there                                   */
};

/* One group of either tree. */
struct group {
    uint32_t names;
    uint32_t before; /* of B: number of the group of A its names lie in        */
    uint32_t gone;   /* of A: names that B has not                             */
    uint32_t links;
    bool changed;
    bool moved;      /* of B: another inode than before                        */
};

/* Numbers inodes from 1 in order of appearance; 0 is "none". */
struct numbering {
    const struct name *names;
    size_t side;         /* offset of the inode in struct name                 */
    uint32_t *of;        /* number of each name's inode                        */
    uint32_t *slots;     /* open addressing: 1 + index of a name; 0 is free    */
    uint32_t mask;
    uint32_t count;
};

void fl_groups_free(struct fl_groups *g)
{
    fl_buf_free(&g->names);
}

int fl_groups_add(struct fl_groups *g, const struct fl_entry *a,
                  const struct fl_entry *b, uint32_t row, struct fl_error *err)
{
    struct name n = { .row = row };

    if (a != NULL && !S_ISDIR(a->mode))
        n.a = (struct inode){ a->dev, a->ino };
    if (!S_ISDIR(b->mode))
        n.b = (struct inode){ b->dev, b->ino };
    if (n.b.ino == 0)
        n.row = FL_GROUPS_NO_ROW;
    if (g->partial) {
        n.links_a = a != NULL ? a->nlink : 0;
        n.links_b = b->nlink;
    }
    return fl_buf_add(&g->names, &n, sizeof(n), NULL, err);
}

int fl_groups_gone(struct fl_groups *g, const struct fl_entry *a, struct fl_error *err)
{
    struct name n = {
        .a = { a->dev, a->ino },
        .row = FL_GROUPS_NO_ROW,
        .links_a = a->nlink,
        .gone = true,
    };

    return fl_buf_add(&g->names, &n, sizeof(n), NULL, err);
}

static const struct inode *inode_of(const struct numbering *nb, uint32_t i)
{
    return (const struct inode *)(const void *)((const char *)&nb->names[i] + nb->side);
}

static uint32_t hash(const struct inode *i)
{
    uint64_t h = (i->ino ^ i->dev << 40) * 0x9E3779B97F4A7C15u;

    return (uint32_t)(h >> 32);
}

static uint32_t number(struct numbering *nb, uint32_t i)
{
    const struct inode *want = inode_of(nb, i);
    uint32_t at = hash(want) & nb->mask;

    if (want->ino == 0)
        return 0;
    for (; nb->slots[at] != 0; at = (at + 1) & nb->mask) {
        uint32_t other = nb->slots[at] - 1;
        const struct inode *have = inode_of(nb, other);

        if (have->ino == want->ino && have->dev == want->dev)
            return nb->of[other];
    }
    nb->slots[at] = i + 1;
    return ++nb->count;
}

/* of: n numbers. Returns how many different ones, or -1. */
static int number_all(const struct name *names, uint32_t n, size_t side, uint32_t *of,
                      uint32_t *ret_count, struct fl_error *err)
{
    struct numbering nb = { .names = names, .side = side, .of = of };
    uint32_t size = 16;

    while (size < 2 * (uint64_t)n)
        size *= 2;
    nb.mask = size - 1;
    nb.slots = calloc(size, sizeof(*nb.slots));
    if (nb.slots == NULL)
        return fl_error_memory(err);
    for (uint32_t i = 0; i < n; i++)
        of[i] = number(&nb, i);
    free(nb.slots);
    *ret_count = nb.count;
    return 0;
}

struct analysis {
    const struct name *names;
    uint32_t n;
    uint32_t *a_of;
    uint32_t *b_of;
    struct group *a_groups; /* index 0 unused                                  */
    struct group *b_groups;
};

static void free_analysis(struct analysis *x)
{
    free(x->a_of);
    free(x->b_of);
    free(x->a_groups);
    free(x->b_groups);
}

static int number_both(struct analysis *x, struct fl_error *err)
{
    uint32_t a_count, b_count;

    x->a_of = malloc(x->n * sizeof(*x->a_of));
    x->b_of = malloc(x->n * sizeof(*x->b_of));
    if (x->a_of == NULL || x->b_of == NULL)
        return fl_error_memory(err);
    if (number_all(x->names, x->n, offsetof(struct name, a), x->a_of, &a_count, err) < 0 ||
        number_all(x->names, x->n, offsetof(struct name, b), x->b_of, &b_count, err) < 0)
        return -1;
    x->a_groups = calloc((size_t)a_count + 1, sizeof(*x->a_groups));
    x->b_groups = calloc((size_t)b_count + 1, sizeof(*x->b_groups));
    if (x->a_groups == NULL || x->b_groups == NULL)
        return fl_error_memory(err);
    return 0;
}

/* Counts names and finds groups of B with a changed name or names from several
 * groups of A. */
static void gather(struct analysis *x, const struct fl_changes *table)
{
    for (uint32_t i = 0; i < x->n; i++) {
        const struct name *n = &x->names[i];
        struct group *a = &x->a_groups[x->a_of[i]];
        struct group *g = &x->b_groups[x->b_of[i]];

        a->names += !n->gone;
        a->gone += n->gone;
        a->links = n->links_a;
        if (x->b_of[i] == 0)
            continue;
        if (g->names++ == 0)
            g->before = x->a_of[i];
        g->links = n->links_b;
        g->moved = n->a.ino != n->b.ino || n->a.dev != n->b.dev;
        if (g->before != x->a_of[i] ||
            table->rows[x->names[i].row].kind != FL_KIND_NONE)
            g->changed = true;
    }
}

static bool is_changed(const struct analysis *x, const struct group *g)
{
    const struct group *before = &x->a_groups[g->before];

    if (g->changed)
        return true;
    if (g->before == 0)
        return g->names > 1;
    if (before->names != g->names)
        return true;
    return g->moved && g->links <= g->names && before->links > before->names + before->gone;
}

static void emit(const struct analysis *x, struct fl_changes *table, uint32_t *group)
{
    for (uint32_t i = 0; i < x->n; i++) {
        const struct group *g = &x->b_groups[x->b_of[i]];
        struct fl_row *row;

        if (x->b_of[i] == 0 || !is_changed(x, g))
            continue;
        row = &table->rows[x->names[i].row];
        if (row->kind == FL_KIND_NONE) {
            row->kind = FL_KIND_MODIFY;
            row->what = FL_WHAT_LINK;
        }
        if (g->names > 1) {
            row->flags |= FL_ROW_GROUP;
            group[x->names[i].row] = x->b_of[i];
        }
    }
}

int fl_groups_resolve(struct fl_groups *g, struct fl_changes *table,
                      uint32_t **ret_group, struct fl_error *err)
{
    struct analysis x = {
        .names = (const struct name *)(const void *)g->names.data,
        .n = (uint32_t)(g->names.len / sizeof(struct name)),
    };
    uint32_t *group;

    *ret_group = NULL;
    if (x.n == 0)
        return 0;
    group = calloc((size_t)table->count + 1, sizeof(*group));
    if (group == NULL || number_both(&x, err) < 0) {
        free(group);
        free_analysis(&x);
        return group == NULL ? fl_error_memory(err) : -1;
    }
    gather(&x, table);
    emit(&x, table, group);
    free_analysis(&x);
    *ret_group = group;
    return 0;
}
