#include "fl_node.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "fl_sys.h"

void fl_node_init(struct fl_node *n)
{
    fl_attrs_init(&n->attrs);
    fl_behind_init(&n->behind);
    n->keep_atime = true;
}

void fl_node_free(struct fl_node *n)
{
    fl_attrs_free(&n->attrs);
    fl_copy_free(&n->copy);
    fl_behind_free(&n->behind);
}

int fl_node_open(struct fl_node *n, int dir, const char *name, int flags, int *ret_fd, struct fl_error *err)
{
    int fd = -1;

    flags |= O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    if (n->keep_atime)
        fd = openat(dir, name, flags | O_NOATIME);
    if (fd < 0 && (!n->keep_atime || errno == EPERM)) /* not ours: neither will the next be */
        fd = openat(dir, name, flags);
    if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
        return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "changed its type while it was copied");
    if (fd < 0)
        return fl_error_os(err, errno, "open", NULL, 0);
    *ret_fd = fd;
    return 0;
}

int fl_node_create(struct fl_node *n, int dir, const char *name, const struct stat *st, int *ret_fd,
                   struct fl_error *err)
{
    *ret_fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                     fl_attrs_create_mode(&n->attrs, st));
    return *ret_fd < 0 ? fl_error_os(err, errno, "create", NULL, 0) : 0;
}

/* 1 = the data is shared, 0 = not: there is no overlay, or it cannot be told what is behind. */
static int share_behind(struct fl_node *n, int src, const char *src_name, const struct stat *st, int dst,
                        const char *dst_name, struct fl_error *err)
{
    cleanup_fd int real_src = -1, real_dst = -1;

    if (!n->behind.from_overlay && !n->behind.to_overlay)
        return 0;
    if (!fl_copy_wants_behind(&n->copy, st) ||
        !fl_behind_open(&n->behind, src_name, st, dst_name, dst, &real_src, &real_dst))
        return 0;
    return fl_copy_behind(&n->copy, src, st, dst, real_src, real_dst, err);
}

int fl_node_fill(struct fl_node *n, int src, const char *src_name, const struct stat *st, int dst, const char *dst_name,
                 struct fl_error *err)
{
    int shared = share_behind(n, src, src_name, st, dst, dst_name, err);
    struct stat now;

    if (shared < 0 || (shared == 0 && fl_copy_data(&n->copy, src, st, dst, err) < 0))
        return -1;
    if (fstat(src, &now) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    if (now.st_size != st->st_size || now.st_mtim.tv_sec != st->st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != st->st_mtim.tv_nsec) {
        if (!n->copy.live)
            return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "changed while it was copied");
        n->changed++;
    }
    return fl_attrs_copy_fd(&n->attrs, src, st, dst, fl_attrs_create_mode(&n->attrs, st), err);
}

static int copy_symlink(struct fl_node *n, int src_dir, const char *src_name, int dst_dir, const char *dst_name,
                        struct fl_error *err)
{
    ssize_t len = readlinkat(src_dir, src_name, n->target, sizeof(n->target) - 1);

    if (len < 0 && errno == EINVAL)
        return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "changed its type while it was copied");
    if (len < 0)
        return fl_error_os(err, errno, "readlink", NULL, 0);
    n->target[len] = '\0';
    if (symlinkat(n->target, dst_dir, dst_name) < 0)
        return fl_error_os(err, errno, "symlink", NULL, 0);
    return 0;
}

int fl_node_copy_special(struct fl_node *n, int src_dir, const char *src_name, const struct stat *st, int dst_dir,
                         const char *dst_name, struct fl_error *err)
{
    if (S_ISLNK(st->st_mode)) {
        if (copy_symlink(n, src_dir, src_name, dst_dir, dst_name, err) < 0)
            return -1;
    } else if (mknodat(dst_dir, dst_name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0) {
        return fl_error_os(err, errno, "mknod", NULL, 0);
    }
    return fl_attrs_copy_at(&n->attrs, src_dir, src_name, st, dst_dir, dst_name, err);
}

/* One path of less than PATH_MAX bytes, resolved by the kernel; -ENOSYS where it has no openat2. */
static int open_whole(int root, const char *path, int flags)
{
    int fd = fl_sys_openat2(root, path, flags, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

    return fd < 0 ? -errno : fd;
}

/* Opens the first component of *path below dir and moves *path behind it. */
static int open_component(int dir, const char **path, int flags)
{
    char name[NAME_MAX + 1];
    size_t len = strcspn(*path, "/");
    int fd;

    if (len > NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(name, *path, len);
    name[len] = '\0';
    if (strcmp(name, "..") == 0)
        return -EXDEV;
    *path += len + ((*path)[len] == '/');
    fd = openat(dir, name, flags | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

static int open_stepwise(int root, const char *path, int flags)
{
    cleanup_fd int dir = -1;
    int fd;

    while (*path != '\0') {
        fd = open_component(dir < 0 ? root : dir, &path, flags);
        if (fd < 0)
            return fd;
        if (dir >= 0)
            close(dir);
        dir = fd;
    }
    return fl_steal_fd(&dir);
}

int fl_node_open_beneath(int root, const char *path, int flags, int *ret_fd, struct fl_error *err)
{
    int fd = -ENOSYS;

    flags |= O_DIRECTORY | O_RDONLY | O_CLOEXEC;
    if (*path == '\0')
        path = ".";
    if (strlen(path) < PATH_MAX)
        fd = open_whole(root, path, flags);
    if (fd == -ENOSYS)
        fd = open_stepwise(root, path, flags);
    if (fd == -EPERM && (flags & O_NOATIME))
        return fl_node_open_beneath(root, path, flags & ~O_NOATIME, ret_fd, err);
    if (fd < 0)
        return fl_error_os(err, -fd, "open", path, strlen(path));
    *ret_fd = fd;
    return 0;
}
