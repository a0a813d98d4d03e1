#include <endian.h>
#include <errno.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "fl_btrfs.h"

#define ROOM 65536u /* of the answers of one search: the largest node */

/* Items of one tree within a range of keys, in order. */
struct cursor {
    int fd;
    struct btrfs_ioctl_search_args_v2 *args;
    uint32_t left;     /* items of the answer that were not taken yet           */
    size_t at;
    bool ended;

    struct btrfs_ioctl_search_header item; /* the current one                   */
    const uint8_t *data;                   /* item.len bytes                    */
};

static void cursor_free(struct cursor *c)
{
    free(c->args);
}

#define cleanup_cursor __attribute__((cleanup(cursor_free)))

/* All objects from `first` to `last`, all types from `low` to `high`. tree 0: that of fd. */
static int cursor_open(struct cursor *c, int fd, uint64_t tree, uint64_t first, uint64_t last,
                       uint32_t low, uint32_t high, struct fl_error *err)
{
    struct btrfs_ioctl_search_key *key;

    memset(c, 0, sizeof(*c));
    c->fd = fd;
    c->args = malloc(sizeof(*c->args) + ROOM);
    if (c->args == NULL)
        return fl_error_memory(err);
    memset(c->args, 0, sizeof(*c->args));
    c->args->buf_size = ROOM;
    key = &c->args->key;
    key->tree_id = tree;
    key->min_objectid = first;
    key->max_objectid = last;
    key->min_type = low;
    key->max_type = high;
    key->max_offset = UINT64_MAX;
    key->max_transid = UINT64_MAX;
    return 0;
}

/* The next search begins behind the current item. */
static void step_over(struct btrfs_ioctl_search_key *key, const struct btrfs_ioctl_search_header *item)
{
    key->min_objectid = item->objectid;
    key->min_type = item->type;
    key->min_offset = item->offset + 1;
    if (key->min_offset == 0 && ++key->min_type > UINT8_MAX) {
        key->min_type = 0;
        key->min_objectid++;
    }
}

static int search(struct cursor *c, struct fl_error *err)
{
    int r;

    c->args->key.nr_items = UINT32_MAX;
    do
        r = ioctl(c->fd, BTRFS_IOC_TREE_SEARCH_V2, c->args);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return fl_error_os(err, errno, "search tree", NULL, 0);
    c->left = c->args->key.nr_items;
    c->at = 0;
    c->ended = c->left == 0;
    return 0;
}

/* 1, or 0 at the end, or -1. */
static int cursor_next(struct cursor *c, struct fl_error *err)
{
    const uint8_t *buf = (const uint8_t *)c->args->buf;

    if (c->left == 0 && !c->ended && search(c, err) < 0)
        return -1;
    if (c->ended)
        return 0;
    memcpy(&c->item, buf + c->at, sizeof(c->item));
    c->data = buf + c->at + sizeof(c->item);
    c->at += sizeof(c->item) + c->item.len;
    c->left--;
    if (c->left == 0)
        step_over(&c->args->key, &c->item);
    return 1;
}

static int damaged(const struct cursor *c, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_FORMAT, NULL, 0, "item (%llu %u) of a btrfs tree is malformed",
                        (unsigned long long)c->item.objectid, c->item.type);
}

static int add_name(struct fl_buf *to, const uint8_t *name, uint16_t len, struct fl_error *err)
{
    if (fl_buf_add(to, &len, sizeof(len), NULL, err) < 0)
        return -1;
    return fl_buf_add(to, name, len, NULL, err);
}

/* ---- inodes ---- */

/* Reads an INODE_ITEM. Made or changed since? */
static bool read_inode(const struct cursor *c, uint64_t transid, struct fl_btrfs_inode *ret)
{
    struct btrfs_inode_item item;

    if (c->item.type != BTRFS_INODE_ITEM_KEY || c->item.len < sizeof(item))
        return false;
    memcpy(&item, c->data, sizeof(item));
    ret->ino = c->item.objectid;
    ret->generation = le64toh(item.generation);
    ret->nlink = le32toh(item.nlink);
    ret->mode = le32toh(item.mode);
    return le64toh(item.transid) > transid;
}

static bool read_ctime(const struct cursor *c, struct btrfs_timespec *ret)
{
    if (c->item.type != BTRFS_INODE_ITEM_KEY || c->item.len < sizeof(struct btrfs_inode_item))
        return false;
    memcpy(ret, c->data + offsetof(struct btrfs_inode_item, ctime), sizeof(*ret));
    return true;
}

