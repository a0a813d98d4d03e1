#include "fl_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "fl_sys.h"

#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define BENEATH (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
#define OWNER_ALL 0700

int fl_path_init(struct fl_path *p, int root, struct fl_error *err)
{
    memset(p, 0, sizeof(*p));
    p->root_fd = openat(root, ".", OPEN_DIR);
    if (p->root_fd < 0)
        return fl_error_os(err, errno, "openat", NULL, 0);
    p->has_openat2 = fl_sys_has_openat2();
    p->takes_permission = !fl_sys_overrides_permissions();
    return fl_seen_init(&p->seen, err);
}

static void close_all(struct fl_path *p)
{
    for (uint32_t i = 0; i < p->open_count; i++) {
        close(p->dirs[p->open[i]].fd);
        p->dirs[p->open[i]].fd = -1;
    }
    p->open_count = 0;
}

void fl_path_free(struct fl_path *p)
{
    close_all(p);
    if (p->root_fd >= 0)
        close(p->root_fd);
    p->root_fd = -1;
    free(p->dirs);
    p->dirs = NULL;
    fl_seen_free(&p->seen);
    fl_buf_free(&p->names);
    fl_buf_free(&p->rest);
    fl_buf_free(&p->last);
    fl_buf_free(&p->scratch);
}

/* ---- numbers ---------------------------------------------------------- */

static int add_dir(struct fl_path *p, uint32_t parent, const char *name, size_t len, int fd, const struct stat *st,
                   struct fl_error *err)
{
    struct fl_dir *d;
    uint64_t off;

    if (p->count == p->cap) {
        uint32_t cap = p->cap ? p->cap * 2 : 64;

        d = cap > p->cap ? realloc(p->dirs, cap * sizeof(*d)) : NULL;
        if (d == NULL)
            return fl_error_memory(err);
        p->dirs = d;
        p->cap = cap;
    }
    if (fl_buf_add(&p->names, name, len, &off, err) < 0 || fl_buf_add(&p->names, "", 1, NULL, err) < 0)
        return -1;
    d = &p->dirs[p->count++];
    *d = (struct fl_dir){
        .dev = st->st_dev, .ino = st->st_ino, .name_off = off, .parent = parent, .fd = fd, .flags = FL_DIR_TIMES,
        .mtime_sec = st->st_mtim.tv_sec, .mtime_nsec = (uint32_t)st->st_mtim.tv_nsec,
        .uid = st->st_uid, .gid = st->st_gid, .mode = st->st_mode & 07777,
    };
    return 0;
}

/* Makes a directory usable and remembers to undo that. */
static int take_permission(struct fl_dir *d, int fd, mode_t first_mode, struct fl_error *err)
{
    if (first_mode != 0) {
        d->mode = first_mode & 07777;
    } else if ((d->mode & OWNER_ALL) == OWNER_ALL || d->uid != geteuid()) {
        return 0;
    } else if (fchmod(fd, d->mode | OWNER_ALL) < 0) {
        return fl_error_os(err, errno, "fchmod", NULL, 0);
    }
    d->final_mode = d->mode;
    d->flags |= FL_DIR_MODE;
    return 0;
}

