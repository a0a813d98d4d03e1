#include "fl_diff.h"

#include <stddef.h>
#include <sys/stat.h>

#include "fl_walk.h"

#define AUX_LEN 10u /* 'O', root number, u64 offset */

static const struct fl_entry *entry_of(const struct fl_diff_side *s)
{
    return &s->batch.entries[s->at];
}

static const uint8_t *path_of(const struct fl_diff_side *s)
{
    return s->batch.heap + entry_of(s)->path_off;
}

/* Number of the current entry within its tree. */
static uint32_t number_of(const struct fl_diff_side *s)
{
    return s->batch.first + s->at;
}

/* ---- rows ---- */

static const uint8_t *own_key(const struct fl_diff_side *s)
{
    const struct fl_columns *c = s->operand.columns;

    return c != NULL && S_ISREG(entry_of(s)->mode) ? fl_table_key(c, number_of(s)) : NULL;
}

/* Where the bytes of a regular file are when B is a tar, or how to see that they are still those that were listed.
 * Returns its length, 0 for none. */
static uint32_t make_aux(const struct fl_diff_side *s, uint8_t aux[AUX_LEN])
{
    const struct fl_columns *c = s->operand.columns;
    const struct fl_entry *e = entry_of(s);

    if (!S_ISREG(e->mode))
        return 0;
    if (c == NULL && e->size != 0) {
        fl_aux_ctime(aux, e->ctime_sec, e->ctime_nsec);
        return FL_AUX_CTIME_LEN;
    }
    if (c == NULL || c->data_off == NULL)
        return 0;
    aux[0] = 'O';
    aux[1] = 0;
    memcpy(aux + 2, &c->data_off[number_of(s)], 8);
    return AUX_LEN;
}

static uint64_t row_size(const struct fl_entry *e)
{
    if (S_ISREG(e->mode))
        return e->size;
    if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
        return (uint64_t)e->rdev_major << 32 | e->rdev_minor;
    return 0;
}

static void fill_row(struct fl_row *row, const struct fl_entry *e)
{
    row->ino = e->ino;
    row->size = row_size(e);
    row->mtime_sec = e->mtime_sec;
    row->mtime_nsec = e->mtime_nsec;
    row->uid = e->uid;
    row->gid = e->gid;
    row->mode = (uint16_t)e->mode;
}

/* Is path in the directory dir? <0: before all that is, 0: yes, >0: after. */
static int place_below(const uint8_t *path, size_t len, const uint8_t *dir, size_t dir_len)
{
    int c = memcmp(path, dir, len < dir_len ? len : dir_len);

    if (c != 0)
        return c;
    if (len <= dir_len)
        return -1;
    return dir_len == 0 ? 0 : (int)path[dir_len] - '/';
}

/* Will this last row be dropped at the end? A parent below which nothing has
 * changed and nothing more can come, or a pair settled to be equal. */
static bool is_stale(const struct fl_changes *t, const struct fl_row *r,
                     const uint8_t *path, size_t len)
{
    if (r->kind == FL_KIND_NONE)
        return !(r->flags & (FL_ROW_VERIFY | FL_ROW_HELD));
    return r->kind == FL_KIND_PARENT &&
           place_below(path, len, fl_row_path(t, r), r->path_len) > 0;
}

/* Most stale rows go as soon as they can, so that equal trees cost nothing. */
static void drop_stale_rows(struct fl_changes *t, const uint8_t *path, size_t len)
{
    while (t->count != 0 && is_stale(t, &t->rows[t->count - 1], path, len))
        fl_changes_pop(t);
}

