/* Entries put onto a merged tree: parents, replacement, hard links, whiteouts. */
#include <errno.h>
#include <sys/random.h>

#include "fl_map.h"
#include "fl_merge_private.h"

#define MAX_LINKS 40u /* symbolic links in one path, as in the kernel */
#define IMPLIED (S_IFDIR | 0755)
#define TRUSTED "trusted."

int fl_merge_init(struct fl_merge *m, const struct fl_merge_limits *limits, bool in_place, struct fl_error *err)
{
    uint32_t root;

    memset(m, 0, sizeof(*m));
    m->in_place = in_place;
    m->limits = *limits;
    m->layer = FL_MERGE_NONE;
    if (getrandom(m->secret, sizeof(m->secret), 0) != sizeof(m->secret))
        return fl_error_os(err, errno, "getrandom", NULL, 0);
    return fl_merge_new_node(m, IMPLIED, &root, err);
}

void fl_merge_free(struct fl_merge *m)
{
    struct fl_buf *maps[] = {&m->nodes, &m->names, &m->bytes, &m->parts, &m->keys, &m->table, &m->events,
                             &m->scratch};
    struct fl_buf *bufs[] = {&m->trail, &m->todo, &m->other, &m->frames, &m->path};

    for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++)
        fl_map_free(maps[i]);
    for (size_t i = 0; i < sizeof(bufs) / sizeof(*bufs); i++)
        fl_buf_free(bufs[i]);
    fl_name_free(&m->name);
    fl_name_free(&m->link);
}

void fl_merge_begin_layer(struct fl_merge *m)
{
    m->layer++;
    m->layer_entries = m->layer_size = 0;
}

static int refuse(const struct fl_tar_entry *e, const char *why, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_UNSAFE, e->path, e->path_len, "%s", why);
}

/* ---- directories ---- */

static int trail_push(struct fl_merge *m, uint32_t node, struct fl_error *err)
{
    return fl_buf_add(&m->trail, &node, sizeof(node), NULL, err);
}

static uint32_t trail_top(const struct fl_merge *m)
{
    uint32_t node;

    memcpy(&node, m->trail.data + m->trail.len - sizeof(node), sizeof(node));
    return node;
}

static void trail_pop(struct fl_merge *m)
{
    if (m->trail.len > sizeof(uint32_t))
        m->trail.len -= sizeof(uint32_t);
}

/* The next component of `todo` from *at; false at the end. */
static bool next_component(const struct fl_merge *m, size_t *at, const uint8_t **ret, size_t *ret_len)
{
    const uint8_t *end = m->todo.data + m->todo.len, *s, *slash;

    while (*at < m->todo.len) {
        s = m->todo.data + *at;
        slash = memchr(s, '/', (size_t)(end - s));
        if (slash == NULL)
            slash = end;
        *at = (size_t)(slash - m->todo.data) + 1;
        *ret = s;
        *ret_len = (size_t)(slash - s);
        if (*ret_len != 0 && !(*ret_len == 1 && *s == '.'))
            return true;
    }
    return false;
}

/* A directory that only its children imply takes the place of this name. */
static int make_implied(struct fl_merge *m, const void *s, size_t len, struct fl_error *err)
{
    uint32_t node;

    if (fl_merge_new_node(m, IMPLIED, &node, err) < 0 || fl_merge_link(m, trail_top(m), s, len, node, err) < 0)
        return -1;
    return trail_push(m, node, err);
}

/* Puts the target of a link before what is left of the path. */
static int follow(struct fl_merge *m, const struct fl_merge_node *n, size_t *at, struct fl_error *err)
{
    uint32_t link_len, xattr_len;
    const uint8_t *link = fl_merge_parts(m, n, &link_len, &xattr_len);
    struct fl_buf swap = m->other;

    m->other.len = 0;
    if (fl_buf_add(&m->other, link, link_len, NULL, err) < 0 || fl_buf_add(&m->other, "/", 1, NULL, err) < 0)
        return -1;
    if (*at < m->todo.len && fl_buf_add(&m->other, m->todo.data + *at, m->todo.len - *at, NULL, err) < 0)
        return -1;
    if (link_len != 0 && link[0] == '/')
        m->trail.len = sizeof(uint32_t);
    swap = m->other;
    m->other = m->todo;
    m->todo = swap;
    *at = 0;
    return 0;
}