/* Has the inode at c only been read? 1 yes, 0 no, -1 failed. */
static int only_read(const struct cursor *c, struct cursor *parent, int64_t sec, struct fl_error *err)
{
    struct btrfs_ioctl_search_key *key = &parent->args->key;
    struct btrfs_timespec now, then;
    int r;

    if (!read_ctime(c, &now) || (int64_t)le64toh(now.sec) >= sec - 1)
        return 0;
    key->min_objectid = key->max_objectid = c->item.objectid;
    key->min_type = key->max_type = BTRFS_INODE_ITEM_KEY;
    key->min_offset = 0;
    parent->left = 0;
    parent->ended = false;
    r = cursor_next(parent, err);
    if (r <= 0)
        return r;
    return read_ctime(parent, &then) && now.sec == then.sec && now.nsec == then.nsec;
}

int fl_btrfs_changed(int fd, int parent_fd, uint64_t transid, int64_t sec, struct fl_buf *ret,
                     struct fl_error *err)
{
    cleanup_cursor struct cursor c = { 0 };
    cleanup_cursor struct cursor parent = { 0 };
    struct fl_btrfs_inode inode;
    int r;

    if (cursor_open(&c, fd, 0, BTRFS_FIRST_FREE_OBJECTID, BTRFS_LAST_FREE_OBJECTID,
                    BTRFS_INODE_ITEM_KEY, UINT8_MAX, err) < 0 ||
        cursor_open(&parent, parent_fd, 0, 0, 0, 0, 0, err) < 0)
        return -1;
    c.args->key.min_transid = transid + 1;
    while ((r = cursor_next(&c, err)) > 0) {
        if (!read_inode(&c, transid, &inode) || inode.generation > transid)
            continue;
        r = only_read(&c, &parent, sec, err);
        if (r < 0 || (r == 0 && fl_buf_add(ret, &inode, sizeof(inode), NULL, err) < 0))
            return -1;
    }
    return r;
}

/* ---- names ---- */

static int add_reference(struct fl_buf *ret, uint64_t parent, const uint8_t *name, uint16_t len,
                         struct fl_error *err)
{
    if (fl_buf_add(ret, &parent, sizeof(parent), NULL, err) < 0)
        return -1;
    return add_name(ret, name, len, err);
}

/* One item holds all names of an inode in one directory, or all that share a hash. */
static int add_references(const struct cursor *c, struct fl_buf *ret, struct fl_error *err)
{
    bool extended = c->item.type == BTRFS_INODE_EXTREF_KEY;
    size_t head = extended ? offsetof(struct btrfs_inode_extref, name) : sizeof(struct btrfs_inode_ref);

    for (size_t at = 0; at < c->item.len;) {
        uint64_t parent = c->item.offset;
        uint16_t len;

        if (at + head > c->item.len)
            return damaged(c, err);
        memcpy(&len, c->data + at + head - sizeof(len), sizeof(len));
        len = le16toh(len);
        if (extended) {
            memcpy(&parent, c->data + at, sizeof(parent));
            parent = le64toh(parent);
        }
        if (at + head + len > c->item.len)
            return damaged(c, err);
        if (add_reference(ret, parent, c->data + at + head, len, err) < 0)
            return -1;
        at += head + len;
    }
    return 0;
}

int fl_btrfs_names(int fd, uint64_t ino, struct fl_buf *ret, struct fl_error *err)
{
    cleanup_cursor struct cursor c = { 0 };
    int r;

    if (cursor_open(&c, fd, 0, ino, ino, BTRFS_INODE_REF_KEY, BTRFS_INODE_EXTREF_KEY, err) < 0)
        return -1;
    while ((r = cursor_next(&c, err)) > 0)
        if (add_references(&c, ret, err) < 0)
            return -1;
    return r;
}

/* ---- directories ---- */

static int check_name(const struct cursor *c, struct fl_error *err)
{
    struct btrfs_dir_item item;

    if (c->item.len < sizeof(item))
        return damaged(c, err);
    memcpy(&item, c->data, sizeof(item));
    return c->item.len < sizeof(item) + le16toh(item.name_len) ? damaged(c, err) : 0;
}

/* 1, 0 at the end, -1: the next DIR_INDEX item. */
static int next_name(struct cursor *c, struct fl_error *err)
{
    int r = cursor_next(c, err);

    return r > 0 && check_name(c, err) < 0 ? -1 : r;
}