/* A row of the current entry of B. */
static int add_row(struct fl_diff *d, uint8_t kind, uint32_t what, struct fl_error *err)
{
    const struct fl_entry *e = entry_of(&d->b);
    const uint8_t *path = path_of(&d->b), *link = path + e->path_len;
    const uint8_t *key = own_key(&d->b);
    uint8_t aux[AUX_LEN];
    uint32_t aux_len = make_aux(&d->b, aux);
    struct fl_row *row;

    drop_stale_rows(&d->table, path, e->path_len);
    if (fl_changes_add(&d->table, path, e->path_len, aux_len ? aux : link,
                       aux_len ? aux_len : e->link_len, link + e->link_len,
                       e->xattr_len, &row, err) < 0)
        return -1;
    fill_row(row, e);
    row->kind = kind;
    row->what = (uint16_t)what;
    row->flags = (uint8_t)((aux_len ? FL_ROW_AUX : 0) | (key ? FL_ROW_KEY : 0));
    if (key != NULL &&
        fl_buf_add(&d->table.heap, key, FL_TABLE_KEY_LEN, NULL, err) < 0)
        return -1;
    if (fl_entry_dropped(e) != 0)
        return fl_changes_dropped(&d->table, fl_entry_dropped(e), err);
    return 0;
}

/* ---- what A has and B has not ---- */