/* The directory at `path`, links resolved inside the tree: 1 with *ret, 0 when it is not there and not made. */
static int directory(struct fl_merge *m, const void *path, size_t len, const struct fl_tar_entry *make_for,
                     uint32_t *ret, struct fl_error *err)
{
    const uint8_t *s = NULL;
    size_t at = 0, n = 0;
    uint32_t links = 0;

    m->trail.len = m->todo.len = 0;
    if (trail_push(m, 0, err) < 0 || fl_buf_add(&m->todo, path, len, NULL, err) < 0)
        return -1;
    while (next_component(m, &at, &s, &n)) {
        uint32_t name = fl_merge_find(m, trail_top(m), s, n), node;
        int r = 0;

        if (n == 2 && s[0] == '.' && s[1] == '.') {
            trail_pop(m);
            continue;
        }
        node = name == FL_MERGE_NONE ? FL_MERGE_NONE : fl_merge_name_at(m, name)->node;
        if (node != FL_MERGE_NONE && fl_merge_is_dir(m, node))
            r = trail_push(m, node, err);
        else if (node != FL_MERGE_NONE && S_ISLNK(fl_merge_node_at(m, node)->mode) && ++links <= MAX_LINKS)
            r = follow(m, fl_merge_node_at(m, node), &at, err);
        else if (make_for == NULL)
            return 0;
        else if (links > MAX_LINKS)
            return refuse(make_for, "too many symbolic links", err);
        else
            r = make_implied(m, s, n, err);
        if (r < 0)
            return -1;
    }
    *ret = trail_top(m);
    return 1;
}

/* ---- inodes ---- */

/* Without trusted.*, as extraction does not set it. */
static int add_xattrs(struct fl_merge *m, const uint8_t *blob, size_t len, struct fl_error *err)
{
    uint32_t value_len;
    uint16_t name_len;

    for (size_t at = 0, step; at < len; at += step) {
        memcpy(&name_len, blob + at, 2);
        memcpy(&value_len, blob + at + 2, 4);
        step = 6 + (size_t)name_len + value_len;
        if (name_len >= strlen(TRUSTED) && memcmp(blob + at + 6, TRUSTED, strlen(TRUSTED)) == 0)
            continue;
        if (fl_map_add(&m->parts, blob + at, step, err) < 0)
            return -1;
    }
    return 0;
}

static int add_parts(struct fl_merge *m, const struct fl_tar_entry *e, uint64_t *ret, struct fl_error *err)
{
    uint32_t lengths[2] = {e->type == FL_TAR_SYMLINK ? e->link_len : 0, 0};
    size_t start = m->parts.len;

    *ret = FL_MERGE_NO_PARTS;
    if (lengths[0] == 0 && e->xattr_len == 0)
        return 0;
    if (fl_map_add(&m->parts, lengths, sizeof(lengths), err) < 0 ||
        fl_map_add(&m->parts, e->link, lengths[0], err) < 0 ||
        add_xattrs(m, e->xattrs, e->xattr_len, err) < 0)
        return -1;
    lengths[1] = (uint32_t)(m->parts.len - start - sizeof(lengths) - lengths[0]);
    memcpy(m->parts.data + start, lengths, sizeof(lengths));
    *ret = start;
    return 0;
}

static uint32_t type_of(uint8_t type)
{
    switch (type) {
    case FL_TAR_SYMLINK:
        return S_IFLNK;
    case FL_TAR_CHAR:
        return S_IFCHR;
    case FL_TAR_BLOCKDEV:
        return S_IFBLK;
    case FL_TAR_DIR:
        return S_IFDIR;
    case FL_TAR_FIFO:
        return S_IFIFO;
    default:
        return S_IFREG;
    }
}

/* An inode gets the attributes of an entry; a directory keeps its names. */
static int set_attributes(struct fl_merge *m, uint32_t node, const struct fl_tar_entry *e, struct fl_error *err)
{
    struct fl_merge_node *n = fl_merge_node_at(m, node);

    n->mode = type_of(e->type) | e->mode;
    n->uid = e->uid;
    n->gid = e->gid;
    n->mtime_sec = e->mtime_sec;
    n->mtime_nsec = e->mtime_nsec;
    if (S_ISCHR(n->mode) || S_ISBLK(n->mode))
        n->size = (uint64_t)e->rdev_major << 32 | e->rdev_minor;
    else if (S_ISREG(n->mode))
        n->size = e->size;
    return add_parts(m, e, &n->parts, err);
}

