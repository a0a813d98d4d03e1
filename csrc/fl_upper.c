#include "fl_upper.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

/* A directory waiting to be looked into. */
struct place {
    struct fl_buf path;
    struct fl_overlay_dir a; /* without parts where A has no such directory    */
    struct fl_overlay_dir b;
};

static void free_place(struct place *p)
{
    fl_buf_free(&p->path);
    fl_overlay_dir_free(&p->a);
    fl_overlay_dir_free(&p->b);
}

static bool is_upper(const struct fl_overlay_dir *d)
{
    return fl_overlay_parts(d) > 0 && fl_overlay_part(d, 0)->layer == FL_OVERLAY_UPPER;
}

/* ---- objects as entries ----------------------------------------------------------------- */

/* heap: link | xattrs; the path is known from elsewhere. */
static int fill_side(struct fl_upper_side *s, struct fl_error *err)
{
    const struct fl_overlay_node *n = &s->node;
    const struct stat *st = &n->st;

    s->entry = (struct fl_entry){
        .dev = st->st_dev,
        .ino = st->st_ino,
        .size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : n->link.len,
        .mtime_sec = st->st_mtim.tv_sec,
        .mtime_nsec = (uint32_t)st->st_mtim.tv_nsec,
        .mode = st->st_mode,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .nlink = (uint32_t)st->st_nlink,
        .rdev_major = major(st->st_rdev),
        .rdev_minor = minor(st->st_rdev),
        .link_len = (uint32_t)n->link.len,
        .xattr_len = (uint32_t)n->xattrs.len,
    };
    s->heap.len = 0;
    if (fl_buf_reserve(&s->heap, 1, err) < 0 ||
        fl_buf_add(&s->heap, n->link.data, n->link.len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&s->heap, n->xattrs.data, n->xattrs.len, NULL, err);
}

static bool is_there(const struct fl_upper_side *s)
{
    return s->node.found && !S_ISSOCK(s->node.st.st_mode);
}

static bool is_dir(const struct fl_upper_side *s)
{
    return S_ISDIR(s->node.st.st_mode);
}

static uint64_t row_size(const struct fl_entry *e)
{
    if (S_ISCHR(e->mode) || S_ISBLK(e->mode))
        return (uint64_t)e->rdev_major << 32 | e->rdev_minor;
    return S_ISREG(e->mode) ? e->size : 0;
}

/* ---- rows ------------------------------------------------------------------------------- */

static int add_deletion(struct fl_upper *u, struct fl_error *err)
{
    const struct fl_entry *e = &u->a.entry;
    struct fl_row *row;

    if (fl_changes_add(&u->table, u->path.data, (uint32_t)u->path.len, NULL, 0, NULL, 0,
                       &row, err) < 0)
        return -1;
    row->kind = FL_KIND_DELETE;
    row->mode = (uint16_t)e->mode;
    row->size = row_size(e);
    return fl_groups_shared(e) ? fl_groups_gone(&u->groups, e, err) : 0;
}

/* Where the bytes are when the upperdir has not got them, else how to see that they are still those that were listed;
 * scratch: overlay's. */
static int make_aux(struct fl_upper *u, struct fl_buf *aux, struct fl_error *err)
{
    const struct fl_overlay_node *n = &u->b.node;
    uint8_t head[FL_AUX_PATH_HEAD] = {'P'}, ctime[FL_AUX_CTIME_LEN];
    uint16_t root = (uint16_t)n->data_layer;

    aux->len = 0;
    if (!S_ISREG(n->st.st_mode) || n->st.st_size == 0)
        return 0;
    if (n->data_layer == FL_OVERLAY_UPPER) {
        fl_aux_ctime(ctime, n->st.st_ctim.tv_sec, n->st.st_ctim.tv_nsec);
        return fl_buf_add(aux, ctime, sizeof(ctime), NULL, err);
    }
    memcpy(head + 1, &root, sizeof(root));
    if (fl_buf_add(aux, head, sizeof(head), NULL, err) < 0)
        return -1;
    return fl_buf_add(aux, n->data_path.data, n->data_path.len, NULL, err);
}

/* A row of what B has at the path. */
static int add_row(struct fl_upper *u, uint8_t kind, uint32_t what, struct fl_error *err)
{
    const struct fl_entry *e = &u->b.entry;
    const struct fl_overlay_node *n = &u->b.node;
    struct fl_buf *aux = &u->overlay.scratch;
    struct fl_row *row;

    if (make_aux(u, aux, err) < 0 ||
        fl_changes_add(&u->table, u->path.data, (uint32_t)u->path.len,
                       aux->len ? aux->data : n->link.data,
                       (uint32_t)(aux->len ? aux->len : n->link.len), n->xattrs.data,
                       e->xattr_len, &row, err) < 0)
        return -1;
    row->kind = kind;
    row->what = (uint16_t)what;
    row->flags = aux->len ? FL_ROW_AUX : 0;
    row->ino = e->ino;
    row->size = row_size(e);
    row->mtime_sec = e->mtime_sec;
    row->mtime_nsec = e->mtime_nsec;
    row->uid = e->uid;
    row->gid = e->gid;
    row->mode = (uint16_t)e->mode;
    return n->dropped != 0 ? fl_changes_dropped(&u->table, n->dropped, err) : 0;
}

/* ---- one name --------------------------------------------------------------------------- */

static int push_place(struct fl_upper *u, bool with_a, struct fl_error *err)
{
    struct place p = {0};

    if (fl_buf_add(&p.path, u->path.data, u->path.len, NULL, err) < 0 ||
        fl_overlay_append(&p.b, &u->b.node.dir, 0, err) < 0 ||
        (with_a && fl_overlay_append(&p.a, &u->a.node.dir, 0, err) < 0) ||
        fl_buf_add(&u->places, &p, sizeof(p), NULL, err) < 0) {
        free_place(&p);
        return -1;
    }
    return 0;
}

/* Everything is known of the pair: the row, the hard links, the way down. */
static int conclude(struct fl_upper *u, uint8_t kind, uint32_t what, struct fl_error *err)
{
    const struct fl_entry *a = is_there(&u->a) ? &u->a.entry : NULL;
    const struct fl_entry *b = &u->b.entry;
    bool both_dirs = a != NULL && is_dir(&u->a) && is_dir(&u->b);
    bool shared = fl_groups_shared(b) || (a != NULL && fl_groups_shared(a));
    uint32_t row = FL_GROUPS_NO_ROW;

    if (both_dirs && fl_overlay_same(&u->a.node.dir, 0, &u->b.node.dir, 0))
        return 0;
    if (kind != FL_KIND_NONE || (shared && !is_dir(&u->b))) {
        if (add_row(u, kind, what, err) < 0)
            return -1;
        row = is_dir(&u->b) ? FL_GROUPS_NO_ROW : u->table.count - 1;
    }
    if (shared && fl_groups_add(&u->groups, a, b, row, err) < 0)
        return -1;
    return is_dir(&u->b) ? push_place(u, both_dirs, err) : 0;
}

static int conclude_equal_type(struct fl_upper *u, uint32_t what, struct fl_error *err)
{
    uint8_t kind = what != 0      ? FL_KIND_MODIFY
                   : is_dir(&u->b) ? FL_KIND_PARENT
                                   : FL_KIND_NONE;

    return conclude(u, kind, what, err);
}

static bool wants_content(const struct fl_upper *u, uint32_t what)
{
    const struct fl_entry *a = &u->a.entry, *b = &u->b.entry;

    return S_ISREG(b->mode) && a->size == b->size && b->size != 0 &&
           u->options.compare != FL_DIFF_METADATA && (what == 0 || u->options.details);
}

static int open_data(struct fl_upper *u, const struct fl_upper_side *s, int *ret_fd,
                     struct stat *ret_st, struct fl_error *err)
{
    if (fl_overlay_open(&u->overlay, &s->node, ret_fd, err) < 0)
        return -1;
    if (fstat(*ret_fd, ret_st) < 0)
        return fl_error_os(err, errno, "stat", u->path.data, u->path.len);
    if (!S_ISREG(ret_st->st_mode) || (uint64_t)ret_st->st_size != s->entry.size)
        return fl_error_set(err, FL_ERR_CHANGED, u->path.data, u->path.len,
                            "changed while it was compared: try again when the tree is quiet");
    return 0;
}

/* Returns 1 when the contents are being compared, 0 when they are one file. */
static int start_content(struct fl_upper *u, struct fl_error *err)
{
    cleanup_fd int a = -1;
    cleanup_fd int b = -1;
    struct stat st_a, st_b;

    if (open_data(u, &u->a, &a, &st_a, err) < 0 || open_data(u, &u->b, &b, &st_b, err) < 0)
        return -1;
    if (st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino)
        return 0;
    if (fl_content_adopt(&u->content, a, b, u->b.entry.size,
                         st_a.st_dev == st_b.st_dev ? st_a.st_dev : 0, err) < 0)
        return -1;
    fl_steal_fd(&a);
    fl_steal_fd(&b);
    return 1;
}

static int compare_pair(struct fl_upper *u, struct fl_error *err)
{
    uint32_t what;
    int r;

    if ((u->a.entry.mode & S_IFMT) != (u->b.entry.mode & S_IFMT))
        return conclude(u, FL_KIND_MODIFY, FL_WHAT_TYPE, err);
    what = fl_compare_metadata(&u->a.entry, u->a.heap.data, &u->b.entry, u->b.heap.data);
    if (!wants_content(u, what))
        return conclude_equal_type(u, what, err);
    r = start_content(u, err);
    if (r <= 0)
        return r < 0 ? -1 : conclude_equal_type(u, what, err);
    u->comparing = true;
    u->what = what;
    return 0;
}

static int go_on_comparing(struct fl_upper *u, struct fl_error *err)
{
    int r = fl_content_step(&u->content, FL_UPPER_BATCH_BYTES, u->path.data,
                            (uint32_t)u->path.len, err);

    if (r < 0 || r == FL_CONTENT_MORE)
        return r < 0 ? -1 : 0;
    u->comparing = false;
    return conclude_equal_type(
        u, u->what | (r == FL_CONTENT_DIFFERENT ? FL_WHAT_CONTENT : 0), err);
}

/* Both sides have been looked up. */
static int take_pair(struct fl_upper *u, struct fl_error *err)
{
    u->entries += u->a.node.found + u->b.node.found;
    u->table.skipped_sockets += u->b.node.found && !is_there(&u->b);
    if ((u->a.node.found && fill_side(&u->a, err) < 0) ||
        (u->b.node.found && fill_side(&u->b, err) < 0))
        return -1;
    if (!is_there(&u->b)) /* a socket in the place of a socket is no change */
        return is_there(&u->a) || (u->a.node.found && !u->b.node.found) ? add_deletion(u, err) : 0;
    if (!u->a.node.found)
        return conclude(u, FL_KIND_ADD, 0, err);
    return compare_pair(u, err);
}

static int take_name(struct fl_upper *u, const char *name, struct fl_error *err)
{
    u->path.len = u->dir_len;
    if ((u->dir_len != 0 && fl_buf_add(&u->path, "/", 1, NULL, err) < 0) ||
        fl_buf_add(&u->path, name, strlen(name), NULL, err) < 0)
        return -1;
    if (fl_overlay_lookup(&u->overlay, &u->dir_a, name, NULL, &u->a.node, err) < 0 ||
        fl_overlay_lookup(&u->overlay, &u->dir_b, name,
                          u->same_below ? &u->a.node : NULL, &u->b.node, err) < 0) {
        err->path_len = 0; /* a name in some layer says less */
        fl_error_path(err, u->path.data, u->path.len);
        return -1;
    }
    return take_pair(u, err);
}

/* ---- directories ------------------------------------------------------------------------ */

static int compare_offsets(const void *x, const void *y, void *names)
{
    const uint32_t *a = x, *b = y;

    return strcmp((const char *)names + *a, (const char *)names + *b);
}

/* Sorts the names and drops what is there twice. */
static int sort_names(struct fl_upper *u, struct fl_error *err)
{
    const char *names = (const char *)u->names.data;
    uint32_t *all;
    size_t n, kept = 0;

    u->sorted.len = 0;
    if (u->names.len > UINT32_MAX)
        return fl_error_set(err, FL_ERR_LIMIT, u->path.data, u->path.len,
                            "too many names in a directory: compare the mounted overlay");
    for (uint32_t at = 0; at < u->names.len; at += (uint32_t)strlen(names + at) + 1)
        if (fl_buf_add(&u->sorted, &at, sizeof(at), NULL, err) < 0)
            return -1;
    all = (uint32_t *)(void *)u->sorted.data;
    n = u->sorted.len / sizeof(*all);
    if (n > 1)
        qsort_r(all, n, sizeof(*all), compare_offsets, u->names.data);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names + all[i], names + all[kept - 1]) != 0)
            all[kept++] = all[i];
    u->sorted.len = kept * sizeof(*all);
    return 0;
}