static int push_gone(struct fl_diff *d, const uint8_t *path, uint32_t len, struct fl_error *err)
{
    if (fl_buf_add(&d->gone, path, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&d->gone, &len, sizeof(len), NULL, err);
}

/* Is path in one of the directories that are gone? Paths come in order, so the
 * directories to come lie on a stack. */
static bool is_gone(struct fl_diff *d, const uint8_t *path, size_t len)
{
    while (d->gone.len != 0) {
        uint32_t dir_len;
        size_t start;
        int place;

        memcpy(&dir_len, d->gone.data + d->gone.len - sizeof(dir_len), sizeof(dir_len));
        start = d->gone.len - sizeof(dir_len) - dir_len;
        place = place_below(path, len, d->gone.data + start, dir_len);
        if (place <= 0)
            return place == 0;
        d->gone.len = start;
    }
    return false;
}

static int take_removed(struct fl_diff *d, struct fl_error *err)
{
    const struct fl_entry *e = entry_of(&d->a);
    const uint8_t *path = path_of(&d->a);
    struct fl_row *row;

    if (e->path_len == 0 || is_gone(d, path, e->path_len))
        return 0;
    if (S_ISDIR(e->mode) && push_gone(d, path, e->path_len, err) < 0)
        return -1;
    drop_stale_rows(&d->table, path, e->path_len);
    if (fl_changes_add(&d->table, path, e->path_len, NULL, 0, NULL, 0, &row, err) < 0)
        return -1;
    row->kind = FL_KIND_DELETE;
    row->mode = (uint16_t)e->mode;
    row->size = row_size(e);
    return 0;
}

/* ---- what both have ---- */

/* `row` of B is one name of a possible hard-link group. */
static int note_name(struct fl_diff *d, const struct fl_entry *a, uint32_t row,
                     struct fl_error *err)
{
    if (row != FL_GROUPS_NO_ROW)
        d->table.rows[row].flags |= FL_ROW_HELD;
    return fl_groups_add(&d->groups, a, entry_of(&d->b), row, err);
}

/* What B has goes into the table; `a` is NULL when A has nothing there. */
static int conclude(struct fl_diff *d, const struct fl_entry *a, uint8_t kind,
                    uint32_t what, struct fl_error *err)
{
    const struct fl_entry *b = entry_of(&d->b);
    bool shared = fl_groups_shared(b) || (a != NULL && fl_groups_shared(a));
    uint32_t row = FL_GROUPS_NO_ROW;

    if (kind != FL_KIND_NONE || (shared && !S_ISDIR(b->mode))) {
        if (add_row(d, kind, what, err) < 0)
            return -1;
        row = d->table.count - 1;
    }
    if (!shared)
        return 0;
    return note_name(d, a, S_ISDIR(b->mode) ? FL_GROUPS_NO_ROW : row, err);
}

static int conclude_equal_type(struct fl_diff *d, uint32_t what, struct fl_error *err)
{
    uint8_t kind = what != 0                        ? FL_KIND_MODIFY
                   : S_ISDIR(entry_of(&d->b)->mode) ? FL_KIND_PARENT
                                                    : FL_KIND_NONE;

    return conclude(d, entry_of(&d->a), kind, what, err);
}

/* The pair may be equal, a hash of the bytes must tell. */
static int conclude_unverified(struct fl_diff *d, uint32_t what, struct fl_error *err)
{
    struct fl_diff_unverified u = {
        .entry = number_of(d->a.operand.columns ? &d->a : &d->b),
    };
    const struct fl_entry *a = entry_of(&d->a), *b = entry_of(&d->b);

    if (add_row(d, what ? FL_KIND_MODIFY : FL_KIND_NONE, what, err) < 0)
        return -1;
    u.row = d->table.count - 1;
    d->table.rows[u.row].flags |= FL_ROW_VERIFY;
    if (fl_buf_add(&d->unverified, &u, sizeof(u), NULL, err) < 0)
        return -1;
    if (!fl_groups_shared(a) && !fl_groups_shared(b))
        return 0;
    return note_name(d, a, u.row, err);
}

static bool is_live(const struct fl_diff_side *s)
{
    return s->operand.columns == NULL;
}

/* git's rule: an unchanged inode and ctime prove that nothing changed, unless
 * the change may have come in the very tick the index was made in. */
static bool ctime_proves(const struct fl_entry *a, const struct fl_entry *b, int64_t racy_ns)
{
    __int128 ctime = (__int128)a->ctime_sec * 1000000000 + a->ctime_nsec;

    return !((a->flags | b->flags) & FL_ENTRY_NO_CTIME) && a->ino == b->ino &&
           a->ino != 0 && a->ctime_sec == b->ctime_sec &&
           a->ctime_nsec == b->ctime_nsec && ctime < racy_ns;
}

/* Equal without looking into the files? */
static bool is_proven(const struct fl_diff *d, const struct fl_entry *a,
                      const struct fl_entry *b)
{
    bool both = is_live(&d->a) && is_live(&d->b);

    if (both && a->dev == b->dev && a->ino == b->ino)
        return true;
    if (d->options.compare == FL_DIFF_CONTENT)
        return false;
    if (both)
        return ctime_proves(a, b, d->options.shared_until_ns);
    if (is_live(&d->a))
        return ctime_proves(a, b, d->b.operand.columns->racy_ns);
    return is_live(&d->b) && ctime_proves(a, b, d->a.operand.columns->racy_ns);
}

/* Of an inode that a table knows, another ctime says that somebody was there. Without reading it may hold anything. */
static bool was_touched(const struct fl_diff *d, const struct fl_entry *a,
                        const struct fl_entry *b)
{
    if (d->options.compare != FL_DIFF_METADATA || !S_ISREG(b->mode) || b->size == 0 ||
        (is_live(&d->a) && is_live(&d->b)) || ((a->flags | b->flags) & FL_ENTRY_NO_CTIME))
        return false;
    return a->ino == b->ino && a->ino != 0 && a->dev == b->dev &&
           (a->ctime_sec != b->ctime_sec || a->ctime_nsec != b->ctime_nsec);
}

static bool wants_content(const struct fl_diff *d, const struct fl_entry *a,
                          const struct fl_entry *b, uint32_t what)
{
    if (!S_ISREG(b->mode) || a->size != b->size || b->size == 0 ||
        d->options.compare == FL_DIFF_METADATA)
        return false;
    return (what == 0 || d->options.details) && !is_proven(d, a, b);
}

/* At least one side is columns. */
static int compare_keys(struct fl_diff *d, uint32_t what, struct fl_error *err)
{
    const uint8_t *a_key = own_key(&d->a), *b_key = own_key(&d->b);

    if (a_key != NULL && b_key != NULL) {
        if (memcmp(a_key, b_key, FL_TABLE_KEY_LEN) != 0)
            what |= FL_WHAT_CONTENT;
        return conclude_equal_type(d, what, err);
    }
    if ((is_live(&d->a) && b_key != NULL) || (is_live(&d->b) && a_key != NULL))
        return conclude_unverified(d, what, err);
    d->assumed++;
    return conclude_equal_type(d, what | FL_WHAT_CONTENT, err);
}

/* 1 the pair is done, 0 its contents are still being compared. */
static int take_both(struct fl_diff *d, struct fl_error *err)
{
    const struct fl_entry *a = entry_of(&d->a), *b = entry_of(&d->b);
    uint32_t what;

    if ((a->mode ^ b->mode) & S_IFMT) {
        if (S_ISDIR(a->mode) && push_gone(d, path_of(&d->a), a->path_len, err) < 0)
            return -1;
        return conclude(d, a, FL_KIND_MODIFY, FL_WHAT_TYPE, err) < 0 ? -1 : 1;
    }
    what = fl_compare_metadata(a, d->a.batch.heap, b, d->b.batch.heap);
    if (what == 0 && was_touched(d, a, b))
        what = FL_WHAT_CONTENT;
    if (!wants_content(d, a, b, what))
        return conclude_equal_type(d, what, err) < 0 ? -1 : 1;
    if (!is_live(&d->a) || !is_live(&d->b))
        return compare_keys(d, what, err) < 0 ? -1 : 1;
    if (fl_content_start(&d->content, path_of(&d->b), b->path_len, a, b, err) < 0)
        return -1;
    d->comparing = true;
    d->what = what;
    return 0;
}

static int go_on_comparing(struct fl_diff *d, uint64_t budget, struct fl_error *err)
{
    int answer = fl_content_step(&d->content, budget, path_of(&d->b),
                                 entry_of(&d->b)->path_len, err);

    if (answer < 0 || answer == FL_CONTENT_MORE)
        return answer;
    d->comparing = false;
    if (answer == FL_CONTENT_DIFFERENT)
        d->what |= FL_WHAT_CONTENT;
    return conclude_equal_type(d, d->what, err) < 0 ? -1 : 1;
}

/* ---- lockstep ---- */

static int refill(struct fl_diff_side *s, struct fl_error *err)
{
    if (s->ended || s->at < s->batch.count)
        return 0;
    s->at = 0;
    if (fl_source_next(s->source, &s->batch, err) < 0)
        return -1;
    s->ended = s->batch.count == 0;
    return 0;
}

static int compare_paths(const struct fl_diff *d)
{
    const struct fl_entry *a, *b;
    int c;

    if (d->a.ended || d->b.ended)
        return d->a.ended ? 1 : -1;
    a = entry_of(&d->a);
    b = entry_of(&d->b);
    c = memcmp(path_of(&d->a), path_of(&d->b),
               a->path_len < b->path_len ? a->path_len : b->path_len);
    return c != 0 ? c : (a->path_len > b->path_len) - (a->path_len < b->path_len);
}

/* Sockets cannot be in a layer: one of B is left out, but hides what else was
 * there; one of A is a path like any other, to be removed or replaced. */
static int take_pair(struct fl_diff *d, struct fl_error *err)
{
    if (!S_ISSOCK(entry_of(&d->b)->mode))
        return take_both(d, err);
    d->table.skipped_sockets++;
    if (S_ISSOCK(entry_of(&d->a)->mode))
        return 1;
    return take_removed(d, err) < 0 ? -1 : 1;
}

/* A table without an entry for its root does not know it: nothing to compare. */
static int take_added(struct fl_diff *d, struct fl_error *err)
{
    const struct fl_entry *e = entry_of(&d->b);
    bool unknown = e->path_len == 0 && d->a.operand.columns != NULL;

    if (S_ISSOCK(e->mode)) {
        d->table.skipped_sockets++;
        return 0;
    }
    return conclude(d, NULL, unknown ? FL_KIND_PARENT : FL_KIND_ADD, 0, err);
}

/* The next path of either tree. 1 done with it, 0 comparing its contents. */
static int take_next(struct fl_diff *d, int order, struct fl_error *err)
{
    if (order == 0)
        return take_pair(d, err);
    return (order < 0 ? take_removed(d, err) : take_added(d, err)) < 0 ? -1 : 1;
}

static void advance(struct fl_diff *d, int order)
{
    if (order <= 0)
        d->a.at++;
    if (order >= 0)
        d->b.at++;
    d->entries += order == 0 ? 2 : 1;
}

int fl_diff_step(struct fl_diff *d, struct fl_error *err)
{
    uint64_t stop_entries = d->entries + FL_DIFF_BATCH;
    uint64_t stop_bytes = d->content.bytes + FL_DIFF_BATCH_BYTES;

    while (d->entries < stop_entries && d->content.bytes < stop_bytes) {
        int order, r;

        if (refill(&d->a, err) < 0 || refill(&d->b, err) < 0)
            return -1;
        if (d->a.ended && d->b.ended)
            return 0;
        order = compare_paths(d);
        r = d->comparing ? 0 : take_next(d, order, err);
        if (r >= 0 && d->comparing)
            r = go_on_comparing(d, stop_bytes - d->content.bytes, err);
        if (r < 0)
            return -1;
        if (r > 0)
            advance(d, order);
    }
    return 1;
}

/* ---- unverified pairs ---- */

struct fl_diff_unverified *fl_diff_unverified_at(struct fl_diff *d, uint64_t ticket)
{
    if (ticket >= fl_diff_unverified_count(d))
        return NULL;
    return (struct fl_diff_unverified *)(void *)d->unverified.data + ticket;
}

const uint8_t *fl_diff_unverified_key(const struct fl_diff *d,
                                      const struct fl_diff_unverified *u)
{
    const struct fl_columns *c =
        d->a.operand.columns ? d->a.operand.columns : d->b.operand.columns;

    return fl_table_key(c, u->entry);
}

int fl_diff_settle(struct fl_diff *d, uint64_t ticket, bool equal, struct fl_error *err)
{
    struct fl_diff_unverified *u = fl_diff_unverified_at(d, ticket);
    struct fl_row *row;

    if (u == NULL || u->settled)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "no such ticket, or settled before");
    u->settled = 1;
    while (d->settled < fl_diff_unverified_count(d) &&
           fl_diff_unverified_at(d, d->settled)->settled)
        d->settled++;
    row = &d->table.rows[u->row];
    row->flags &= (uint8_t)~FL_ROW_VERIFY;
    if (!equal) {
        row->what |= FL_WHAT_CONTENT;
        row->kind = FL_KIND_MODIFY;
    }
    return 0;
}

