#include "fl_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "fl_open.h"
#include "fl_sys.h"

#define LIST_BYTES (64u << 10)

/* ---- directories ------------------------------------------------------------------------ */

static int add_part(struct fl_overlay_dir *d, uint32_t layer, const void *path,
                    size_t len, struct fl_error *err)
{
    struct fl_overlay_part part = {
        .layer = layer,
        .fd = -1,
        .path_off = (uint32_t)d->paths.len,
        .path_len = (uint32_t)len,
    };

    if (d->paths.len + len > UINT32_MAX)
        return fl_error_set(err, FL_ERR_LIMIT, NULL, 0, "directory paths too long: compare the mounted overlay");
    if (fl_buf_add(&d->paths, path, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&d->parts, &part, sizeof(part), NULL, err);
}

static void clear_dir(struct fl_overlay_dir *d)
{
    fl_overlay_dir_close(d);
    d->parts.len = d->paths.len = 0;
}

void fl_overlay_dir_close(struct fl_overlay_dir *d)
{
    for (uint32_t i = 0; i < fl_overlay_parts(d); i++) {
        struct fl_overlay_part *p = fl_overlay_part(d, i);

        if (p->fd >= 0)
            close(p->fd);
        p->fd = -1;
    }
}

void fl_overlay_dir_free(struct fl_overlay_dir *d)
{
    fl_overlay_dir_close(d);
    fl_buf_free(&d->parts);
    fl_buf_free(&d->paths);
}

void fl_overlay_node_free(struct fl_overlay_node *n)
{
    fl_buf_free(&n->data_path);
    fl_buf_free(&n->xattrs);
    fl_buf_free(&n->link);
    fl_overlay_dir_free(&n->dir);
}

void fl_overlay_free(struct fl_overlay *o)
{
    fl_marks_free(&o->marks);
    fl_buf_free(&o->where);
    fl_buf_free(&o->asked);
    fl_buf_free(&o->scratch);
}

static const uint8_t *part_path(const struct fl_overlay_dir *d,
                                const struct fl_overlay_part *p)
{
    return d->paths.data + p->path_off;
}

bool fl_overlay_same(const struct fl_overlay_dir *a, uint32_t a_first,
                     const struct fl_overlay_dir *b, uint32_t b_first)
{
    uint32_t n = fl_overlay_parts(a) - a_first;

    if (fl_overlay_parts(b) - b_first != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct fl_overlay_part *x = fl_overlay_part(a, a_first + i);
        const struct fl_overlay_part *y = fl_overlay_part(b, b_first + i);

        if (x->layer != y->layer || x->path_len != y->path_len ||
            (x->path_len != 0 &&
             memcmp(part_path(a, x), part_path(b, y), x->path_len) != 0))
            return false;
    }
    return true;
}

int fl_overlay_append(struct fl_overlay_dir *dst, const struct fl_overlay_dir *src,
                      uint32_t first, struct fl_error *err)
{
    for (uint32_t i = first; i < fl_overlay_parts(src); i++) {
        const struct fl_overlay_part *p = fl_overlay_part(src, i);

        if (add_part(dst, p->layer, part_path(src, p), p->path_len, err) < 0)
            return -1;
    }
    return 0;
}

int fl_overlay_root(const struct fl_overlay *o, uint32_t first,
                    struct fl_overlay_dir *ret_dir, struct fl_error *err)
{
    for (uint32_t i = first; i < o->count; i++)
        if (add_part(ret_dir, i, "", 0, err) < 0)
            return -1;
    return 0;
}

/* ---- descriptors ------------------------------------------------------------------------ */

/* Opens a path of a layer; access times stay where that is permitted. */
static int open_in_layer(struct fl_overlay *o, uint32_t layer, const uint8_t *path,
                         size_t len, int flags, struct fl_error *err)
{
    int quiet = O_NOATIME, fd;

    for (;;) {
        o->scratch.len = 0;
        if (fl_buf_add(&o->scratch, path, len, NULL, err) < 0 ||
            fl_buf_add(&o->scratch, "", 1, NULL, err) < 0)
            return -1;
        fd = fl_open_beneath(o->roots[layer], (char *)o->scratch.data, len,
                             flags | quiet | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0)
            return fd;
        if (fd != -EPERM || quiet == 0)
            return fl_error_os(err, -fd, "open", path, len);
        quiet = 0;
    }
}

static int part_fd(struct fl_overlay *o, struct fl_overlay_dir *d, uint32_t i,
                   struct fl_error *err)
{
    struct fl_overlay_part *p = fl_overlay_part(d, i);

    if (p->fd < 0)
        p->fd = open_in_layer(o, p->layer, part_path(d, p), p->path_len, O_DIRECTORY, err);
    return p->fd;
}

int fl_overlay_open(struct fl_overlay *o, const struct fl_overlay_node *node,
                    int *ret_fd, struct fl_error *err)
{
    *ret_fd = open_in_layer(o, node->data_layer, node->data_path.data,
                            node->data_path.len, O_NONBLOCK | O_NOCTTY, err);
    return *ret_fd < 0 ? -1 : 0;
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Layout of struct linux_dirent64: ino, off, reclen, type, name. */
static int add_names(const uint8_t *batch, size_t n, struct fl_buf *ret_names,
                     struct fl_error *err)
{
    for (size_t at = 0; at < n;) {
        const char *name = (const char *)batch + at + 19;
        uint16_t reclen;

        memcpy(&reclen, batch + at + 16, 2);
        at += reclen;
        if (!is_dots(name) &&
            fl_buf_add(ret_names, name, strlen(name) + 1, NULL, err) < 0)
            return -1;
    }
    return 0;
}

int fl_overlay_list(struct fl_overlay *o, struct fl_overlay_dir *dir, uint32_t part,
                    struct fl_buf *ret_names, struct fl_error *err)
{
    const struct fl_overlay_part *p = fl_overlay_part(dir, part);
    int fd = part_fd(o, dir, part, err);

    if (fd < 0)
        return -1;
    o->scratch.len = 0;
    if (fl_buf_reserve(&o->scratch, LIST_BYTES, err) < 0)
        return -1;
    for (;;) {
        ssize_t n = fl_sys_getdents64(fd, o->scratch.data, o->scratch.cap);

        if (n < 0)
            return fl_error_os(err, errno, "readdir", part_path(dir, p), p->path_len);
        if (n == 0)
            return 0;
        if (add_names(o->scratch.data, (size_t)n, ret_names, err) < 0)
            return -1;
    }
}

/* ---- looking up: one component of one layer --------------------------------------------- */

struct search {
    struct fl_overlay *o;
    struct fl_overlay_node *node;
    const struct fl_overlay_dir *dir; /* NULL once an absolute redirect left it */
    uint32_t next;      /* the next part of dir; without dir: the next layer    */
    uint32_t layer;     /* being searched                                       */
    bool stop;          /* nothing below counts                                 */
    bool metacopy;      /* a regular file was found, its bytes not yet          */
    bool redirected;    /* a redirect was met                                   */
};

enum { ABSENT = 0, PRESENT = 1 };

static bool is_redirect_absolute(const struct fl_overlay *o)
{
    return o->where.len > 0 && o->where.data[0] == '/';
}

/* The part of `where` from `start`, `len` long, is replaced for the layers below. */
static int follow_redirect(struct search *s, size_t start, size_t len,
                           struct fl_error *err)
{
    struct fl_buf *where = &s->o->where, *to = &s->o->marks.redirect;
    size_t tail = start + len;

    if (to->len == 0)
        return 0;
    s->redirected = true;
    if (to->data[0] == '/') {
        s->stop = false;
        start = 0;
    }
    s->o->scratch.len = 0;
    if (fl_buf_add(&s->o->scratch, where->data, start, NULL, err) < 0 ||
        fl_buf_add(&s->o->scratch, to->data, to->len, NULL, err) < 0 ||
        fl_buf_add(&s->o->scratch, where->data + tail, where->len - tail, NULL, err) < 0)
        return -1;
    where->len = 0;
    return fl_buf_add(where, s->o->scratch.data, s->o->scratch.len, NULL, err);
}

static int read_link(struct search *s, int fd, const char *name, struct fl_error *err)
{
    struct fl_buf *link = &s->node->link;
    ssize_t n;

    if (fl_buf_reserve(link, PATH_MAX, err) < 0)
        return -1;
    n = readlinkat(fd, name, (char *)link->data, link->cap);
    if (n < 0)
        return fl_error_os(err, errno, "readlink", name, strlen(name));
    link->len = (size_t)n;
    return 0;
}

/* The topmost object of the name: it gives the attributes. */
static int take_object(struct search *s, int fd, const char *name,
                       const struct stat *st, struct fl_error *err)
{
    struct fl_overlay_node *node = s->node;
    struct fl_buf xattrs = node->xattrs;

    node->found = true;
    node->layer = s->layer;
    node->st = *st;
    node->dropped = s->o->marks.dropped;
    node->xattrs = s->o->marks.visible;
    s->o->marks.visible = xattrs;
    return S_ISLNK(st->st_mode) ? read_link(s, fd, name, err) : 0;
}

static bool is_whiteout(const struct search *s, const struct stat *st)
{
    if (S_ISCHR(st->st_mode))
        return st->st_rdev == makedev(0, 0);
    return S_ISREG(st->st_mode) && st->st_size == 0 && s->o->marks.whiteout;
}

/* One name below fd. `start`, `len`: where it is in o->where. Returns PRESENT
 * when the object counts: the last component of a find, or a directory on the way. */
static int search_component(struct search *s, int fd, const char *name, size_t start,
                            size_t len, struct fl_error *err)
{
    bool last = start + len == s->o->where.len;
    bool top = last && !s->node->found;
    struct stat st;

    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT || errno == ENAMETOOLONG || errno == ENOTDIR
                   ? ABSENT
                   : fl_error_os(err, errno, "stat", name, strlen(name));
    if (fl_marks_read(&s->o->marks, fd, name, top, err) < 0)
        return -1;
    if (is_whiteout(s, &st) || (last && s->metacopy && !S_ISREG(st.st_mode)) ||
        (!S_ISDIR(st.st_mode) && (!last || (!top && !s->metacopy)))) {
        s->stop = true;
        return ABSENT;
    }
    if (top && take_object(s, fd, name, &st, err) < 0)
        return -1;
    if (!S_ISDIR(st.st_mode)) {
        s->metacopy = S_ISREG(st.st_mode) && s->o->marks.metacopy;
        s->stop = !s->metacopy;
        if (s->stop)
            return PRESENT;
    } else if (s->o->marks.opaque == 'y') {
        s->stop = true;
        return PRESENT;
    }
    return follow_redirect(s, start, len, err) < 0 ? -1 : PRESENT;
}

/* ---- one layer -------------------------------------------------------------------------- */

/* Copies the component of `where` at `start` into name; false if it is too long to exist. */
static bool component_at(const struct fl_buf *where, size_t start, char *name,
                         size_t *ret_len)
{
    const uint8_t *from = where->data + start;
    const uint8_t *slash = memchr(from, '/', where->len - start);
    size_t len = slash == NULL ? where->len - start : (size_t)(slash - from);

    if (len > NAME_MAX)
        return false;
    memcpy(name, from, len);
    name[len] = '\0';
    *ret_len = len;
    return true;
}

/* From the layer's root through every component. The place is counted from the
 * end of `where`, because a redirect on the way exchanges what lies before. */
static int search_absolute(struct search *s, struct fl_error *err)
{
    struct fl_buf *where = &s->o->where;
    cleanup_fd int here = -1;
    int at = s->o->roots[s->layer];
    size_t rest = where->len - 1, len;
    char name[NAME_MAX + 1];

    for (;;) {
        int next, r;

        if (!component_at(where, where->len - rest, name, &len))
            return ABSENT;
        r = search_component(s, at, name, where->len - rest, len, err);
        if (r != PRESENT || rest == len)
            return r;
        next = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (next < 0)
            return fl_error_os(err, errno, "open", name, strlen(name));
        if (here >= 0)
            close(here);
        at = here = next;
        rest -= len + 1;
    }
}

static int search_relative(struct search *s, int fd, struct fl_error *err)
{
    char name[NAME_MAX + 1];
    size_t len;

    if (!component_at(&s->o->where, 0, name, &len))
        return ABSENT;
    return search_component(s, fd, name, 0, len, err);
}

/* Notes where in the layer the object is: base/asked. */
static int take_place(struct search *s, const uint8_t *base, size_t base_len,
                      struct fl_error *err)
{
    const struct fl_buf *asked = &s->o->asked;
    size_t skip = asked->data[0] == '/';
    struct fl_buf *path = &s->node->data_path;

    path->len = 0;
    if (skip != 0)
        base_len = 0;
    if (fl_buf_add(path, base, base_len, NULL, err) < 0 ||
        (base_len != 0 && fl_buf_add(path, "/", 1, NULL, err) < 0) ||
        fl_buf_add(path, asked->data + skip, asked->len - skip, NULL, err) < 0)
        return -1;
    s->node->data_layer = s->layer;
    if (!S_ISDIR(s->node->st.st_mode))
        return 0;
    return add_part(&s->node->dir, s->layer, path->data, path->len, err);
}

static int search_part(struct search *s, struct fl_overlay_dir *dir, uint32_t i,
                       struct fl_error *err)
{
    const struct fl_overlay_part *p = fl_overlay_part(dir, i);
    int fd = part_fd(s->o, dir, i, err);
    int r;

    if (fd < 0)
        return -1;
    s->layer = p->layer;
    r = search_relative(s, fd, err);
    return r != PRESENT ? r : take_place(s, part_path(dir, p), p->path_len, err);
}

static int search_root(struct search *s, uint32_t layer, struct fl_error *err)
{
    int r;

    s->layer = layer;
    r = search_absolute(s, err);
    return r != PRESENT ? r : take_place(s, NULL, 0, err);
}

/* ---- all layers ------------------------------------------------------------------------- */

static int search_layers(struct search *s, struct fl_overlay_dir *dir,
                         const struct fl_overlay_node *below, struct fl_error *err)
{
    while (!s->stop) {
        bool was_absolute = is_redirect_absolute(s->o);

        s->o->asked.len = 0;
        if (fl_buf_add(&s->o->asked, s->o->where.data, s->o->where.len, NULL, err) < 0)
            return -1;
        if (s->next >= (s->dir != NULL ? fl_overlay_parts(dir) : s->o->count))
            return 0;
        if ((s->dir != NULL ? search_part(s, dir, s->next, err)
                            : search_root(s, s->next, err)) < 0)
            return -1;
        s->next++;
        if (!was_absolute && is_redirect_absolute(s->o)) {
            s->dir = NULL;
            s->next = s->layer + 1;
        }
        if (below != NULL && s->next == 1 && s->node->found && !s->redirected &&
            S_ISDIR(s->node->st.st_mode)) {
            if (!s->stop && below->found && S_ISDIR(below->st.st_mode))
                return fl_overlay_append(&s->node->dir, &below->dir, 0, err);
            return 0;
        }
    }
    return 0;
}

static void clear_node(struct fl_overlay_node *node)
{
    node->found = false;
    node->dropped = 0;
    node->data_path.len = node->xattrs.len = node->link.len = 0;
    memset(&node->st, 0, sizeof(node->st));
    clear_dir(&node->dir);
}

int fl_overlay_lookup(struct fl_overlay *o, struct fl_overlay_dir *dir,
                      const char *name, const struct fl_overlay_node *below,
                      struct fl_overlay_node *node, struct fl_error *err)
{
    struct search s = {.o = o, .node = node, .dir = dir};

    clear_node(node);
    o->where.len = 0;
    if (fl_buf_add(&o->where, name, strlen(name), NULL, err) < 0 ||
        search_layers(&s, dir, below, err) < 0)
        return -1;
    if (s.metacopy)
        return fl_error_set(err, FL_ERR_UNSAFE, name, strlen(name),
                            "metacopy without data: name every lower directory of the mount");
    return 0;
}

int fl_overlay_root_node(struct fl_overlay *o, struct fl_overlay_dir *root,
                         struct fl_overlay_node *ret_node, struct fl_error *err)
{
    struct search s = {.o = o, .node = ret_node};
    struct stat st;
    int fd;

    clear_node(ret_node);
    if (fl_overlay_parts(root) == 0)
        return 0;
    s.layer = fl_overlay_part(root, 0)->layer;
    fd = part_fd(o, root, 0, err);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", "", 0);
    if (fl_marks_read(&o->marks, fd, ".", true, err) < 0)
        return -1;
    return take_object(&s, fd, ".", &st, err);
}