/* The same name for the same inode? */
static bool same_name(const struct cursor *a, const struct cursor *b)
{
    const struct btrfs_dir_item *x = (const void *)a->data, *y = (const void *)b->data;

    return a->item.len == b->item.len && x->type == y->type &&
           memcmp(&x->location, &y->location, sizeof(x->location)) == 0 &&
           memcmp(x + 1, y + 1, a->item.len - sizeof(*x)) == 0;
}

static int add_difference(const struct cursor *c, uint8_t side, struct fl_buf *ret, struct fl_error *err)
{
    const struct btrfs_dir_item *item = (const void *)c->data;
    uint8_t flags = side | (item->type == BTRFS_FT_DIR ? FL_BTRFS_DIR : 0);

    if (fl_buf_add(ret, &flags, sizeof(flags), NULL, err) < 0)
        return -1;
    return add_name(ret, c->data + sizeof(*item), le16toh(item->name_len), err);
}

/* Both are in the order of the index, which a name keeps as long as it stays. */
static int compare_items(struct cursor *a, int *ra, struct cursor *b, int *rb, struct fl_buf *ret,
                         struct fl_error *err)
{
    bool take_a = *ra > 0 && (*rb == 0 || a->item.offset <= b->item.offset);
    bool take_b = *rb > 0 && (*ra == 0 || b->item.offset <= a->item.offset);

    if (!take_a || !take_b || !same_name(a, b)) {
        if (take_a && add_difference(a, FL_BTRFS_IN_A, ret, err) < 0)
            return -1;
        if (take_b && add_difference(b, FL_BTRFS_IN_B, ret, err) < 0)
            return -1;
    }
    if (take_a && (*ra = next_name(a, err)) < 0)
        return -1;
    if (take_b && (*rb = next_name(b, err)) < 0)
        return -1;
    return 0;
}

int fl_btrfs_compare_names(int a_fd, int b_fd, uint64_t ino, struct fl_buf *ret, struct fl_error *err)
{
    cleanup_cursor struct cursor a = { 0 };
    cleanup_cursor struct cursor b = { 0 };
    int ra, rb;

    if (cursor_open(&a, a_fd, 0, ino, ino, BTRFS_DIR_INDEX_KEY, BTRFS_DIR_INDEX_KEY, err) < 0 ||
        cursor_open(&b, b_fd, 0, ino, ino, BTRFS_DIR_INDEX_KEY, BTRFS_DIR_INDEX_KEY, err) < 0)
        return -1;
    ra = next_name(&a, err);
    rb = ra < 0 ? -1 : next_name(&b, err);
    if (rb < 0)
        return -1;
    while (ra > 0 || rb > 0)
        if (compare_items(&a, &ra, &b, &rb, ret, err) < 0)
            return -1;
    return 0;
}

/* ---- subvolumes in subvolumes ---- */

static int add_nested(const struct cursor *c, struct fl_buf *ret, struct fl_error *err)
{
    struct btrfs_root_ref ref;
    uint64_t id = c->item.offset, dir;

    if (c->item.len < sizeof(ref))
        return damaged(c, err);
    memcpy(&ref, c->data, sizeof(ref));
    dir = le64toh(ref.dirid);
    if (c->item.len < sizeof(ref) + le16toh(ref.name_len))
        return damaged(c, err);
    if (fl_buf_add(ret, &id, sizeof(id), NULL, err) < 0)
        return -1;
    return add_reference(ret, dir, c->data + sizeof(ref), le16toh(ref.name_len), err);
}

int fl_btrfs_nested(int fd, uint64_t id, struct fl_buf *ret, struct fl_error *err)
{
    cleanup_cursor struct cursor c = { 0 };
    int r;

    if (cursor_open(&c, fd, BTRFS_ROOT_TREE_OBJECTID, id, id, BTRFS_ROOT_REF_KEY,
                    BTRFS_ROOT_REF_KEY, err) < 0)
        return -1;
    while ((r = cursor_next(&c, err)) > 0)
        if (add_nested(&c, ret, err) < 0)
            return -1;
    return r;
}

/* ---- quota groups ---- */

int fl_btrfs_qgroup_usage(int fd, uint64_t id, uint64_t *ret_referenced,
                          uint64_t *ret_exclusive, struct fl_error *err)
{
    cleanup_cursor struct cursor c = { 0 };
    struct btrfs_qgroup_info_item item;
    int r;

    if (cursor_open(&c, fd, BTRFS_QUOTA_TREE_OBJECTID, 0, 0, BTRFS_QGROUP_INFO_KEY,
                    BTRFS_QGROUP_INFO_KEY, err) < 0)
        return -1;
    c.args->key.min_offset = c.args->key.max_offset = id;
    r = cursor_next(&c, err);
    if (r < 0)
        return err->kind == FL_ERR_OS && err->errnum == ENOENT ? 0 : -1; /* no quota tree */
    if (r == 0 || c.item.len < sizeof(item))
        return 0;
    memcpy(&item, c.data, sizeof(item));
    *ret_referenced = le64toh(item.rfer);
    *ret_exclusive = le64toh(item.excl);
    return 1;
}