static int all_settled(const struct fl_diff *d, struct fl_error *err)
{
    if (d->settled == fl_diff_unverified_count(d))
        return 0;
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0,
                        "finish before every unverified pair was settled");
}

int fl_diff_finish(struct fl_diff *d, struct fl_error *err)
{
    uint32_t *group;
    int r;

    if (!d->a.ended || !d->b.ended)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "finish before the last step");
    if (all_settled(d, err) < 0 ||
        fl_groups_resolve(&d->groups, &d->table, &group, err) < 0)
        return -1;
    fl_groups_free(&d->groups);
    r = fl_changes_finish(&d->table, group, err);
    free(group);
    return r;
}

/* ---- life ---- */

static int open_side(struct fl_diff_side *s, const struct fl_diff_operand *operand,
                     const struct fl_diff_options *o, struct fl_error *err)
{
    s->operand = *operand;
    if (operand->columns != NULL)
        s->source = fl_table_open(operand->columns, o->xattrs, err);
    else if (operand->root >= 0 && o->only != NULL)
        s->source = fl_pick_open(operand->root, o->only, o->xattrs, err);
    else if (operand->root >= 0)
        s->source = fl_walk_open(operand->root, o->xattrs, o->threaded, NULL, err);
    else
        s->ended = true;
    return s->source == NULL && !s->ended ? -1 : 0;
}

int fl_diff_init(struct fl_diff *d, const struct fl_diff_options *options,
                 struct fl_error *err)
{
    memset(d, 0, sizeof(*d));
    d->options = *options;
    fl_content_init(&d->content, options->a.root, options->b.root);
    d->content.try_extents = options->compare == FL_DIFF_AUTO;
    if (open_side(&d->a, &options->a, options, err) < 0 ||
        open_side(&d->b, &options->b, options, err) < 0) {
        fl_diff_free(d);
        return -1;
    }
    d->options.only = NULL; /* the sources have copied it */
    return 0;
}

void fl_diff_free(struct fl_diff *d)
{
    fl_source_free(d->a.source);
    fl_source_free(d->b.source);
    d->a.source = d->b.source = NULL;
    fl_content_free(&d->content);
    fl_changes_free(&d->table);
    fl_groups_free(&d->groups);
    fl_buf_free(&d->unverified);
    fl_buf_free(&d->gone);
}
