#include "fl_pick.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

#include "fl_buf.h"
#include "fl_open.h"
#include "fl_walk.h"

#define PARENT_FLAGS (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct pick {
    struct fl_source source;
    int root_fd;
    struct fl_pick_keys keys;
    size_t at;               /* of the next key                                 */
    uint32_t delivered;
    struct fl_xattr_reader xattr;

    struct fl_buf dir;       /* the directory that dir_fd is                    */
    int dir_fd;              /* -1: there is none                               */
    bool dir_known;
    struct fl_buf work;      /* a path that may be written to                   */

    struct fl_source *below; /* the walk of a key with a slash, or NULL         */
    const char *prefix;      /* that key                                        */
    size_t prefix_len;

    struct fl_entry *entries;
    uint32_t count;
    struct fl_buf heap;
};

/* ---- keys ---- */

static int check_keys(const struct fl_pick_keys *k, struct fl_error *err)
{
    const char *key = k->data, *end = k->data + k->len, *tree = NULL;

    if (k->len == 0 || end[-1] != '\0' || *key != '\0')
        return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "the first key must be the root");
    for (const char *next = key + 1; next < end; key = next, next += strlen(next) + 1) {
        size_t len = strlen(key);

        if (strcmp(key, next) >= 0)
            return fl_error_set(err, FL_ERR_USAGE, next, strlen(next), "key out of order");
        if (*next == '/')
            return fl_error_set(err, FL_ERR_USAGE, next, strlen(next), "key is not relative");
        if (len != 0 && key[len - 1] == '/')
            tree = key;
        if (tree != NULL && strncmp(tree, next, strlen(tree)) == 0)
            return fl_error_set(err, FL_ERR_USAGE, next, strlen(next), "key below another");
    }
    return 0;
}

/* ---- one path ---- */

static bool is_absent(int errnum)
{
    return errnum == ENOENT || errnum == ENOTDIR || errnum == ELOOP;
}

/* A new descriptor of a directory; -1 with err untouched when there is none, -2 failed. */
static int open_directory(struct pick *p, const char *path, size_t len, struct fl_error *err)
{
    int fd;

    p->work.len = 0;
    if (fl_buf_add(&p->work, path, len, NULL, err) < 0 ||
        fl_buf_add(&p->work, "", 1, NULL, err) < 0)
        return -2;
    fd = fl_open_beneath(p->root_fd, (char *)p->work.data, len, PARENT_FLAGS);
    if (fd >= 0)
        return fd;
    if (is_absent(-fd))
        return -1;
    fl_error_os(err, -fd, "open", path, len);
    return -2;
}

/* Makes dir_fd the directory of a path. */
static int enter(struct pick *p, const char *dir, size_t len, struct fl_error *err)
{
    int fd;

    if (p->dir_known && len == p->dir.len && (len == 0 || memcmp(dir, p->dir.data, len) == 0))
        return 0;
    fd = len == 0 ? openat(p->root_fd, ".", PARENT_FLAGS) : open_directory(p, dir, len, err);
    if (len == 0 && fd < 0)
        return fl_error_os(err, errno, "open", NULL, 0);
    if (fd == -2)
        return -1;
    if (p->dir_fd >= 0)
        close(p->dir_fd);
    p->dir_fd = fd;
    p->dir_known = true;
    p->dir.len = 0;
    return fl_buf_add(&p->dir, dir, len, NULL, err);
}

/* 0 also when it is not there. */
static int add_entry(struct pick *p, int fd, const char *path, const char *name,
                     struct fl_error *err)
{
    struct fl_entry *e = &p->entries[p->count];

    memset(e, 0, sizeof(*e));
    e->path_len = (uint32_t)strlen(path);
    if (fl_buf_add(&p->heap, path, e->path_len, &e->path_off, err) < 0)
        return -1;
    if (fl_walk_read(&p->xattr, &p->heap, fd, name, e, err) < 0) {
        p->heap.len = e->path_off;
        fl_error_path(err, path, e->path_len);
        return err->kind == FL_ERR_OS && is_absent(err->errnum) ? 0 : -1;
    }
    p->count++;
    return 0;
}

