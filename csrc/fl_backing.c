#include "fl_backing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "fl_node.h"

#define NOT_THERE (-1)
#define NOT_SURE (-2)

void fl_behind_init(struct fl_behind *b)
{
    *b = (struct fl_behind){.at.target = -1};
}

static void forget_layers(struct fl_behind *b)
{
    while (b->at.count != 0)
        close(b->at.layers[--b->at.count]);
}

void fl_behind_free(struct fl_behind *b)
{
    forget_layers(b);
    if (b->at.target >= 0)
        close(b->at.target);
    fl_behind_init(b);
}

/* The directory `path` below a real one, on the same file system. */
static int open_real(int root, const char *path, dev_t *ret_dev)
{
    cleanup_fd int fd = -1;
    struct fl_error err;
    struct stat above, st;

    if (fl_node_open_beneath(root, path, O_PATH, &fd, &err) < 0)
        return err.errnum == ENOENT || err.errnum == ENOTDIR || err.errnum == ELOOP ? NOT_THERE : NOT_SURE;
    if (fstat(root, &above) < 0 || fstat(fd, &st) < 0 || st.st_dev != above.st_dev)
        return NOT_SURE;
    *ret_dev = st.st_dev;
    return fl_steal_fd(&fd);
}

/* False when a layer that may be the topmost is not known. */
static bool add_layer(struct fl_behind *b, int root, const char *path)
{
    dev_t dev = 0;
    int fd = open_real(root, path, &dev);

    if (fd < 0)
        return fd == NOT_THERE;
    if (b->at.count != 0 && dev != b->source_dev) {
        close(fd);
        return false;
    }
    b->source_dev = dev;
    b->at.layers[b->at.count++] = fd;
    return true;
}

void fl_behind_enter(struct fl_behind *b, const struct fl_backing *of, int root, const char *source, const char *target)
{
    struct stat st;

    fl_behind_free(b);
    b->to_overlay = of->target >= 0;
    if (b->to_overlay && (b->at.target = open_real(of->target, target, &b->target_dev)) < 0)
        b->at.target = -1;
    b->from_overlay = of->count != 0 && fstat(root, &st) == 0;
    if (!b->from_overlay)
        return;
    b->view = st.st_dev;
    for (unsigned i = 0; i < of->count; i++)
        if (!add_layer(b, of->layers[i], source)) {
            forget_layers(b);
            return;
        }
}

/* Opens once more, now for its data, what `fd` (O_PATH) is: what has its name by now does not matter. */
static int reopen(int fd, int flags)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC | O_NOCTTY);
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_source(const struct fl_behind *b, const struct stat *real, const struct stat *seen)
{
    return S_ISREG(real->st_mode) && real->st_dev == b->source_dev && real->st_ino == seen->st_ino &&
           real->st_mode == seen->st_mode && real->st_size == seen->st_size &&
           same_time(&real->st_mtim, &seen->st_mtim) && same_time(&real->st_ctim, &seen->st_ctim);
}

static int open_source(const struct fl_behind *b, const char *name, const struct stat *seen)
{
    cleanup_fd int fd = -1;
    struct stat st;

    for (unsigned i = 0; i < b->at.count && fd < 0; i++) {
        fd = openat(b->at.layers[i], name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
            return -1;
    }
    if (fd < 0 || fstat(fd, &st) < 0 || !is_source(b, &st, seen))
        return -1;
    return reopen(fd, O_RDONLY);
}

static int open_target(const struct fl_behind *b, const char *name, int made)
{
    cleanup_fd int fd = openat(b->at.target, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct stat st, seen;

    if (fd < 0 || fstat(fd, &st) < 0 || fstat(made, &seen) < 0)
        return -1;
    if (!S_ISREG(st.st_mode) || st.st_size != 0 || st.st_dev != b->target_dev || st.st_ino != seen.st_ino)
        return -1;
    return reopen(fd, O_WRONLY);
}

bool fl_behind_open(const struct fl_behind *b, const char *src_name, const struct stat *st, const char *dst_name, int dst,
                    int *ret_src, int *ret_dst)
{
    bool from_overlay = b->from_overlay && st->st_dev == b->view; /* else it is of a mount below */
    cleanup_fd int src = -1, target = -1;

    if (from_overlay && (src = open_source(b, src_name, st)) < 0)
        return false;
    if (b->to_overlay && (target = open_target(b, dst_name, dst)) < 0)
        return false;
    *ret_src = fl_steal_fd(&src);
    *ret_dst = fl_steal_fd(&target);
    return from_overlay || b->to_overlay;
}
