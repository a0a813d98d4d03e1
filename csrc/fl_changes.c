#include "fl_changes.h"

#include <stdbool.h>
#include <sys/stat.h>

#include "fl_sort.h"

#define NO_ROW UINT32_MAX
#define KEY_LEN 32u

struct dropped {
    uint32_t row;
    uint32_t count;
};

static uint64_t variable_len(const struct fl_row *r)
{
    return (uint64_t)r->path_len + r->link_len + r->xattr_len +
           (r->flags & FL_ROW_KEY ? KEY_LEN : 0);
}

/* Row numbers are 32 bits and UINT32_MAX means none. */
static int reserve_row(struct fl_changes *t, struct fl_error *err)
{
    uint32_t cap = t->cap ? t->cap + (t->cap >> 1) : 64;
    struct fl_row *rows;

    if (t->count < t->cap)
        return 0;
    if (cap <= t->cap || cap >= UINT32_MAX / 2)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "too many changes");
    rows = realloc(t->rows, (size_t)cap * sizeof(*rows));
    if (rows == NULL)
        return fl_error_memory(err);
    t->rows = rows;
    t->cap = cap;
    return 0;
}

int fl_changes_add(struct fl_changes *t, const void *path, uint32_t path_len,
                   const void *link, uint32_t link_len, const void *xattrs,
                   uint32_t xattr_len, struct fl_row **ret_row,
                   struct fl_error *err)
{
    struct fl_row *row;

    if (link_len > UINT16_MAX)
        return fl_error_set(err, FL_ERR_LIMIT, path, path_len,
                            "link target of %u bytes is too long", link_len);
    /* One byte more, so that there is a heap even when all paths are empty. */
    if (reserve_row(t, err) < 0 ||
        fl_buf_reserve(&t->heap, (size_t)path_len + link_len + xattr_len + 1, err) < 0)
        return -1;
    row = &t->rows[t->count++];
    memset(row, 0, sizeof(*row));
    row->leader = FL_NO_LEADER;
    row->path_len = path_len;
    row->link_len = (uint16_t)link_len;
    row->xattr_len = xattr_len;
    fl_buf_add(&t->heap, path, path_len, &row->path_off, err);
    fl_buf_add(&t->heap, link, link_len, NULL, err);
    fl_buf_add(&t->heap, xattrs, xattr_len, NULL, err);
    *ret_row = row;
    return 0;
}

int fl_changes_dropped(struct fl_changes *t, uint32_t n, struct fl_error *err)
{
    struct dropped d = { t->count - 1, n };

    return fl_buf_add(&t->dropped, &d, sizeof(d), NULL, err);
}

void fl_changes_pop(struct fl_changes *t)
{
    struct fl_row *last = &t->rows[--t->count];

    t->heap.len = last->path_off;
    while (t->dropped.len != 0) {
        struct dropped d;

        memcpy(&d, t->dropped.data + t->dropped.len - sizeof(d), sizeof(d));
        if (d.row != t->count)
            break;
        t->dropped.len -= sizeof(d);
    }
}

/* ---- sort ---- */

static int compare_paths(const void *x, const void *y, void *table)
{
    const struct fl_changes *t = table;
    const struct fl_row *a = &t->rows[*(const uint32_t *)x];
    const struct fl_row *b = &t->rows[*(const uint32_t *)y];
    uint32_t n = a->path_len < b->path_len ? a->path_len : b->path_len;
    int c = memcmp(fl_row_path(t, a), fl_row_path(t, b), n);

    return c != 0 ? c : (a->path_len > b->path_len) - (a->path_len < b->path_len);
}

/* The row that is to be at i is at order[i]; cycle by cycle, so that there is no
 * second table. `order` becomes the identity. */
static void permute(struct fl_changes *t, uint32_t *group, uint32_t *order)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct fl_row row = t->rows[i];
        uint32_t number = group != NULL ? group[i] : 0;
        uint32_t at = i;

        while (order[at] != i) {
            uint32_t from = order[at];

            t->rows[at] = t->rows[from];
            if (group != NULL)
                group[at] = group[from];
            order[at] = at;
            at = from;
        }
        t->rows[at] = row;
        if (group != NULL)
            group[at] = number;
        order[at] = at;
    }
}

/* The notes of fl_changes_dropped follow their rows. */
static int renumber_dropped(struct fl_changes *t, const uint32_t *order,
                            struct fl_error *err)
{
    cleanup_free uint32_t *place = NULL;

    if (t->dropped.len == 0)
        return 0;
    place = malloc((size_t)t->count * sizeof(*place));
    if (place == NULL)
        return fl_error_memory(err);
    for (uint32_t i = 0; i < t->count; i++)
        place[order[i]] = i;
    for (size_t at = 0; at < t->dropped.len; at += sizeof(struct dropped)) {
        struct dropped *d = (struct dropped *)(void *)(t->dropped.data + at);

        d->row = place[d->row];
    }
    return 0;
}