static int list_all(struct fl_upper *u, struct fl_overlay_dir *d, struct fl_error *err)
{
    for (uint32_t i = 0; i < fl_overlay_parts(d); i++)
        if (fl_overlay_list(&u->overlay, d, i, &u->names, err) < 0)
            return -1;
    return 0;
}

/* Where both sides agree below the upperdir, only its own names can differ. */
static int list_names(struct fl_upper *u, struct fl_error *err)
{
    u->names.len = 0;
    u->next = 0;
    u->same_below = is_upper(&u->dir_b) && fl_overlay_same(&u->dir_a, 0, &u->dir_b, 1);
    if (u->same_below ? fl_overlay_list(&u->overlay, &u->dir_b, 0, &u->names, err) < 0
                      : list_all(u, &u->dir_a, err) < 0 || list_all(u, &u->dir_b, err) < 0)
        return -1;
    return sort_names(u, err);
}

static int enter(struct fl_upper *u, struct fl_error *err)
{
    struct place p;

    u->places.len -= sizeof(p);
    memcpy(&p, u->places.data + u->places.len, sizeof(p));
    fl_overlay_dir_free(&u->dir_a);
    fl_overlay_dir_free(&u->dir_b);
    fl_buf_free(&u->path);
    u->path = p.path;
    u->dir_len = p.path.len;
    u->dir_a = p.a;
    u->dir_b = p.b;
    return list_names(u, err);
}