/* It was hidden, and is there again for what is below it. */
static void make_bare(struct fl_merge_node *n)
{
    n->mode = IMPLIED;
    n->uid = n->gid = n->mtime_nsec = 0;
    n->mtime_sec = 0;
    n->parts = FL_MERGE_NO_PARTS;
}

/* ---- whiteouts ---- */

/* Removes what is older than this layer from one directory, whose own directories have been done. */
static void prune_names(struct fl_merge *m, uint32_t dir)
{
    uint32_t i = fl_merge_node_at(m, dir)->of.dir.first;

    for (; i != FL_MERGE_NONE; i = fl_merge_name_at(m, i)->next) {
        struct fl_merge_name *n = fl_merge_name_at(m, i);

        if (n->node == FL_MERGE_NONE || n->layer == m->layer)
            continue;
        if (!fl_merge_is_dir(m, n->node) || fl_merge_node_at(m, n->node)->size == 0) {
            fl_merge_unlink(m, i);
            continue;
        }
        make_bare(fl_merge_node_at(m, n->node));
        n->layer = m->layer;
    }
}

/* A directory to be pruned, and those below it. */
static int gather(struct fl_merge *m, uint32_t dir, struct fl_error *err)
{
    struct fl_merge_node *d = fl_merge_node_at(m, dir);

    if (d->of.dir.clean == m->layer)
        return 0;
    d->of.dir.clean = m->layer;
    return fl_buf_add(&m->frames, &dir, sizeof(dir), NULL, err);
}

/* Deepest first, without recursion. */
static int prune(struct fl_merge *m, uint32_t top, struct fl_error *err)
{
    uint32_t dir;

    m->frames.len = 0;
    if (gather(m, top, err) < 0)
        return -1;
    for (size_t at = 0; at < m->frames.len; at += sizeof(dir)) {
        memcpy(&dir, m->frames.data + at, sizeof(dir));
        for (uint32_t i = fl_merge_node_at(m, dir)->of.dir.first; i != FL_MERGE_NONE; i = fl_merge_name_at(m, i)->next) {
            uint32_t node = fl_merge_name_at(m, i)->node;

            if (node != FL_MERGE_NONE && fl_merge_is_dir(m, node) && gather(m, node, err) < 0)
                return -1;
        }
    }
    while (m->frames.len != 0) {
        m->frames.len -= sizeof(dir);
        memcpy(&dir, m->frames.data + m->frames.len, sizeof(dir));
        prune_names(m, dir);
    }
    return 0;
}

static int hide(struct fl_merge *m, uint32_t name, struct fl_error *err)
{
    struct fl_merge_name *n = fl_merge_name_at(m, name);
    struct fl_merge_node *d = fl_merge_node_at(m, n->node);
    bool is_dir = S_ISDIR(d->mode);

    if (is_dir && prune(m, n->node, err) < 0)
        return -1;
    if (n->layer == m->layer)
        return 0;
    if (!is_dir || d->size == 0) {
        fl_merge_unlink(m, name);
        return 0;
    }
    make_bare(d);
    n->layer = m->layer;
    return 0;
}

static int put_whiteout(struct fl_merge *m, struct fl_error *err)
{
    uint32_t dir, name;
    int r = directory(m, m->name.text.data, m->name.dir_len, NULL, &dir, err);

    if (r <= 0)
        return r;
    if (m->name.kind == FL_NAME_OPAQUE)
        return prune(m, dir, err);
    name = fl_merge_find(m, dir, m->name.base, m->name.base_len);
    return name == FL_MERGE_NONE ? 0 : hide(m, name, err);
}

/* ---- entries ---- */

static int link_target(struct fl_merge *m, const struct fl_tar_entry *e, uint32_t *ret, struct fl_error *err)
{
    uint32_t dir, name = FL_MERGE_NONE;

    if (fl_name_parse(&m->link, e->link, e->link_len, err) < 0)
        return -1;
    if (m->link.kind == FL_NAME_PLAIN) {
        int r = directory(m, m->link.text.data, m->link.dir_len, NULL, &dir, err);

        if (r < 0)
            return -1;
        if (r > 0)
            name = fl_merge_find(m, dir, m->link.base, m->link.base_len);
    }
    if (name == FL_MERGE_NONE || fl_merge_is_dir(m, fl_merge_name_at(m, name)->node))
        return refuse(e, "hard link to what is no file of the layers so far", err);
    *ret = fl_merge_name_at(m, name)->node;
    return 0;
}

