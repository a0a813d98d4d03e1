/* A merged tree given out in path order, as fl_walk.c gives out a directory. */
#include "fl_map.h"
#include "fl_merge_private.h"
#include "fl_sort.h"

#define DESCEND (1u << 31) /* of an event: what is below this name, not the name */
#define SCRATCH_MAX (1u << 20) /* bytes kept for sorting                          */

struct frame {
    size_t events;     /* length of the list before this directory                */
    size_t next;       /* offset of the next event                                 */
    uint32_t path_len;
    uint32_t pad;
};

/* ---- counting ---- */

static int count_names(struct fl_merge *m, uint32_t dir, struct fl_error *err)
{
    for (uint32_t i = fl_merge_node_at(m, dir)->of.dir.first; i != FL_MERGE_NONE; i = fl_merge_name_at(m, i)->next) {
        uint32_t node = fl_merge_name_at(m, i)->node;

        if (node == FL_MERGE_NONE)
            continue;
        m->count++;
        fl_merge_node_at(m, node)->names++;
        if (fl_merge_is_dir(m, node) && fl_buf_add(&m->frames, &node, sizeof(node), NULL, err) < 0)
            return -1;
    }
    return 0;
}

static int count_all(struct fl_merge *m, struct fl_error *err)
{
    uint32_t dir = 0;

    m->frames.len = 0;
    if (count_names(m, dir, err) < 0)
        return -1;
    while (m->frames.len != 0) {
        m->frames.len -= sizeof(dir);
        memcpy(&dir, m->frames.data + m->frames.len, sizeof(dir));
        if (count_names(m, dir, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- one directory in order ---- */

static uint32_t text_of(const struct fl_merge *m, const struct fl_sort_item *i, const uint8_t **ret)
{
    const uint8_t *s = m->bytes.data + fl_merge_name_at(m, i->ref)->off;

    *ret = s + 1;
    return s[0];
}

/* A descent sorts as the name with a slash. */
static bool less_event(const void *ctx, const struct fl_sort_item *a, const struct fl_sort_item *b)
{
    const uint8_t *s, *t;
    uint32_t s_len = text_of(ctx, a, &s), t_len = text_of(ctx, b, &t), n = s_len < t_len ? s_len : t_len;
    int order = memcmp(s, t, n);
    int s_next, t_next;

    if (order != 0)
        return order < 0;
    s_next = s_len > n ? s[n] : a->aux ? '/' : -1;
    t_next = t_len > n ? t[n] : b->aux ? '/' : -1;
    return s_next < t_next;
}

static void fill_item(const struct fl_merge *m, struct fl_sort_item *item, uint32_t name, uint32_t descend)
{
    uint8_t text[8] = {0};
    const uint8_t *s;
    uint32_t len;

    item->ref = name;
    item->aux = descend;
    len = text_of(m, item, &s);
    memcpy(text, s, len < 8 ? len : 8);
    if (descend && len < 8)
        text[len] = '/';
    item->key = fl_sort_key(text, 8);
}

static void fill_items(const struct fl_merge *m, uint32_t dir, struct fl_sort_item *items)
{
    for (uint32_t i = fl_merge_node_at(m, dir)->of.dir.first; i != FL_MERGE_NONE; i = fl_merge_name_at(m, i)->next) {
        uint32_t node = fl_merge_name_at(m, i)->node;

        if (node == FL_MERGE_NONE)
            continue;
        if (fl_merge_is_dir(m, node))
            fill_item(m, items++, i, 1);
        fill_item(m, items++, i, 0);
    }
}

static uint32_t count_events(const struct fl_merge *m, uint32_t dir)
{
    uint32_t count = 0;

    for (uint32_t i = fl_merge_node_at(m, dir)->of.dir.first; i != FL_MERGE_NONE; i = fl_merge_name_at(m, i)->next) {
        uint32_t node = fl_merge_name_at(m, i)->node;

        count += node == FL_MERGE_NONE ? 0 : fl_merge_is_dir(m, node) ? 2 : 1;
    }
    return count;
}

static int add_events(struct fl_merge *m, const struct fl_sort_item *items, uint32_t n, struct fl_error *err)
{
    if (fl_map_reserve(&m->events, n * sizeof(uint32_t), err) < 0)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t event = items[i].ref | (items[i].aux ? DESCEND : 0);

        memcpy(m->events.data + m->events.len, &event, sizeof(event));
        m->events.len += sizeof(event);
    }
    return 0;
}

/* The second half of the items is only touched where there is something to merge. */
static int list_events(struct fl_merge *m, uint32_t dir, struct fl_error *err)
{
    uint32_t n = count_events(m, dir);
    struct fl_sort_item *items;
    int r;

    m->scratch.len = 0;
    if (fl_map_reserve(&m->scratch, (size_t)n * 2 * sizeof(*items), err) < 0)
        return -1;
    items = (struct fl_sort_item *)(void *)m->scratch.data;
    fill_items(m, dir, items);
    fl_sort(items, n, items + n, less_event, m);
    r = add_events(m, items, n, err);
    if (m->scratch.cap > SCRATCH_MAX)
        fl_map_free(&m->scratch);
    return r;
}

static int push(struct fl_merge *m, uint32_t dir, struct fl_error *err)
{
    struct frame f = {.events = m->events.len, .next = m->events.len, .path_len = (uint32_t)m->path.len};

    if (list_events(m, dir, err) < 0)
        return -1;
    return fl_buf_add(&m->frames, &f, sizeof(f), NULL, err);
}

int fl_merge_finish(struct fl_merge *m, struct fl_error *err)
{
    fl_map_free(&m->table);
    m->slots = NULL;
    m->count = m->root_known;
    fl_merge_node_at(m, 0)->names = 1;
    if (count_all(m, err) < 0)
        return -1;
    m->path.len = m->events.len = m->frames.len = 0;
    return push(m, 0, err);
}

/* ---- entries ---- */

static uint64_t size_of(const struct fl_merge_node *n, uint32_t link_len)
{
    return S_ISREG(n->mode) ? n->size : S_ISLNK(n->mode) ? link_len : 0;
}

static void fill_entry(const struct fl_merge *m, uint32_t node, struct fl_entry *ret)
{
    const struct fl_merge_node *n = fl_merge_node_at(m, node);

    memset(ret, 0, sizeof(*ret));
    (void)fl_merge_parts(m, n, &ret->link_len, &ret->xattr_len);
    ret->ino = node;
    ret->size = size_of(n, ret->link_len);
    ret->mtime_sec = n->mtime_sec;
    ret->mtime_nsec = n->mtime_nsec;
    ret->mode = n->mode;
    ret->uid = n->uid;
    ret->gid = n->gid;
    ret->nlink = n->names;
    ret->flags = FL_ENTRY_NO_CTIME | (n->key != 0 ? FL_ENTRY_HAS_KEY : 0);
    if (S_ISCHR(n->mode) || S_ISBLK(n->mode)) {
        ret->rdev_major = (uint32_t)(n->size >> 32);
        ret->rdev_minor = (uint32_t)n->size;
    }
}

static int give(const struct fl_merge *m, uint32_t node, struct fl_entry *ret, struct fl_buf *heap,
                uint64_t *ret_data_off, const uint8_t **ret_key, struct fl_error *err)
{
    const struct fl_merge_node *n = fl_merge_node_at(m, node);
    const uint8_t *parts;

    fill_entry(m, node, ret);
    parts = fl_merge_parts(m, n, &ret->link_len, &ret->xattr_len);
    ret->path_len = (uint32_t)m->path.len;
    if (fl_buf_add(heap, m->path.data, m->path.len, &ret->path_off, err) < 0 ||
        fl_buf_add(heap, parts, (size_t)ret->link_len + ret->xattr_len, NULL, err) < 0)
        return -1;
    *ret_data_off = S_ISREG(n->mode) ? n->of.data_off : 0;
    *ret_key = n->key != 0 ? m->keys.data + (size_t)(n->key - 1) * FL_MERGE_KEY_LEN : NULL;
    return 1;
}

static int set_path(struct fl_merge *m, uint32_t dir_len, uint32_t name, struct fl_error *err)
{
    const uint8_t *s = m->bytes.data + fl_merge_name_at(m, name)->off;

    m->path.len = dir_len;
    if (dir_len != 0 && fl_buf_add(&m->path, "/", 1, NULL, err) < 0)
        return -1;
    return fl_buf_add(&m->path, s + 1, s[0], NULL, err);
}

int fl_merge_next(struct fl_merge *m, struct fl_entry *ret, struct fl_buf *heap, uint64_t *ret_data_off,
                  const uint8_t **ret_key, struct fl_error *err)
{
    if (m->root_known && !m->root_given) {
        m->root_given = true;
        m->path.len = 0;
        return give(m, 0, ret, heap, ret_data_off, ret_key, err);
    }
    while (m->frames.len != 0) {
        struct frame *f = (struct frame *)(void *)(m->frames.data + m->frames.len) - 1;
        uint32_t event, node;

        if (f->next == m->events.len) {
            m->events.len = f->events;
            m->frames.len -= sizeof(*f);
            continue;
        }
        memcpy(&event, m->events.data + f->next, sizeof(event));
        f->next += sizeof(event);
        if (set_path(m, f->path_len, event & ~DESCEND, err) < 0)
            return -1;
        node = fl_merge_name_at(m, event & ~DESCEND)->node;
        if (!(event & DESCEND))
            return give(m, node, ret, heap, ret_data_off, ret_key, err);
        if (push(m, node, err) < 0)
            return -1;
    }
    return 0;
}
