#include "fl_usage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fl_sys.h"

#define RECORDS_SIZE (32u << 10)
#define BATCH 4096u    /* names of one step, about                              */
#define LONG_PATH 3800u /* with one more name it still fits into a call         */
#define OPEN_DIR (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define OPEN_FILE (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)

/* Stands behind its path on the stack. len 0: `above` was opened here and all
 * below it is done. */
struct waiting {
    int above;
    uint32_t len;
};

struct record {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

static int push(struct fl_usage *u, int above, const char *path, size_t len, const char *name,
                struct fl_error *err)
{
    struct waiting w = {above, (uint32_t)(len + (name == NULL ? 0 : strlen(name) + 1))};

    if (fl_buf_add(&u->waiting, path, len, NULL, err) < 0)
        return -1;
    if (name != NULL && (fl_buf_add(&u->waiting, "/", 1, NULL, err) < 0 ||
                         fl_buf_add(&u->waiting, name, strlen(name), NULL, err) < 0))
        return -1;
    return fl_buf_add(&u->waiting, &w, sizeof(w), NULL, err);
}

/* The path, NUL-terminated, in `ret_path`. */
static struct waiting pop(struct fl_usage *u, char *ret_path)
{
    struct waiting w;

    u->waiting.len -= sizeof(w);
    memcpy(&w, u->waiting.data + u->waiting.len, sizeof(w));
    u->waiting.len -= w.len;
    memcpy(ret_path, u->waiting.data + u->waiting.len, w.len);
    ret_path[w.len] = '\0';
    return w;
}

/* 1 counted, 0 met before, -1 failed. */
static int count(struct fl_usage *u, const struct stat *st, struct fl_error *err)
{
    if (st->st_nlink > 1 && !S_ISDIR(st->st_mode)) {
        if (fl_links_find(&u->seen, 0, st->st_ino) != NULL)
            return 0;
        if (fl_links_add(&u->seen, 0, st->st_ino, "", "", err) < 0)
            return -1;
    }
    u->inodes++;
    u->bytes += (uint64_t)st->st_blocks * 512u;
    return 1;
}

static void add_shared(struct fl_usage *u, int dir, const char *name)
{
    cleanup_fd int fd = openat(dir, name, OPEN_FILE); /* not ours to read: nothing is known */

    if (fd >= 0)
        u->shared += fl_sys_shared_bytes(fd);
}

/* 1: a directory to look into. */
static int look_at(struct fl_usage *u, int dir, const char *name, struct fl_error *err)
{
    struct stat st;
    int r;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fl_error_os(err, errno, "stat", name, strlen(name));
    if (st.st_dev != u->device)
        return 0;
    r = count(u, &st, err);
    if (r <= 0)
        return r;
    if (S_ISREG(st.st_mode) && u->sharing && st.st_blocks != 0)
        add_shared(u, dir, name);
    return S_ISDIR(st.st_mode);
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Children are named from `above` by `path`, or - when that gets long - from a
 * descriptor of this directory, opened when the first child needs it. */
struct place {
    int above;
    const char *path;
    size_t len;
};

static int push_child(struct fl_usage *u, int dir, struct place *place, const char *name,
                      struct fl_error *err)
{
    if (place->len > LONG_PATH) {
        place->above = fcntl(dir, F_DUPFD_CLOEXEC, 0);
        if (place->above < 0)
            return fl_error_os(err, errno, "dup", NULL, 0);
        place->path = ".";
        place->len = 1;
        if (push(u, place->above, "", 0, NULL, err) < 0) {
            close(place->above);
            return -1;
        }
    }
    return push(u, place->above, place->path, place->len, name, err);
}

/* Returns how many names there were. */
static int look_into(struct fl_usage *u, int dir, struct place place, struct fl_error *err)
{
    int names = 0, r;
    ssize_t n;

    while ((n = fl_sys_getdents64(dir, u->records.data, RECORDS_SIZE)) > 0) {
        for (ssize_t at = 0; at < n;) {
            struct record *rec = (struct record *)(void *)(u->records.data + at);

            at += rec->reclen;
            if (is_dots(rec->name))
                continue;
            names++;
            r = look_at(u, dir, rec->name, err);
            if (r > 0)
                r = push_child(u, dir, &place, rec->name, err);
            if (r < 0)
                return -1;
        }
    }
    if (n < 0 && errno != ENOENT)
        return fl_error_os(err, errno, "getdents", place.path, place.len);
    return names;
}

int fl_usage_step(struct fl_usage *u, struct fl_error *err)
{
    char path[LONG_PATH + 512];
    unsigned done = 0;

    while (u->waiting.len != 0 && done < BATCH) {
        struct waiting w = pop(u, path);
        cleanup_fd int fd = -1;
        int r;

        if (w.len == 0) {
            close(w.above);
            continue;
        }
        fd = openat(w.above, path, OPEN_DIR);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return fl_error_os(err, errno, "open", path, w.len);
        r = look_into(u, fd, (struct place){w.above, path, w.len}, err);
        if (r < 0)
            return -1;
        done += (unsigned)r + 1;
    }
    return u->waiting.len != 0;
}

int fl_usage_init(struct fl_usage *u, int root_fd, struct fl_error *err)
{
    struct stat st;

    memset(u, 0, sizeof(*u));
    fl_links_init(&u->seen);
    u->root = root_fd;
    if (fstat(root_fd, &st) < 0) {
        fl_error_os(err, errno, "stat", NULL, 0);
    } else {
        u->device = st.st_dev;
        u->sharing = fl_sys_can_share(root_fd, root_fd);
        if (count(u, &st, err) >= 0 && fl_buf_reserve(&u->records, RECORDS_SIZE, err) == 0 &&
            push(u, root_fd, ".", 1, NULL, err) == 0)
            return 0;
    }
    fl_usage_free(u);
    return -1;
}

void fl_usage_free(struct fl_usage *u)
{
    char path[LONG_PATH + 512];

    while (u->waiting.len != 0) {
        struct waiting w = pop(u, path);

        if (w.len == 0)
            close(w.above);
    }
    fl_buf_free(&u->waiting);
    fl_buf_free(&u->records);
    fl_links_free(&u->seen);
    memset(u, 0, sizeof(*u));
}