static int put_hard_link(struct fl_merge *m, uint32_t dir, const struct fl_tar_entry *e, struct fl_error *err)
{
    uint32_t old, node = FL_MERGE_NONE;

    if (link_target(m, e, &node, err) < 0)
        return -1;
    old = fl_merge_find(m, dir, m->name.base, m->name.base_len);
    if (old != FL_MERGE_NONE && fl_merge_name_at(m, old)->node == node)
        return refuse(e, "hard link to itself", err);
    return fl_merge_link(m, dir, m->name.base, m->name.base_len, node, err);
}

static int put_inode(struct fl_merge *m, uint32_t dir, const struct fl_tar_entry *e, uint32_t *ret, struct fl_error *err)
{
    uint32_t old = fl_merge_find(m, dir, m->name.base, m->name.base_len), node;

    if (e->type == FL_TAR_DIR && old != FL_MERGE_NONE && fl_merge_is_dir(m, fl_merge_name_at(m, old)->node))
        node = fl_merge_name_at(m, old)->node;
    else if (fl_merge_new_node(m, type_of(e->type), &node, err) < 0)
        return -1;
    *ret = node;
    if (set_attributes(m, node, e, err) < 0)
        return -1;
    return fl_merge_link(m, dir, m->name.base, m->name.base_len, node, err);
}

static int put_root(struct fl_merge *m, const struct fl_tar_entry *e, struct fl_error *err)
{
    if (e->type != FL_TAR_DIR)
        return refuse(e, "an entry that would replace the root", err);
    m->root_known = true;
    return set_attributes(m, 0, e, err);
}

/* Its bytes follow. */
static void place(struct fl_merge *m, uint32_t node, const struct fl_tar_entry *e, uint64_t *ret_off)
{
    *ret_off = m->size;
    fl_merge_node_at(m, node)->of.data_off = m->in_place ? (uint64_t)e->data_offset : m->size;
    m->size += e->size;
    m->sparse |= e->sparse;
}

static int check_limit(const struct fl_tar_entry *e, uint64_t value, uint64_t limit, const char *what,
                       struct fl_error *err)
{
    if (limit == 0 || value <= limit)
        return 0;
    return fl_error_set(err, FL_ERR_LIMIT, e->path, e->path_len, "more than %llu %s", (unsigned long long)limit, what);
}

static int check_limits(struct fl_merge *m, const struct fl_tar_entry *e, struct fl_error *err)
{
    m->layer_entries++;
    if (check_limit(e, m->layer_entries, m->limits.max_entries, "entries in the layer", err) < 0 ||
        check_limit(e, e->size, m->limits.max_file_size, "bytes in a file", err) < 0)
        return -1;
    m->layer_size = e->size > UINT64_MAX - m->layer_size ? UINT64_MAX : m->layer_size + e->size;
    return check_limit(e, m->layer_size, m->limits.max_size, "bytes in the files of the layer", err);
}

int fl_merge_put(struct fl_merge *m, const struct fl_tar_entry *e, uint32_t *ret_node,
                 uint64_t *ret_off, struct fl_error *err)
{
    uint32_t dir;

    if (check_limits(m, e, err) < 0 || fl_name_parse(&m->name, e->path, e->path_len, err) < 0)
        return -1;
    if (m->name.kind == FL_NAME_IGNORED)
        return 0;
    if (m->name.kind == FL_NAME_ROOT)
        return put_root(m, e, err);
    if (m->name.kind != FL_NAME_PLAIN)
        return put_whiteout(m, err);
    if (directory(m, m->name.text.data, m->name.dir_len, e, &dir, err) < 0)
        return -1;
    if (e->type == FL_TAR_HARDLINK)
        return put_hard_link(m, dir, e, err);
    if (put_inode(m, dir, e, ret_node, err) < 0)
        return -1;
    if (e->type != FL_TAR_FILE)
        return 0;
    place(m, *ret_node, e, ret_off);
    return 1;
}

int fl_merge_set_key(struct fl_merge *m, uint32_t node, const uint8_t key[FL_MERGE_KEY_LEN], struct fl_error *err)
{
    if (node >= m->nodes.len / sizeof(struct fl_merge_node) || !S_ISREG(fl_merge_node_at(m, node)->mode))
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "a key of what is no file");
    if (fl_map_add(&m->keys, key, FL_MERGE_KEY_LEN, err) < 0)
        return -1;
    fl_merge_node_at(m, node)->key = (uint32_t)(m->keys.len / FL_MERGE_KEY_LEN);
    return 0;
}
