#include "fl_open.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "fl_sys.h"

#define DIR_FLAGS (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define FILE_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

void fl_open_init(struct fl_open *o, int root)
{
    memset(o, 0, sizeof(*o));
    o->root = root;
    o->dir_fd = -1;
    o->no_atime = true;
}

void fl_open_free(struct fl_open *o)
{
    if (o->dir_fd >= 0)
        close(o->dir_fd);
    o->dir_fd = -1;
    fl_buf_free(&o->dir);
    fl_buf_free(&o->name);
}

/* NUL-terminated copy of path in o->name, or NULL. */
static char *copy_name(struct fl_open *o, const uint8_t *path, size_t len,
                       struct fl_error *err)
{
    o->name.len = 0;
    if (fl_buf_reserve(&o->name, len + 1, err) < 0)
        return NULL;
    memcpy(o->name.data, path, len);
    o->name.data[len] = '\0';
    return (char *)o->name.data;
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Component by component; `path` is cut up in place. Any length. */
static int open_stepwise(int at, char *path, int flags)
{
    cleanup_fd int dir = -1;
    char *slash;

    while ((slash = strchr(path, '/')) != NULL) {
        int next;

        *slash = '\0';
        if (is_dots(path))
            return -ELOOP;
        next = openat(at, path, DIR_FLAGS);
        if (next < 0)
            return -errno;
        if (dir >= 0)
            close(dir);
        at = dir = next;
        path = slash + 1;
    }
    if (is_dots(path))
        return -ELOOP;
    at = openat(at, path, flags);
    return at < 0 ? -errno : at;
}

int fl_open_beneath(int at, char *path, size_t len, int flags)
{
    if (len == 0) {
        int fd = openat(at, ".", flags | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
    }
    if (len < PATH_MAX && fl_sys_has_openat2()) {
        int fd = fl_sys_openat2(at, path, flags, 0,
                                RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

        return fd < 0 ? -errno : fd;
    }
    return open_stepwise(at, path, flags);
}

/* O_NOATIME is refused for files of other users. */
static int open_quietly(struct fl_open *o, int at, const uint8_t *path, size_t len,
                        struct fl_error *err)
{
    char *name = copy_name(o, path, len, err);
    int fd;

    if (name == NULL)
        return -ENOMEM;
    fd = fl_open_beneath(at, name, len, FILE_FLAGS | (o->no_atime ? O_NOATIME : 0));
    if (fd != -EPERM || !o->no_atime)
        return fd;
    o->no_atime = false;
    name = copy_name(o, path, len, err);
    return name == NULL ? -ENOMEM : fl_open_beneath(at, name, len, FILE_FLAGS);
}

/* Makes `dir` the remembered directory, not yet open. */
static int remember_dir(struct fl_open *o, const uint8_t *dir, size_t len,
                        struct fl_error *err)
{
    if (o->dir_fd >= 0)
        close(o->dir_fd);
    o->dir_fd = -1;
    o->dir.len = 0;
    return fl_buf_add(&o->dir, dir, len, NULL, err);
}

static bool same_dir(const struct fl_open *o, const uint8_t *dir, size_t len)
{
    return len == o->dir.len && memcmp(dir, o->dir.data, len) == 0;
}

static int failed(const uint8_t *path, uint32_t len, int errnum, struct fl_error *err)
{
    if (errnum == ENOMEM)
        return fl_error_memory(err);
    if (errnum == ENOENT || errnum == ENOTDIR)
        return fl_error_set(err, FL_ERR_CHANGED, path, len,
                            "vanished while the layer was made; try again when the tree is quiet");
    if (errnum == ELOOP || errnum == ENXIO)
        return fl_error_set(err, FL_ERR_CHANGED, path, len,
                            "was replaced while the layer was made; try again when the tree is quiet");
    return fl_error_os(err, errnum, "open", path, len);
}

int fl_open_file(struct fl_open *o, const uint8_t *path, uint32_t len,
                 int *ret_fd, struct fl_error *err)
{
    const uint8_t *slash = memrchr(path, '/', len);
    size_t dir_len = slash == NULL ? 0 : (size_t)(slash - path);
    int at = o->root, fd;
    size_t skip = 0;

    if (slash != NULL && same_dir(o, path, dir_len)) {
        if (o->dir_fd < 0) {
            char *dir = copy_name(o, path, dir_len, err);

            if (dir == NULL)
                return -1;
            o->dir_fd = fl_open_beneath(o->root, dir, dir_len, DIR_FLAGS);
            if (o->dir_fd < 0)
                return failed(path, len, -o->dir_fd, err);
        }
        at = o->dir_fd;
        skip = dir_len + 1;
    } else if (slash != NULL && remember_dir(o, path, dir_len, err) < 0) {
        return -1;
    }
    fd = open_quietly(o, at, path + skip, len - skip, err);
    if (fd < 0)
        return failed(path, len, -fd, err);
    *ret_fd = fd;
    return 0;
}