/* The roots themselves, which need no looking up. */
static int take_root(struct fl_upper *u, struct fl_error *err)
{
    struct fl_overlay_dir *a = &u->a.node.dir, *b = &u->b.node.dir;

    if (fl_overlay_root(&u->overlay, 1, &u->dir_a, err) < 0 ||
        fl_overlay_root(&u->overlay, 0, &u->dir_b, err) < 0 ||
        fl_overlay_root_node(&u->overlay, &u->dir_a, &u->a.node, err) < 0 ||
        fl_overlay_root_node(&u->overlay, &u->dir_b, &u->b.node, err) < 0 ||
        fl_overlay_append(a, &u->dir_a, 0, err) < 0 ||
        fl_overlay_append(b, &u->dir_b, 0, err) < 0)
        return -1;
    return take_pair(u, err);
}

/* ---- the differ ------------------------------------------------------------------------- */

int fl_upper_init(struct fl_upper *u, const struct fl_upper_options *options,
                  struct fl_error *err)
{
    uint32_t n = options->lower_count;

    memset(u, 0, sizeof(*u));
    if (n == 0)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0,
                            "an upper directory needs lower ones: name at least one");
    if (n > FL_UPPER_MAX_LOWERS)
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0,
                            "too many lower directories: name at most %u",
                            FL_UPPER_MAX_LOWERS);
    u->options = *options;
    u->roots = malloc(((size_t)n + 1) * sizeof(*u->roots));
    if (u->roots == NULL)
        return fl_error_memory(err);
    u->roots[0] = options->upper;
    for (uint32_t i = 0; i < n; i++)
        u->roots[i + 1] = options->lowers[i];
    u->options.lowers = NULL;
    u->groups.partial = true;
    u->overlay.roots = u->roots;
    u->overlay.count = n + 1;
    u->overlay.marks.policy = options->xattrs;
    u->overlay.marks.userxattr = options->userxattr;
    fl_content_init(&u->content, -1, -1);
    u->content.try_extents = options->compare == FL_DIFF_AUTO;
    return 0;
}

