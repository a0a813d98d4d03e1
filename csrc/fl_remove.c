#include "fl_remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "fl_sys.h"
#include "fl_work.h"

#define OPEN_LEVELS 8u
#define RECORDS_SIZE (32u << 10)
#define RETRIES 64u /* files that others put into a directory while it is emptied */
#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* Its own name is the last of the names below names_start; the names from there on are its subdirectories. */
struct level {
    dev_t dev;
    ino_t ino;
    size_t names_start;
    int fd; /* -1: deep levels are closed while a child is being emptied */
};

struct record {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

void fl_remove_free(struct fl_remove *r)
{
    fl_buf_free(&r->levels);
    fl_buf_free(&r->names);
    fl_buf_free(&r->records);
}

static size_t depth(const struct fl_remove *r)
{
    return r->levels.len / sizeof(struct level);
}

static struct level *level_at(const struct fl_remove *r, size_t i)
{
    return (struct level *)(void *)r->levels.data + i;
}

/* A name is followed by its length, so that the last one can be found and taken off. */
static int push_name(struct fl_remove *r, const char *name, struct fl_error *err)
{
    uint16_t len = (uint16_t)(strlen(name) + 1);

    if (fl_buf_add(&r->names, name, len, NULL, err) < 0)
        return -1;
    return fl_buf_add(&r->names, &len, sizeof(len), NULL, err);
}

static const char *last_name(const struct fl_remove *r, size_t *ret_start)
{
    uint16_t len;

    memcpy(&len, r->names.data + r->names.len - sizeof(len), sizeof(len));
    *ret_start = r->names.len - sizeof(len) - len;
    return (const char *)r->names.data + *ret_start;
}

static void pop_name(struct fl_remove *r)
{
    size_t start;

    last_name(r, &start);
    r->names.len = start;
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* After EACCES: an owner without permission on a directory of his own takes it. True when that may help. */
static bool take_permission(int dir)
{
    struct stat st;
    bool taken = fstat(dir, &st) == 0 && (st.st_mode & 0700) != 0700 && fchmod(dir, 0700) == 0;

    errno = EACCES;
    return taken;
}

static int unlink_in(int dir, const char *name, int flags)
{
    int r = unlinkat(dir, name, flags);

    return r < 0 && errno == EACCES && take_permission(dir) ? unlinkat(dir, name, flags) : r;
}

static int open_dir(int dir, const char *name)
{
    int fd = openat(dir, name, OPEN_DIR);

    if (fd < 0 && errno == EACCES && take_permission(dir))
        fd = openat(dir, name, OPEN_DIR);
    if (fd >= 0 || errno != EACCES)
        return fd;
    if (fl_sys_chmod_nofollow(dir, name, 0700) < 0) {
        errno = EACCES;
        return -1;
    }
    return openat(dir, name, OPEN_DIR);
}

/* One batch of records; 0 at the end. */
static ssize_t read_records(struct fl_remove *r, int fd, struct fl_error *err)
{
    ssize_t n;

    if (r->records.cap == 0 && fl_buf_reserve(&r->records, RECORDS_SIZE, err) < 0)
        return -1;
    n = fl_sys_getdents64(fd, r->records.data, r->records.cap);
    return n < 0 ? fl_error_os(err, errno, "getdents64", NULL, 0) : n;
}

static struct record *record_at(const struct fl_remove *r, ssize_t at)
{
    return (struct record *)(void *)(r->records.data + at);
}

int fl_remove_list(struct fl_remove *r, int dir, struct fl_buf *ret_names, struct fl_error *err)
{
    ssize_t n;

    if (lseek(dir, 0, SEEK_SET) < 0)
        return fl_error_os(err, errno, "lseek", NULL, 0);
    while ((n = read_records(r, dir, err)) > 0)
        for (ssize_t at = 0; at < n; at += record_at(r, at)->reclen) {
            const char *name = record_at(r, at)->name;

            if (!is_dots(name) && fl_buf_add(ret_names, name, strlen(name) + 1, NULL, err) < 0)
                return -1;
        }
    return n < 0 ? -1 : 0;
}

static int remove_record(struct fl_remove *r, int fd, const struct record *rec, struct fl_error *err)
{
    if (is_dots(rec->name))
        return 0;
    if (rec->type == DT_DIR)
        return push_name(r, rec->name, err);
    if (unlink_in(fd, rec->name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno == EISDIR)
        return push_name(r, rec->name, err);
    return fl_error_os(err, errno, "unlink", NULL, 0);
}

/* Unlinks what is no directory, stacks the names of what is. */
static int scan_level(struct fl_remove *r, int fd, struct fl_error *err)
{
    ssize_t n;

    while ((n = read_records(r, fd, err)) > 0)
        for (ssize_t at = 0; at < n; at += record_at(r, at)->reclen)
            if (fl_work_check(r->stop, err) < 0 || remove_record(r, fd, record_at(r, at), err) < 0)
                return -1;
    return n < 0 ? -1 : 0;
}

/* Takes fd over, also on failure. */
static int push_level(struct fl_remove *r, int fd, struct fl_error *err)
{
    struct level level = {.fd = fd, .names_start = r->names.len};
    struct stat st;

    if (fstat(fd, &st) < 0) {
        fl_error_os(err, errno, "fstat", NULL, 0);
        close(fd);
        return -1;
    }
    level.dev = st.st_dev;
    level.ino = st.st_ino;
    if (fl_buf_add(&r->levels, &level, sizeof(level), NULL, err) < 0) {
        close(fd);
        return -1;
    }
    return scan_level(r, fd, err);
}

int fl_remove_check_mount(int fd, uint64_t mount, struct fl_error *err)
{
    uint64_t here;

    if (fl_sys_mount_id(fd, &here) < 0)
        return fl_error_os(err, errno, "statx", NULL, 0);
    return here == mount ? 0 : fl_error_os(err, EBUSY, "remove a mount point", NULL, 0);
}

/* Opens the last stacked name and makes it the next level. */
static int enter_last(struct fl_remove *r, struct level *top, struct fl_error *err)
{
    size_t start;
    const char *name = last_name(r, &start);
    int fd = open_dir(top->fd, name);

    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        errno = unlink_in(top->fd, name, 0) == 0 ? ENOENT : errno;
    if (fd < 0 && errno == ENOENT) {
        pop_name(r);
        return 0;
    }
    if (fd < 0)
        return fl_error_os(err, errno, "openat", NULL, 0);
    if (fl_remove_check_mount(fd, r->mount, err) < 0) {
        close(fd);
        return -1;
    }
    if (depth(r) > OPEN_LEVELS) {
        close(top->fd);
        top->fd = -1;
    }
    return push_level(r, fd, err);
}

static int reopen_above(struct level *above, int below, struct fl_error *err)
{
    struct stat st;
    cleanup_fd int fd = openat(below, "..", OPEN_DIR);

    if (fd < 0 && errno == EACCES && take_permission(below))
        fd = openat(below, "..", OPEN_DIR);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "openat", NULL, 0);
    if (st.st_dev != above->dev || st.st_ino != above->ino)
        return fl_error_set(err, FL_ERR_CHANGED, NULL, 0, "a directory was moved while it was removed");
    above->fd = fl_steal_fd(&fd);
    return 0;
}

/* The top level is empty: removes it from the one above. Names that turned up meanwhile make it start again. */
static int leave_level(struct fl_remove *r, int outer, struct fl_error *err)
{
    size_t n = depth(r) - 1, start;
    struct level *top = level_at(r, n), *above = n > 0 ? top - 1 : NULL;
    cleanup_fd int fd = top->fd;

    r->levels.len -= sizeof(*top);
    if (above != NULL && above->fd < 0 && reopen_above(above, fd, err) < 0)
        return -1;
    if (unlink_in(above ? above->fd : outer, last_name(r, &start), AT_REMOVEDIR) < 0 && errno != ENOENT) {
        if ((errno != ENOTEMPTY && errno != EEXIST) || ++r->retries > RETRIES)
            return fl_error_os(err, errno, "rmdir", NULL, 0);
        if (above != NULL)
            return 0; /* the name is still stacked */
        if (lseek(fd, 0, SEEK_SET) < 0)
            return fl_error_os(err, errno, "lseek", NULL, 0);
        return push_level(r, fl_steal_fd(&fd), err);
    }
    r->names.len = start;
    return 0;
}

static void close_levels(struct fl_remove *r)
{
    for (size_t i = 0; i < depth(r); i++)
        if (level_at(r, i)->fd >= 0)
            close(level_at(r, i)->fd);
    r->levels.len = r->names.len = 0;
}

static int remove_tree(struct fl_remove *r, int dir, const char *name, int fd, struct fl_error *err)
{
    r->retries = 0;
    if (fl_sys_mount_id(dir, &r->mount) < 0) {
        fl_error_os(err, errno, "statx", NULL, 0);
        close(fd);
        return -1;
    }
    if (fl_remove_check_mount(fd, r->mount, err) < 0 || push_name(r, name, err) < 0) {
        close(fd);
        return -1;
    }
    if (push_level(r, fd, err) < 0)
        return -1;
    while (depth(r) != 0) {
        struct level *top = level_at(r, depth(r) - 1);

        if (fl_work_check(r->stop, err) < 0 ||
            (r->names.len == top->names_start ? leave_level(r, dir, err) : enter_last(r, top, err)) < 0)
            return -1;
    }
    return 0;
}

int fl_remove_at(struct fl_remove *r, int dir, const char *name, struct fl_error *err)
{
    int fd, why, done;

    if (unlink_in(dir, name, 0) == 0)
        return 1;
    why = errno;
    if (why == ENOENT)
        return 0;
    fd = why == EISDIR || why == EPERM ? open_dir(dir, name) : -1;
    if (fd < 0)
        return fl_error_os(err, why == EISDIR ? errno : why, "unlink", NULL, 0);
    done = remove_tree(r, dir, name, fd, err);
    close_levels(r);
    return done < 0 ? -1 : 1;
}
