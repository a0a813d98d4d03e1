#include "fl_attrs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

#include "fl_sys.h"

#define XATTR_LIST_START 1024

/* Umask without changing it (umask(2) is process-wide): /proc, or "assume the worst". */
static mode_t read_umask(void)
{
    char buf[1024];
    cleanup_fd int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);
    const char *at;

    if (n <= 0)
        return 0777;
    buf[n] = '\0';
    at = strstr(buf, "\nUmask:");
    return at == NULL ? 0777 : (mode_t)strtoul(at + 7, NULL, 8);
}

void fl_attrs_init(struct fl_attrs *a)
{
    a->uid = geteuid();
    a->gid = getegid();
    a->umask = read_umask();
}

void fl_attrs_free(struct fl_attrs *a)
{
    fl_buf_free(&a->names);
    fl_buf_free(&a->value);
}

mode_t fl_attrs_create_mode(const struct fl_attrs *a, const struct stat *st)
{
    mode_t mode = st->st_mode & 07777;

    return (mode & (07000 | a->umask)) == 0 ? mode : 0;
}

int fl_attrs_mkdir(const struct fl_attrs *a, int dir, const char *name, struct fl_error *err)
{
    if (mkdirat(dir, name, 0700) < 0)
        return fl_error_os(err, errno, "mkdir", NULL, 0);
    if ((a->umask & 0700) != 0 && fchmodat(dir, name, 0700, 0) < 0)
        return fl_error_os(err, errno, "chmod", NULL, 0);
    return 0;
}

/* Aliases XFS shows for the POSIX ACLs that are listed under their own names, too. */
static bool is_alias(const char *name)
{
    return strcmp(name, "trusted.SGI_ACL_FILE") == 0 || strcmp(name, "trusted.SGI_ACL_DEFAULT") == 0;
}

static bool is_overlay(const char *name)
{
    return strncmp(name, "trusted.overlay.", 16) == 0 || strncmp(name, "user.overlay.", 13) == 0;
}

/* An object for the xattr calls: an open file, or a name below an open directory. */
struct object {
    int fd;
    const char *name;
};

static ssize_t object_list(struct object o, char *buf, size_t size)
{
    return o.name == NULL ? flistxattr(o.fd, buf, size) : fl_sys_listxattrat(o.fd, o.name, buf, size);
}

static ssize_t object_get(struct object o, const char *name, void *buf, size_t size)
{
    return o.name == NULL ? fgetxattr(o.fd, name, buf, size) : fl_sys_getxattrat(o.fd, o.name, name, buf, size);
}

static int object_set(struct object o, const char *name, const void *buf, size_t size)
{
    return o.name == NULL ? fsetxattr(o.fd, name, buf, size, 0)
                          : fl_sys_setxattrat(o.fd, o.name, name, buf, size, 0);
}

/* Reads all names into a->names; a file system without xattrs has none. */
static int list_names(struct fl_attrs *a, struct object src, struct fl_error *err)
{
    ssize_t n;

    a->names.len = 0;
    if (a->names.cap == 0 && fl_buf_reserve(&a->names, XATTR_LIST_START, err) < 0)
        return -1;
    for (;;) {
        n = object_list(src, (char *)a->names.data, a->names.cap);
        if (n >= 0)
            break;
        if (errno == EOPNOTSUPP || errno == ENOENT) /* ENOENT: no /proc to name a symlink by */
            n = 0;
        else if (errno != ERANGE)
            return fl_error_os(err, errno, "listxattr", NULL, 0);
        else if (fl_buf_reserve(&a->names, a->names.cap * 2, err) < 0)
            return -1;
        if (n == 0)
            break;
    }
    a->names.len = (size_t)n;
    return 0;
}

/* 1 = value read, 0 = the attribute is gone. */
static int read_value(struct fl_attrs *a, struct object src, const char *name, struct fl_error *err)
{
    ssize_t n;

    a->value.len = 0;
    if (a->value.cap == 0 && fl_buf_reserve(&a->value, XATTR_LIST_START, err) < 0)
        return -1;
    while ((n = object_get(src, name, a->value.data, a->value.cap)) < 0) {
        if (errno == ENODATA || errno == EOPNOTSUPP)
            return 0;
        if (errno != ERANGE)
            return fl_error_os(err, errno, "getxattr", NULL, 0);
        if (fl_buf_reserve(&a->value, a->value.cap * 2, err) < 0)
            return -1;
    }
    a->value.len = (size_t)n;
    return 1;
}

static bool is_user(const char *name)
{
    return strncmp(name, "user.", 5) == 0;
}

static const char *names_end(const struct fl_attrs *a)
{
    return (const char *)a->names.data + a->names.len;
}

static bool has_user_xattrs(const struct fl_attrs *a)
{
    for (const char *name = (const char *)a->names.data; name < names_end(a); name += strlen(name) + 1)
        if (is_user(name))
            return true;
    return false;
}