int fl_path_reset(struct fl_path *p, struct fl_error *err)
{
    struct stat st;

    close_all(p);
    fl_seen_clear(&p->seen);
    p->count = 0;
    p->names.len = 0;
    p->last_valid = false;
    if (fstat(p->root_fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    if (add_dir(p, 0, "", 0, p->root_fd, &st, err) < 0)
        return -1;
    return p->takes_permission ? take_permission(&p->dirs[0], p->root_fd, 0, err) : 0;
}

void fl_path_spread_gone(struct fl_path *p)
{
    for (uint32_t i = 1; i < p->count; i++) /* a parent has a lower number */
        p->dirs[i].flags |= p->dirs[p->dirs[i].parent].flags & FL_DIR_GONE;
}

bool fl_path_is_gone(const struct fl_path *p, uint32_t dir)
{
    for (; dir != 0; dir = p->dirs[dir].parent)
        if (p->dirs[dir].flags & FL_DIR_GONE)
            return true;
    return false;
}

void fl_path_forget(struct fl_path *p, uint32_t dir, const char *name, size_t len)
{
    struct fl_seen_slot *slot = fl_seen_find(&p->seen, dir, name, len);

    p->last_valid = false;
    if (slot == NULL)
        return;
    if (slot->dir != 0)
        p->dirs[slot->dir].flags |= FL_DIR_GONE;
    slot->dir = 0;
    slot->flags &= ~(FL_SEEN_MADE | FL_SEEN_LEFT);
}

/* ---- descriptors ------------------------------------------------------ */

/* The directory's fd stays open for a while; the one not used for longest is closed for it. */
static void keep_open(struct fl_path *p, uint32_t dir, int fd)
{
    uint32_t slot = 0;

    if (p->open_count < FL_PATH_OPEN_MAX) {
        slot = p->open_count++;
    } else {
        for (uint32_t i = 1; i < FL_PATH_OPEN_MAX; i++)
            if (p->dirs[p->open[i]].last_used < p->dirs[p->open[slot]].last_used)
                slot = i;
        close(p->dirs[p->open[slot]].fd);
        p->dirs[p->open[slot]].fd = -1;
    }
    p->open[slot] = dir;
    p->dirs[dir].fd = fd;
    p->dirs[dir].last_used = ++p->clock;
}

static const char *name_of(const struct fl_path *p, uint32_t dir)
{
    return (const char *)p->names.data + p->dirs[dir].name_off;
}

/* The numbers from the nearest open directory above `dir` down to it, in scratch, lowest first. */
static int list_closed(struct fl_path *p, uint32_t dir, uint32_t *ret_open, size_t *ret_count, struct fl_error *err)
{
    p->scratch.len = 0;
    for (; p->dirs[dir].fd < 0; dir = p->dirs[dir].parent)
        if (fl_buf_add(&p->scratch, &dir, sizeof(dir), NULL, err) < 0)
            return -1;
    *ret_open = dir;
    *ret_count = p->scratch.len / sizeof(dir);
    return 0;
}

static uint32_t closed_at(const struct fl_path *p, size_t i)
{
    uint32_t dir;

    memcpy(&dir, p->scratch.data + i * sizeof(dir), sizeof(dir));
    return dir;
}

/* In one call, when the names make a path short enough. -1 and errno; ENAMETOOLONG when they do not. */
static int open_at_once(const struct fl_path *p, int above, size_t count)
{
    char path[PATH_MAX];
    size_t len = 0;

    while (count-- > 0) {
        const char *name = name_of(p, closed_at(p, count));
        size_t n = strlen(name);

        if (n + 2 > sizeof(path) - len) {
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(path + len, name, n);
        len += n;
        path[len++] = '/';
    }
    path[len - 1] = '\0';
    return fl_sys_openat2(above, path, OPEN_DIR, 0, BENEATH);
}

static int open_by_steps(const struct fl_path *p, int above, size_t count)
{
    cleanup_fd int fd = -1;

    while (count-- > 0) {
        int next = openat(fd < 0 ? above : fd, name_of(p, closed_at(p, count)), OPEN_DIR);

        if (next < 0)
            return -1;
        if (fd >= 0)
            close(fd);
        fd = next;
    }
    return fl_steal_fd(&fd);
}

static bool is_same(const struct fl_dir *d, int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_dev == d->dev && st.st_ino == d->ino;
}

/* Takes fd over when it is the directory. */
static int accept_fd(struct fl_path *p, uint32_t dir, int fd, struct fl_error *err)
{
    cleanup_fd int given = fd;

    if (fd < 0)
        return fl_error_os(err, errno, "openat", NULL, 0);
    if (!is_same(&p->dirs[dir], fd))
        return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "a directory was replaced by another process");
    keep_open(p, dir, fl_steal_fd(&given));
    return fd;
}

/* From a child that is still open: ".." is trusted only when it is the very directory. */
static bool open_from_child(struct fl_path *p, uint32_t dir)
{
    for (uint32_t i = 0; i < p->open_count; i++) {
        cleanup_fd int fd = -1;

        if (p->dirs[p->open[i]].parent != dir)
            continue;
        fd = openat(p->dirs[p->open[i]].fd, "..", OPEN_DIR);
        if (fd >= 0 && is_same(&p->dirs[dir], fd)) {
            keep_open(p, dir, fl_steal_fd(&fd));
            return true;
        }
    }
    return false;
}

static int open_from_above(struct fl_path *p, uint32_t dir, struct fl_error *err)
{
    uint32_t open;
    size_t count;
    int fd = -1;

    if (list_closed(p, dir, &open, &count, err) < 0)
        return -1;
    errno = ENAMETOOLONG;
    if (count > 1 && p->has_openat2)
        fd = open_at_once(p, p->dirs[open].fd, count);
    if (fd < 0 && errno == ENAMETOOLONG)
        fd = open_by_steps(p, p->dirs[open].fd, count);
    return accept_fd(p, dir, fd, err);
}

/* Siblings come together, so the parent is opened for good, too. */
static int open_closed(struct fl_path *p, uint32_t dir, struct fl_error *err)
{
    uint32_t parent = p->dirs[dir].parent;

    if (open_from_child(p, dir))
        return 0;
    if (p->dirs[parent].fd < 0 && !open_from_child(p, parent) && open_from_above(p, parent, err) < 0)
        return -1;
    return accept_fd(p, dir, openat(p->dirs[parent].fd, name_of(p, dir), OPEN_DIR), err);
}

int fl_path_fd(struct fl_path *p, uint32_t dir, struct fl_error *err)
{
    if (p->dirs[dir].fd < 0 && open_closed(p, dir, err) < 0)
        return -1;
    p->dirs[dir].last_used = ++p->clock;
    return p->dirs[dir].fd;
}

int fl_path_find(struct fl_path *p, uint32_t dir, int *ret_fd, struct fl_error *err)
{
    *ret_fd = fl_path_fd(p, dir, err);
    if (*ret_fd >= 0)
        return 1;
    if (err->kind == FL_ERR_CHANGED)
        return 0;
    return err->kind == FL_ERR_OS && (err->errnum == ENOENT || err->errnum == ENOTDIR || err->errnum == ELOOP) ? 0 : -1;
}

/* ---- walking ---------------------------------------------------------- */

/* Opens a directory below an open one; an owner without permission on his directory takes it. */
static int open_child(struct fl_path *p, int dir, const char *name, struct stat *st, mode_t *ret_mode)
{
    int fd = openat(dir, name, OPEN_DIR);

    if (fd < 0 && errno == EACCES && p->takes_permission) {
        if (fstatat(dir, name, st, AT_SYMLINK_NOFOLLOW) < 0 || fl_sys_chmod_nofollow(dir, name, OWNER_ALL) < 0) {
            errno = EACCES;
            return -1;
        }
        *ret_mode = st->st_mode;
        fd = openat(dir, name, OPEN_DIR);
    }
    return fd;
}

static int meet(struct fl_path *p, uint32_t dir, const char *name, size_t len, int fd, mode_t first_mode,
                struct fl_error *err)
{
    struct fl_seen_slot *slot;
    struct stat st;
    uint32_t number = p->count;

    if (fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    slot = fl_seen_get(&p->seen, dir, name, len, err);
    if (slot == NULL || add_dir(p, dir, name, len, -1, &st, err) < 0)
        return -1;
    slot->dir = number;
    p->dirs[number].flags |= p->dirs[dir].flags & FL_DIR_CLEAN;
    return p->takes_permission ? take_permission(&p->dirs[number], fd, first_mode, err) : 0;
}

int fl_path_enter(struct fl_path *p, uint32_t dir, const char *name, size_t len, uint32_t *ret_dir,
                  struct fl_error *err)
{
    struct fl_seen_slot *slot = fl_seen_find(&p->seen, dir, name, len);
    mode_t first_mode = 0;
    struct stat st;
    int above;
    cleanup_fd int fd = -1;

    if (slot != NULL && slot->dir != 0) {
        *ret_dir = slot->dir;
        return 1;
    }
    above = fl_path_fd(p, dir, err);
    if (above < 0)
        return -1;
    fd = open_child(p, above, name, &st, &first_mode);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return 2;
    if (fd < 0)
        return fl_error_os(err, errno, "openat", NULL, 0);
    if (meet(p, dir, name, len, fd, first_mode, err) < 0)
        return -1;
    *ret_dir = p->count - 1;
    keep_open(p, *ret_dir, fl_steal_fd(&fd));
    return 1;
}

int fl_walk_begin(struct fl_path *p, const char *dir, size_t len, struct fl_error *err)
{
    if (p->last_valid && p->last.len == len && (len == 0 || memcmp(p->last.data, dir, len) == 0)) {
        p->at = p->last_dir;
        p->rest.len = p->rest_pos = 0;
        return 0;
    }
    p->last_valid = false;
    p->last.len = p->rest.len = p->rest_pos = 0;
    p->at = 0;
    p->links = 0;
    if (fl_buf_add(&p->last, dir, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&p->rest, dir, len, NULL, err);
}

/* The next component into p->name: 1, 0 at the end, -1. */
static int next_component(struct fl_path *p, struct fl_error *err)
{
    const uint8_t *s, *end = p->rest.data + p->rest.len, *slash;

    while (p->rest_pos < p->rest.len && p->rest.data[p->rest_pos] == '/')
        p->rest_pos++;
    if (p->rest_pos == p->rest.len)
        return 0;
    s = p->rest.data + p->rest_pos;
    slash = memchr(s, '/', (size_t)(end - s));
    if (slash == NULL)
        slash = end;
    p->name_len = (uint32_t)(slash - s);
    if (p->name_len >= sizeof(p->name))
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "a symbolic link leads to a name longer than 255 bytes");
    memcpy(p->name, s, p->name_len);
    p->name[p->name_len] = '\0';
    return 1;
}

/* Puts the link's target in front of what is left after it. */
static int expand(struct fl_path *p, const char *target, size_t len, struct fl_error *err)
{
    size_t left;

    if (++p->links > FL_PATH_LINKS_MAX)
        return fl_error_set(err, FL_ERR_UNSAFE, NULL, 0, "too many symbolic links in the path");
    p->rest_pos += p->name_len;
    left = p->rest.len - p->rest_pos;
    if (fl_buf_reserve(&p->rest, len, err) < 0)
        return -1;
    memmove(p->rest.data + len, p->rest.data + p->rest_pos, left);
    memcpy(p->rest.data, target, len);
    p->rest.len = len + left;
    p->rest_pos = 0;
    if (target[0] == '/')
        p->at = 0;
    return 0;
}

/* p->name in p->at is no directory: 1 = a link, now expanded; 0 = something else. */
static int follow(struct fl_path *p, struct fl_error *err)
{
    char target[PATH_MAX];
    int fd = fl_path_fd(p, p->at, err);
    ssize_t n;

    if (fd < 0)
        return -1;
    n = readlinkat(fd, p->name, target, sizeof(target));
    if (n < 0)
        return errno == EINVAL ? 0 : fl_error_os(err, errno, "readlinkat", NULL, 0);
    return expand(p, target, (size_t)n, err) < 0 ? -1 : 1;
}

static int step_into(struct fl_path *p, struct fl_error *err)
{
    uint32_t child = 0;
    int r = fl_path_enter(p, p->at, p->name, p->name_len, &child, err);

    switch (r) {
    case 0:
        return FL_WALK_MISSING;
    case 1:
        p->at = child;
        p->rest_pos += p->name_len;
        return FL_WALK_DONE;
    case 2:
        r = follow(p, err);
        return r == 0 ? FL_WALK_BLOCKED : r < 0 ? -1 : FL_WALK_DONE;
    default:
        return -1;
    }
}

int fl_walk_next(struct fl_path *p, struct fl_error *err)
{
    int r;

    while ((r = next_component(p, err)) > 0) {
        if (strcmp(p->name, ".") == 0 || strcmp(p->name, "..") == 0) {
            p->at = p->name_len == 2 ? p->dirs[p->at].parent : p->at;
            p->rest_pos += p->name_len;
            continue;
        }
        r = step_into(p, err);
        if (r != FL_WALK_DONE)
            return r;
    }
    if (r < 0)
        return -1;
    p->last_dir = p->at;
    p->last_valid = true;
    return FL_WALK_DONE;
}
