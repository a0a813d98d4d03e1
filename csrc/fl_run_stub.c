/* Mount points that are missing: made before, taken away after. */
#include "fl_run_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "fl_buf.h"

#define LINKS_MAX 40
#define DIRECTORY_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct walk {
    int root, at;            /* at: ours, unless it is root                             */
    char rest[2 * PATH_MAX]; /* what is still to go                                     */
    int links;
    bool is_dir;
    struct fl_run_stubs *stubs;
};

static void go_to(struct walk *w, int fd)
{
    if (w->at != w->root)
        close(w->at);
    w->at = fd;
}

static int failed(int errnum)
{
    errno = errnum;
    return -1;
}

/* Cuts the first component off: its length, 0 at the end. Sets *ret_last when only slashes follow. */
static int next_name(struct walk *w, char *ret_name, bool *ret_last)
{
    size_t start = strspn(w->rest, "/"), length = strcspn(w->rest + start, "/"), after;

    if (length > NAME_MAX)
        return failed(ENAMETOOLONG);
    memcpy(ret_name, w->rest + start, length);
    ret_name[length] = '\0';
    after = start + length + strspn(w->rest + start + length, "/");
    memmove(w->rest, w->rest + after, strlen(w->rest + after) + 1);
    *ret_last = w->rest[0] == '\0';
    return (int)length;
}

/* Up, but not above the root: no link and no mount of another place is above it. */
static int go_up(struct walk *w)
{
    struct stat root, at;
    int up;

    if (fstat(w->root, &root) < 0 || fstat(w->at, &at) < 0)
        return -1;
    if (root.st_dev == at.st_dev && root.st_ino == at.st_ino)
        return 0;
    up = openat(w->at, "..", DIRECTORY_FLAGS);
    if (up < 0)
        return -1;
    go_to(w, up);
    return 0;
}

static int follow_link(struct walk *w, const char *name)
{
    char target[PATH_MAX];
    ssize_t length = readlinkat(w->at, name, target, sizeof(target));
    size_t rest = strlen(w->rest);

    if (length < 0)
        return -1;
    if (++w->links > LINKS_MAX)
        return failed(ELOOP);
    if ((size_t)length + 1 + rest + 1 > sizeof(w->rest))
        return failed(ENAMETOOLONG);
    memmove(w->rest + length + 1, w->rest, rest + 1);
    memcpy(w->rest, target, (size_t)length);
    w->rest[length] = '/';
    if (length > 0 && target[0] == '/')
        go_to(w, w->root);
    return 0;
}

static int make_one(int dir, const char *name, bool is_dir)
{
    int fd;

    if (is_dir)
        return mkdirat(dir, name, 0755);
    fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? -1 : 0;
}

static int remember(struct walk *w, const char *name, bool is_dir)
{
    struct fl_run_stub *stub = &w->stubs->all[w->stubs->count];
    struct stat made;

    if (fstatat(w->at, name, &made, AT_SYMLINK_NOFOLLOW) < 0)
        return -1;
    stub->dir = fcntl(w->at, F_DUPFD_CLOEXEC, 3);
    if (stub->dir < 0)
        return -1;
    memcpy(stub->name, name, strlen(name) + 1);
    stub->dev = made.st_dev;
    stub->ino = made.st_ino;
    stub->is_dir = is_dir;
    w->stubs->count++;
    return 0;
}

/* The directory it is made in keeps its time. */
static int make_stub(struct walk *w, const char *name, bool is_dir)
{
    struct stat before;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {0}};

    if (w->stubs == NULL)
        return make_one(w->at, name, is_dir);
    if (w->stubs->count == FL_RUN_STUBS_MAX)
        return failed(E2BIG);
    if (fstat(w->at, &before) < 0 || make_one(w->at, name, is_dir) < 0)
        return -1;
    times[1] = before.st_mtim;
    return futimens(w->at, times) < 0 ? -1 : remember(w, name, is_dir);
}

static int enter(struct walk *w, const char *name)
{
    int fd = openat(w->at, name, DIRECTORY_FLAGS);

    if (fd < 0)
        return -1;
    go_to(w, fd);
    return 0;
}

/* 1 when the walk is at its end. */
static int step_into(struct walk *w, const char *name, bool last)
{
    struct stat found;

    if (fstatat(w->at, name, &found, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno != ENOENT || make_stub(w, name, !last || w->is_dir) < 0)
            return -1;
        return last ? 1 : enter(w, name);
    }
    if (S_ISLNK(found.st_mode))
        return follow_link(w, name);
    if (last)
        return S_ISDIR(found.st_mode) == w->is_dir ? 1 : failed(w->is_dir ? ENOTDIR : EISDIR);
    return enter(w, name);
}

static int walk_on(struct walk *w)
{
    char name[NAME_MAX + 1];
    bool last;
    int r;

    for (;;) {
        r = next_name(w, name, &last);
        if (r <= 0)
            return r;
        if (strcmp(name, ".") == 0)
            continue;
        r = strcmp(name, "..") == 0 ? go_up(w) : step_into(w, name, last);
        if (r != 0)
            return r;
    }
}

int fl_run_stub_make(int root, const char *path, bool is_dir, struct fl_run_stubs *stubs)
{
    struct walk w = {.root = root, .at = root, .is_dir = is_dir, .stubs = stubs};
    int r;

    if (strlen(path) >= sizeof(w.rest))
        return failed(ENAMETOOLONG);
    memcpy(w.rest, path, strlen(path) + 1);
    r = walk_on(&w);
    go_to(&w, root);
    return r < 0 ? -1 : 0;
}

/* What the program has put there, or put in its place, stays. */
static void remove_one(const struct fl_run_stub *stub)
{
    struct stat found, dir;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {0}};

    if (fstatat(stub->dir, stub->name, &found, AT_SYMLINK_NOFOLLOW) < 0 || fstat(stub->dir, &dir) < 0)
        return;
    if (found.st_dev != stub->dev || found.st_ino != stub->ino)
        return;
    if (!stub->is_dir && (found.st_size != 0 || found.st_nlink != 1))
        return;
    if (unlinkat(stub->dir, stub->name, stub->is_dir ? AT_REMOVEDIR : 0) < 0)
        return;
    times[1] = dir.st_mtim;
    futimens(stub->dir, times);
}

void fl_run_stubs_remove(struct fl_run_stubs *stubs)
{
    while (stubs->count > 0) {
        stubs->count--;
        remove_one(&stubs->all[stubs->count]);
        close(stubs->all[stubs->count].dir);
    }
}