void fl_upper_free(struct fl_upper *u)
{
    if (u->roots == NULL)
        return;
    while (u->places.len != 0) {
        u->places.len -= sizeof(struct place);
        free_place((struct place *)(void *)(u->places.data + u->places.len));
    }
    fl_buf_free(&u->places);
    fl_buf_free(&u->path);
    fl_buf_free(&u->names);
    fl_buf_free(&u->sorted);
    fl_buf_free(&u->a.heap);
    fl_buf_free(&u->b.heap);
    fl_overlay_node_free(&u->a.node);
    fl_overlay_node_free(&u->b.node);
    fl_overlay_dir_free(&u->dir_a);
    fl_overlay_dir_free(&u->dir_b);
    fl_overlay_free(&u->overlay);
    fl_content_free(&u->content);
    fl_groups_free(&u->groups);
    fl_changes_free(&u->table);
    free(u->roots);
    u->roots = NULL;
}

int fl_upper_step(struct fl_upper *u, struct fl_error *err)
{
    uint64_t bytes = u->content.bytes;

    if (u->entries == 0 && u->table.count == 0 && take_root(u, err) < 0)
        return -1;
    for (unsigned n = 0; n < FL_UPPER_BATCH; n++) {
        const uint32_t *all = (const uint32_t *)(void *)u->sorted.data;

        if (u->content.bytes - bytes >= FL_UPPER_BATCH_BYTES)
            return 1;
        if (u->comparing) {
            if (go_on_comparing(u, err) < 0)
                return -1;
        } else if (u->next < u->sorted.len / sizeof(*all)) {
            if (take_name(u, (const char *)u->names.data + all[u->next++], err) < 0)
                return -1;
        } else if (u->places.len == 0) {
            return 0;
        } else if (enter(u, err) < 0) {
            return -1;
        }
    }
    return 1;
}