static int take_root(struct pick *p, struct fl_error *err)
{
    cleanup_fd int fd = openat(p->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return fl_error_os(err, errno, "open", NULL, 0);
    return add_entry(p, fd, "", "", err);
}

static int take_path(struct pick *p, const char *key, struct fl_error *err)
{
    const char *slash = strrchr(key, '/');

    if (enter(p, key, slash == NULL ? 0 : (size_t)(slash - key), err) < 0)
        return -1;
    if (p->dir_fd < 0)
        return 0;
    return add_entry(p, p->dir_fd, key, slash == NULL ? key : slash + 1, err);
}

/* ---- all below a directory ---- */

static int start_below(struct pick *p, const char *key, size_t len, struct fl_error *err)
{
    int fd = open_directory(p, key, len - 1, err);

    if (fd < 0)
        return fd == -1 ? 0 : -1;
    if (p->dir_fd >= 0)
        close(p->dir_fd);
    p->dir_fd = fd; /* the walk needs it open */
    p->dir_known = false;
    p->prefix = key;
    p->prefix_len = len;
    p->below = fl_walk_open(fd, p->xattr.policy, false, NULL, err);
    return p->below == NULL ? -1 : 0;
}

static int copy_below(struct pick *p, const struct fl_batch *b, uint32_t i, struct fl_error *err)
{
    const struct fl_entry *from = &b->entries[i];
    struct fl_entry *e = &p->entries[p->count];
    uint64_t off;

    *e = *from;
    if (fl_buf_add(&p->heap, p->prefix, p->prefix_len, &off, err) < 0 ||
        fl_buf_add(&p->heap, b->heap + from->path_off,
                   (size_t)from->path_len + from->link_len + from->xattr_len, NULL, err) < 0)
        return -1;
    e->path_off = off;
    e->path_len += (uint32_t)p->prefix_len;
    p->count++;
    return 0;
}

/* A batch of the walk, which has at most FL_WALK_BATCH entries, without the directory itself. */
static int fill_below(struct pick *p, struct fl_error *err)
{
    struct fl_batch b;

    if (fl_source_next(p->below, &b, err) < 0) {
        fl_error_path(err, p->prefix, p->prefix_len);
        return -1;
    }
    for (uint32_t i = 0; i < b.count; i++)
        if (b.entries[i].path_len != 0 && copy_below(p, &b, i, err) < 0)
            return -1;
    if (b.count == 0) {
        fl_source_free(p->below);
        p->below = NULL;
    }
    return 0;
}

/* ---- batches ---- */

static int take_key(struct pick *p, struct fl_error *err)
{
    const char *key = p->keys.data + p->at;
    size_t len = strlen(key);

    p->at += len + 1;
    if (len == 0)
        return take_root(p, err);
    return key[len - 1] == '/' ? start_below(p, key, len, err) : take_path(p, key, err);
}

/* The walk of a tree gets batches of its own. */
static int fill(struct pick *p, struct fl_error *err)
{
    p->count = 0;
    p->heap.len = 0;
    while (p->count == 0 && (p->below != NULL || p->at < p->keys.len)) {
        while (p->below == NULL && p->at < p->keys.len && p->count < FL_WALK_BATCH &&
               p->heap.len < FL_WALK_BATCH_BYTES)
            if (take_key(p, err) < 0)
                return -1;
        if (p->below != NULL && p->count == 0 && fill_below(p, err) < 0)
            return -1;
    }
    return 0;
}

static int next(struct fl_source *source, struct fl_batch *ret, struct fl_error *err)
{
    struct pick *p = (struct pick *)source;

    if (fl_buf_reserve(&p->heap, 1, err) < 0 || fill(p, err) < 0)
        return -1;
    ret->entries = p->entries;
    ret->heap = p->heap.data;
    ret->count = p->count;
    ret->first = p->delivered;
    p->delivered += p->count;
    return 0;
}

/* ---- life ---- */

static void free_pick(struct fl_source *source)
{
    struct pick *p = (struct pick *)source;

    fl_source_free(p->below);
    if (p->dir_fd >= 0)
        close(p->dir_fd);
    fl_xattr_reader_free(&p->xattr);
    fl_buf_free(&p->dir);
    fl_buf_free(&p->work);
    fl_buf_free(&p->heap);
    free(p->entries);
    free(p);
}

struct fl_source *fl_pick_open(int root_fd, const struct fl_pick_keys *keys,
                               enum fl_xattr_policy policy, struct fl_error *err)
{
    struct pick *p;

    if (check_keys(keys, err) < 0)
        return NULL;
    p = calloc(1, sizeof(*p));
    if (p != NULL)
        p->entries = malloc(FL_WALK_BATCH * sizeof(*p->entries));
    if (p == NULL || p->entries == NULL) {
        free(p);
        fl_error_memory(err);
        return NULL;
    }
    p->source.next = next;
    p->source.free = free_pick;
    p->root_fd = root_fd;
    p->keys = *keys;
    p->xattr.policy = policy;
    p->dir_fd = -1;
    return &p->source;
}