/* Variable parts in the order of their rows, as everybody expects them. */
static int sort_heap(struct fl_changes *t, struct fl_error *err)
{
    struct fl_buf heap = {0};

    if (fl_buf_reserve(&heap, t->heap.len + 1, err) < 0)
        return -1;
    for (uint32_t i = 0; i < t->count; i++) {
        struct fl_row *r = &t->rows[i];

        fl_buf_add(&heap, t->heap.data + r->path_off, variable_len(r), &r->path_off, err);
    }
    fl_buf_free(&t->heap);
    t->heap = heap;
    return 0;
}

int fl_changes_sort(struct fl_changes *t, uint32_t *group, struct fl_error *err)
{
    cleanup_free uint32_t *order = NULL;

    if (t->count < 2)
        return 0;
    order = malloc((size_t)t->count * sizeof(*order));
    if (order == NULL)
        return fl_error_memory(err);
    for (uint32_t i = 0; i < t->count; i++)
        order[i] = i;
    qsort_r(order, t->count, sizeof(*order), compare_paths, t);
    if (renumber_dropped(t, order, err) < 0)
        return -1;
    permute(t, group, order);
    return sort_heap(t, err);
}

void fl_changes_free(struct fl_changes *t)
{
    free(t->rows);
    free(t->order);
    fl_buf_free(&t->heap);
    fl_buf_free(&t->dropped);
    memset(t, 0, sizeof(*t));
}

/* ---- finish: which parents stay ---- */

static bool is_below(const struct fl_changes *t, const struct fl_row *r,
                     const struct fl_row *dir)
{
    const uint8_t *path = fl_row_path(t, r);

    return r->path_len > dir->path_len && path[dir->path_len] == '/' &&
           memcmp(path, fl_row_path(t, dir), dir->path_len) == 0;
}

/* -1 when the row's path sorts before every path below dir. */
static int compare_with_below(const struct fl_changes *t, const struct fl_row *r,
                              const struct fl_row *dir)
{
    uint32_t n = r->path_len < dir->path_len ? r->path_len : dir->path_len;
    int c = memcmp(fl_row_path(t, r), fl_row_path(t, dir), n);

    if (c != 0)
        return c;
    if (r->path_len <= dir->path_len)
        return -1;
    return fl_row_path(t, r)[dir->path_len] < '/' ? -1 : 1;
}