static int copy_xattr(struct fl_attrs *a, struct object src, struct object dst, const char *name, struct fl_error *err)
{
    int got = read_value(a, src, name, err);

    if (got <= 0 || object_set(dst, name, a->value.data, a->value.len) == 0)
        return got < 0 ? -1 : 0;
    if (errno != EPERM && errno != EOPNOTSUPP && errno != EACCES && errno != ENOENT)
        return fl_error_os(err, errno, "setxattr", NULL, 0);
    a->lost_xattrs++;
    return 0;
}

/* Of the names that list_names has read: those of users, or all others. */
static int copy_xattrs(struct fl_attrs *a, struct object src, struct object dst, bool user, struct fl_error *err)
{
    for (const char *name = (const char *)a->names.data; name < names_end(a); name += strlen(name) + 1) {
        if (is_user(name) != user || is_alias(name) || (a->skip_overlay && is_overlay(name)))
            continue;
        if (copy_xattr(a, src, dst, name, err) < 0)
            return -1;
    }
    return 0;
}

/* EINVAL: an id that the user namespace does not map. */
static bool owner_refused(int errnum)
{
    return errnum == EPERM || errnum == EINVAL;
}

static bool owner_differs(const struct fl_attrs *a, const struct stat *st)
{
    return st->st_uid != a->uid || st->st_gid != a->gid;
}

/* user.* needs the permission to write, which the final mode may not give: so it comes first, and a mode that was
 * created without it is opened up for the moment. */
static int copy_user_xattrs(struct fl_attrs *a, struct object src, struct object dst, mode_t *mode,
                            struct fl_error *err)
{
    if (!has_user_xattrs(a))
        return 0;
    if ((*mode & 0200) == 0) {
        *mode = 0700;
        if (fchmod(dst.fd, *mode) < 0)
            return fl_error_os(err, errno, "fchmod", NULL, 0);
    }
    return copy_xattrs(a, src, dst, true, err);
}

int fl_attrs_copy_fd(struct fl_attrs *a, int src, const struct stat *st, int dst, mode_t created, struct fl_error *err)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    struct object from = {src, NULL}, to = {dst, NULL};
    mode_t mode = st->st_mode & 07777;

    if (owner_differs(a, st) && fchown(dst, st->st_uid, st->st_gid) < 0) {
        if (!owner_refused(errno))
            return fl_error_os(err, errno, "fchown", NULL, 0);
        a->lost_owners++;
        mode &= 01777;
    }
    if (list_names(a, from, err) < 0 || copy_user_xattrs(a, from, to, &created, err) < 0)
        return -1;
    if (mode != created && fchmod(dst, mode) < 0)
        return fl_error_os(err, errno, "fchmod", NULL, 0);
    if (copy_xattrs(a, from, to, false, err) < 0)
        return -1;
    if (futimens(dst, times) < 0)
        return fl_error_os(err, errno, "futimens", NULL, 0);
    return 0;
}

static int copy_owner_mode_at(struct fl_attrs *a, const struct stat *st, int dir, const char *name, struct fl_error *err)
{
    mode_t mode = st->st_mode & 07777;

    if (owner_differs(a, st) && fchownat(dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0) {
        if (!owner_refused(errno))
            return fl_error_os(err, errno, "fchownat", NULL, 0);
        a->lost_owners++;
        mode &= 01777;
    }
    /* The name is a fresh node in a private directory, so following cannot go astray. */
    if (!S_ISLNK(st->st_mode) && fchmodat(dir, name, mode, 0) < 0)
        return fl_error_os(err, errno, "fchmodat", NULL, 0);
    return 0;
}

int fl_attrs_copy_at(struct fl_attrs *a, int src_dir, const char *src_name, const struct stat *st, int dst_dir,
                     const char *dst_name, struct fl_error *err)
{
    struct timespec times[2] = {st->st_atim, st->st_mtim};
    struct object from = {src_dir, src_name}, to = {dst_dir, dst_name};

    if (copy_owner_mode_at(a, st, dst_dir, dst_name, err) < 0 || list_names(a, from, err) < 0)
        return -1;
    if (copy_xattrs(a, from, to, true, err) < 0 || copy_xattrs(a, from, to, false, err) < 0)
        return -1;
    if (utimensat(dst_dir, dst_name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return fl_error_os(err, errno, "utimensat", NULL, 0);
    return 0;
}

int fl_attrs_make_private(const struct fl_attrs *a, int dir_fd, struct fl_error *err)
{
    struct stat st;

    if (fstat(dir_fd, &st) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    if (st.st_gid != a->gid && fchown(dir_fd, (uid_t)-1, a->gid) < 0 && errno != EPERM)
        return fl_error_os(err, errno, "fchown", NULL, 0);
    (void)fremovexattr(dir_fd, "system.posix_acl_default");
    (void)fremovexattr(dir_fd, "system.posix_acl_access");
    if (fchmod(dir_fd, 0700) < 0)
        return fl_error_os(err, errno, "fchmod", NULL, 0);
    return 0;
}