/* ---- the table -------------------------------------------------------------------------- */

int fl_upper_finish(struct fl_upper *u, struct fl_error *err)
{
    cleanup_free uint32_t *group = NULL;

    if (fl_groups_resolve(&u->groups, &u->table, &group, err) < 0)
        return -1;
    fl_groups_free(&u->groups);
    fl_buf_free(&u->names);
    fl_buf_free(&u->sorted);
    if (fl_changes_sort(&u->table, group, err) < 0)
        return -1;
    return fl_changes_finish(&u->table, group, err);
}

/* ---- looking back ----------------------------------------------------------------------- */

/* The object at path in the merged lowerdirs goes to u->a.node. */
static int find_old(struct fl_upper *u, const char *path, struct fl_error *err)
{
    struct fl_overlay_node *node = &u->a.node;
    char name[NAME_MAX + 1];

    fl_overlay_dir_free(&u->dir_a);
    if (fl_overlay_root(&u->overlay, 1, &u->dir_a, err) < 0)
        return -1;
    for (;;) {
        size_t len = strcspn(path, "/");

        if (len > NAME_MAX)
            return 0;
        memcpy(name, path, len);
        name[len] = '\0';
        if (fl_overlay_lookup(&u->overlay, &u->dir_a, name, NULL, node, err) < 0)
            return -1;
        path += len;
        if (!node->found || *path == '\0')
            return node->found;
        path++;
        fl_overlay_dir_free(&u->dir_a);
        if (fl_overlay_append(&u->dir_a, &node->dir, 0, err) < 0)
            return -1;
    }
}

int fl_upper_old(struct fl_upper *u, const char *path, uint32_t *ret_layer,
                 const uint8_t **ret_path, size_t *ret_len, struct fl_error *err)
{
    const struct fl_overlay_node *node = &u->a.node;
    int r = find_old(u, path, err);

    fl_overlay_dir_close(&u->dir_a);
    if (r <= 0 || !S_ISREG(node->st.st_mode))
        return r < 0 ? -1 : 0;
    *ret_layer = node->data_layer;
    *ret_path = node->data_path.data;
    *ret_len = node->data_path.len;
    return 1;
}