/* First row at or after `from` that is not before the paths below dir. */
static uint32_t first_below(const struct fl_changes *t, uint32_t from,
                            const struct fl_row *dir)
{
    uint32_t lo = from, hi = t->count;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;

        if (compare_with_below(t, &t->rows[mid], dir) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* next[i]: the first kept row at or after i. */
static bool has_kept_below(const struct fl_changes *t, uint32_t i,
                           const uint32_t *next)
{
    const struct fl_row *dir = &t->rows[i];
    uint32_t k = next[i + 1];

    if (k == NO_ROW)
        return false;
    if (is_below(t, &t->rows[k], dir))
        return true;
    k = next[first_below(t, k, dir)];
    return k != NO_ROW && is_below(t, &t->rows[k], dir);
}

static void drop_parents(struct fl_changes *t, uint32_t *next)
{
    next[t->count] = NO_ROW;
    for (uint32_t i = t->count; i-- > 0;) {
        struct fl_row *r = &t->rows[i];

        if (r->kind == FL_KIND_PARENT &&
            (r->path_len == 0 || !has_kept_below(t, i, next)))
            r->kind = FL_KIND_NONE;
        next[i] = r->kind == FL_KIND_NONE ? next[i + 1] : i;
    }
}

/* ---- finish: counting, leaders, compaction ---- */

static void count_dropped(struct fl_changes *t)
{
    for (size_t at = 0; at < t->dropped.len; at += sizeof(struct dropped)) {
        struct dropped d;

        memcpy(&d, t->dropped.data + at, sizeof(d));
        if (t->rows[d.row].kind != FL_KIND_NONE)
            t->dropped_xattrs += d.count;
    }
    fl_buf_free(&t->dropped);
}

static bool can_link(const struct fl_row *r)
{
    return r->flags & FL_ROW_GROUP && !S_ISDIR(r->mode) &&
           (r->kind == FL_KIND_ADD || r->kind == FL_KIND_MODIFY);
}

static uint32_t max_group(const uint32_t *group, uint32_t count)
{
    uint32_t max = 0;

    for (uint32_t i = 0; group != NULL && i < count; i++)
        if (group[i] > max)
            max = group[i];
    return max;
}

/* Moves the variable part of r down to the end of what is kept. */
static void compact_row(struct fl_changes *t, struct fl_row *r, uint64_t *heap_len)
{
    uint64_t len = variable_len(r);

    r->flags &= (uint8_t)~(FL_ROW_VERIFY | FL_ROW_HELD);
    if (r->path_off != *heap_len)
        memmove(t->heap.data + *heap_len, t->heap.data + r->path_off, len);
    r->path_off = *heap_len;
    *heap_len += len;
}

/* first[g]: the new number of group g's leader; NULL when there are no groups. */
static void compact(struct fl_changes *t, const uint32_t *group, uint32_t *first)
{
    uint64_t heap_len = 0;
    uint32_t out = 0;

    for (uint32_t i = 0; i < t->count; i++) {
        struct fl_row r = t->rows[i];

        if (r.kind == FL_KIND_NONE)
            continue;
        r.leader = FL_NO_LEADER;
        if (first != NULL && group[i] != 0 && can_link(&r)) {
            if (first[group[i]] == NO_ROW)
                first[group[i]] = out;
            else
                r.leader = first[group[i]];
        }
        compact_row(t, &r, &heap_len);
        t->rows[out++] = r;
    }
    t->count = out;
    t->heap.len = heap_len;
}

static int compact_and_lead(struct fl_changes *t, const uint32_t *group,
                            struct fl_error *err)
{
    uint32_t max = max_group(group, t->count);
    cleanup_free uint32_t *first = NULL;

    if (max != 0) {
        first = malloc(((size_t)max + 1) * sizeof(*first));
        if (first == NULL)
            return fl_error_memory(err);
        memset(first, 0xff, ((size_t)max + 1) * sizeof(*first));
    }
    compact(t, group, first);
    return 0;
}

/* ---- finish: tar order ---- */

/* Length of the directory part with its slash; 0 at the root. */
static uint32_t dir_len(const uint8_t *path, uint32_t len)
{
    const uint8_t *slash = len ? memrchr(path, '/', len) : NULL;

    return slash == NULL ? 0 : (uint32_t)(slash - path) + 1;
}

static int compare_bytes(const uint8_t *a, uint32_t a_len, const uint8_t *b,
                         uint32_t b_len)
{
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);

    return c != 0 ? c : (a_len > b_len) - (a_len < b_len);
}

/* Is the whiteout of `d` to be written before the entry `e`? Its key is the
 * directory, NUL, name: no path has a NUL, so only an entry of an earlier
 * directory or the directory itself comes first. */
static bool whiteout_first(const struct fl_changes *t, const struct fl_row *d,
                           const struct fl_row *e)
{
    uint32_t n = dir_len(fl_row_path(t, d), d->path_len);

    return compare_bytes(fl_row_path(t, d), n, fl_row_path(t, e), e->path_len) < 0;
}

static bool less_whiteout(const void *ctx, const struct fl_sort_item *a,
                          const struct fl_sort_item *b)
{
    const struct fl_changes *t = ctx;
    const struct fl_row *ra = &t->rows[a->ref], *rb = &t->rows[b->ref];
    const uint8_t *pa = fl_row_path(t, ra), *pb = fl_row_path(t, rb);
    uint32_t da = dir_len(pa, ra->path_len), db = dir_len(pb, rb->path_len);
    int c = compare_bytes(pa, da, pb, db);

    if (c == 0)
        c = compare_bytes(pa + da, ra->path_len - da, pb + db, rb->path_len - db);
    return c < 0;
}

static void merge_order(struct fl_changes *t, const struct fl_sort_item *whiteouts,
                        uint32_t n)
{
    uint32_t w = 0, out = 0;

    for (uint32_t i = 0; i < t->count; i++) {
        if (t->rows[i].kind == FL_KIND_DELETE)
            continue;
        while (w < n && whiteout_first(t, &t->rows[whiteouts[w].ref], &t->rows[i]))
            t->order[out++] = whiteouts[w++].ref;
        t->order[out++] = i;
    }
    while (w < n)
        t->order[out++] = whiteouts[w++].ref;
}

static int fill_order(struct fl_changes *t, struct fl_error *err)
{
    cleanup_free struct fl_sort_item *items = NULL;
    uint32_t n = 0;

    for (uint32_t i = 0; i < t->count; i++)
        n += t->rows[i].kind == FL_KIND_DELETE;
    if (n != 0) {
        items = malloc((size_t)n * 2 * sizeof(*items));
        if (items == NULL)
            return fl_error_memory(err);
    }
    n = 0;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->rows[i].kind == FL_KIND_DELETE)
            items[n++] = (struct fl_sort_item){ .ref = i };
    fl_sort(items, n, items + n, less_whiteout, t);
    merge_order(t, items, n);
    return 0;
}

int fl_changes_finish(struct fl_changes *t, const uint32_t *group,
                      struct fl_error *err)
{
    t->order = malloc(((size_t)t->count + 1) * sizeof(*t->order));
    if (t->order == NULL)
        return fl_error_memory(err);
    drop_parents(t, t->order);
    count_dropped(t);
    if (compact_and_lead(t, group, err) < 0)
        return -1;
    return fill_order(t, err);
}