/* ---- usage ---- */

/* A file refers to an extent. */
struct reference {
    uint64_t extent;  /* where it begins: its identity                          */
    uint64_t ino;
    uint64_t size;    /* on disk, all of it                                     */
    uint64_t part;    /* bytes of it that the file shows here                   */
    bool own;         /* made since                                             */
};

struct tally {
    uint64_t transid;
    struct fl_btrfs_usage usage;
    struct fl_btrfs_inode inode; /* the latest that was made or changed since   */
    struct fl_buf references;
};

static int add_extent(struct tally *t, const struct cursor *c, struct fl_error *err)
{
    const size_t inline_at = offsetof(struct btrfs_file_extent_item, disk_bytenr);
    struct btrfs_file_extent_item item = { 0 };
    struct reference r;

    if (c->item.len < inline_at)
        return damaged(c, err);
    memcpy(&item, c->data, c->item.len < sizeof(item) ? c->item.len : sizeof(item));
    if (item.type == BTRFS_FILE_EXTENT_INLINE) {
        if (le64toh(item.generation) > t->transid)
            t->usage.bytes += c->item.len - inline_at;
        return 0;
    }
    if (c->item.len < sizeof(item))
        return damaged(c, err);
    r.extent = le64toh(item.disk_bytenr);
    r.ino = c->item.objectid;
    r.size = le64toh(item.disk_num_bytes);
    r.part = le64toh(item.num_bytes);
    r.own = le64toh(item.generation) > t->transid;
    if (r.extent == 0) /* a hole */
        return 0;
    if (!r.own && t->inode.generation <= t->transid)
        return 0; /* what an older file had before */
    return fl_buf_add(&t->references, &r, sizeof(r), NULL, err);
}

static int add_item(struct tally *t, const struct cursor *c, struct fl_error *err)
{
    struct fl_btrfs_inode inode;

    if (c->item.type == BTRFS_INODE_ITEM_KEY && read_inode(c, t->transid, &inode)) {
        t->inode = inode;
        if (inode.generation > t->transid)
            t->usage.inodes++;
    }
    if (c->item.type != BTRFS_EXTENT_DATA_KEY || c->item.objectid != t->inode.ino)
        return 0;
    return add_extent(t, c, err);
}

static int by_extent(const void *a, const void *b)
{
    const struct reference *x = a, *y = b;

    return (x->extent > y->extent) - (x->extent < y->extent);
}

/* References [from, to) are to one extent. */
static void count_extent(struct fl_btrfs_usage *u, const struct reference *from, const struct reference *to)
{
    bool shared = !from->own;

    if (from->own)
        u->bytes += from->size;
    for (const struct reference *r = from; r < to; r++)
        shared = shared || r->ino != from->ino;
    for (const struct reference *r = from; shared && r < to; r++)
        u->shared += r->part;
}

static void count_extents(struct tally *t)
{
    struct reference *all = (void *)t->references.data;
    size_t n = t->references.len / sizeof(*all);

    if (n != 0)
        qsort(all, n, sizeof(*all), by_extent);
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && all[to].extent == all[from].extent;)
            to++;
        count_extent(&t->usage, all + from, all + to);
    }
}

int fl_btrfs_usage(int fd, uint64_t transid, struct fl_btrfs_usage *ret, struct fl_error *err)
{
    cleanup_cursor struct cursor c = { 0 };
    struct tally t = { .transid = transid };
    int r;

    if (cursor_open(&c, fd, 0, BTRFS_FIRST_FREE_OBJECTID, BTRFS_LAST_FREE_OBJECTID,
                    BTRFS_INODE_ITEM_KEY, UINT8_MAX, err) < 0)
        return -1;
    c.args->key.min_transid = transid + 1;
    while ((r = cursor_next(&c, err)) > 0)
        if (add_item(&t, &c, err) < 0)
            break;
    if (r == 0) {
        count_extents(&t);
        *ret = t.usage;
    }
    fl_buf_free(&t.references);
    return r == 0 ? 0 : -1;
}
