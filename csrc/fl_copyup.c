#include "fl_copyup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "fl_node.h"
#include "fl_sys.h"

#define STAGED "new"
#define NOREPLACE 1u

struct fl_copyup {
    int lower, upper, work;
    struct fl_backing backing;
    char *path;
    atomic_bool stop;
    struct fl_node node;
    char stage_name[64];    /* below work, "" while there is none */
    int stage;
    uint64_t entries, bytes;
    struct fl_error err;
    pthread_t thread;
    bool joined;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;              /* under lock */
    int result;
};

/* Where the walk along the path is: the same directory on both sides. */
struct place {
    int lower;  /* -1: the merged view has nothing of the lower directory here */
    int upper;
};

static int fail_missing(struct fl_copyup *c)
{
    return fl_error_os(&c->err, ENOENT, "copy-up", c->path, strlen(c->path));
}

static int fail_symlink(struct fl_copyup *c)
{
    return fl_error_set(&c->err, FL_ERR_UNSAFE, c->path, strlen(c->path), "a parent is a symbolic link");
}

static bool has_xattr(int dir, const char *name, const char *xattr, char value)
{
    char got[2];
    ssize_t n = fl_sys_getxattrat(dir, name, xattr, got, sizeof(got));

    return value == '\0' ? n >= 0 : n == 1 && got[0] == value;
}

static bool is_opaque(int dir, const char *name)
{
    return has_xattr(dir, name, "trusted.overlay.opaque", 'y') || has_xattr(dir, name, "user.overlay.opaque", 'y');
}

static bool is_whiteout(int dir, const char *name, const struct stat *st)
{
    if (S_ISCHR(st->st_mode))
        return st->st_rdev == makedev(0, 0);
    return S_ISREG(st->st_mode) && st->st_size == 0 &&
           (has_xattr(dir, name, "trusted.overlay.whiteout", '\0') || has_xattr(dir, name, "user.overlay.whiteout", '\0'));
}

/* 1 = there, 0 = not there (or dir is -1), -1 = failed. */
static int look_up(struct fl_copyup *c, int dir, const char *name, struct stat *ret_st)
{
    if (dir < 0)
        return 0;
    if (fstatat(dir, name, ret_st, AT_SYMLINK_NOFOLLOW) == 0)
        return 1;
    return errno == ENOENT ? 0 : fl_error_os(&c->err, errno, "lstat", c->path, strlen(c->path));
}

/* The private directory below work, made when the first object needs it. */
static int open_stage(struct fl_copyup *c)
{
    struct timespec now;

    if (c->stage >= 0)
        return 0;
    for (int tries = 0; tries < 100; tries++) {
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(c->stage_name, sizeof(c->stage_name), "fastlayer-%d-%llx", (int)getpid(),
                 (unsigned long long)now.tv_sec * 1000000000u + (unsigned long long)now.tv_nsec);
        if (fl_attrs_mkdir(&c->node.attrs, c->work, c->stage_name, &c->err) == 0)
            return fl_node_open(&c->node, c->work, c->stage_name, O_DIRECTORY, &c->stage, &c->err) < 0 ||
                           fl_attrs_make_private(&c->node.attrs, c->stage, &c->err) < 0 ? -1 : 0;
        c->stage_name[0] = '\0';
        if (c->err.errnum != EEXIST)
            break;
    }
    return -1;
}

static void remove_stage(struct fl_copyup *c)
{
    if (c->stage >= 0) {
        if (unlinkat(c->stage, STAGED, 0) < 0 && (errno == EISDIR || errno == EPERM))
            (void)unlinkat(c->stage, STAGED, AT_REMOVEDIR);
        close(c->stage);
        c->stage = -1;
    }
    if (c->stage_name[0] != '\0')
        (void)unlinkat(c->work, c->stage_name, AT_REMOVEDIR);
    c->stage_name[0] = '\0';
}

/* The directory that has `name`, the last component of the path, and the private one. */
static int enter_behind(struct fl_copyup *c, const char *name)
{
    size_t len = strlen(c->path) - strlen(name);
    cleanup_free char *parent = strndup(c->path, len == 0 ? 0 : len - 1);

    if (parent == NULL)
        return fl_error_memory(&c->err);
    fl_behind_enter(&c->node.behind, &c->backing, c->lower, parent, c->stage_name);
    return 0;
}

static int stage_file(struct fl_copyup *c, int dir, const char *name)
{
    cleanup_fd int src = -1, dst = -1;
    struct stat st;

    if (fl_node_open(&c->node, dir, name, 0, &src, &c->err) < 0)
        return -1;
    if (fstat(src, &st) < 0)
        return fl_error_os(&c->err, errno, "fstat", NULL, 0);
    if (!S_ISREG(st.st_mode))
        return fl_error_set(&c->err, FL_ERR_CHANGED, NULL, 0, "changed its type while it was copied");
    if (fl_node_create(&c->node, c->stage, STAGED, &st, &dst, &c->err) < 0 ||
        enter_behind(c, name) < 0 || fl_node_fill(&c->node, src, name, &st, dst, STAGED, &c->err) < 0)
        return -1;
    if (fsync(dst) < 0)
        return fl_error_os(&c->err, errno, "fsync", NULL, 0);
    c->bytes += (uint64_t)st.st_size;
    return 0;
}

static int stage_dir(struct fl_copyup *c, int dir, const char *name)
{
    cleanup_fd int src = -1, dst = -1;
    struct stat st;

    if (fl_node_open(&c->node, dir, name, O_DIRECTORY, &src, &c->err) < 0)
        return -1;
    if (fstat(src, &st) < 0)
        return fl_error_os(&c->err, errno, "fstat", NULL, 0);
    if (fl_attrs_mkdir(&c->node.attrs, c->stage, STAGED, &c->err) < 0 ||
        fl_node_open(&c->node, c->stage, STAGED, O_DIRECTORY, &dst, &c->err) < 0)
        return -1;
    return fl_attrs_copy_fd(&c->node.attrs, src, &st, dst, 0700, &c->err);
}

static int rename_exclusive(int from_dir, const char *from, int to_dir, const char *to)
{
    return fl_sys_renameat2(from_dir, from, to_dir, to, NOREPLACE) < 0 ? -errno : 0;
}

/* Moves the staged object to its place; EEXIST means that somebody else was faster, which is as good. */
static int expose(struct fl_copyup *c, int upper, const char *name, const struct stat *st)
{
    int r = rename_exclusive(c->stage, STAGED, upper, name);

    if (r == -EACCES && S_ISDIR(st->st_mode)) { /* moving a directory writes its "..": lend the owner the right */
        if (fchmodat(c->stage, STAGED, 0700, 0) < 0)
            return fl_error_os(&c->err, errno, "chmod", NULL, 0);
        r = rename_exclusive(c->stage, STAGED, upper, name);
        if (r == 0 && fchmodat(upper, name, st->st_mode & 07777, 0) < 0)
            return fl_error_os(&c->err, errno, "chmod", NULL, 0);
    }
    if (r < 0 && r != -EEXIST)
        return fl_error_os(&c->err, -r, "rename", NULL, 0);
    c->entries += r == 0;
    return 0;
}

/* Copies `name` (lstat: st) up, leaving the times of the upper parent as they were. */
static int copy_object(struct fl_copyup *c, const struct place *p, const char *name, const struct stat *st)
{
    struct timespec times[2];
    struct stat parent;
    int r;

    if (fstat(p->upper, &parent) < 0)
        return fl_error_os(&c->err, errno, "fstat", NULL, 0);
    if (open_stage(c) < 0)
        return -1;
    if (S_ISDIR(st->st_mode))
        r = stage_dir(c, p->lower, name);
    else if (S_ISREG(st->st_mode))
        r = stage_file(c, p->lower, name);
    else
        r = fl_node_copy_special(&c->node, p->lower, name, st, c->stage, STAGED, &c->err);
    if (r < 0 || expose(c, p->upper, name, st) < 0)
        return -1;
    times[0] = parent.st_atim;
    times[1] = parent.st_mtim;
    if (futimens(p->upper, times) < 0 && errno != EPERM)
        return fl_error_os(&c->err, errno, "futimens", NULL, 0);
    return 0;
}

/* Makes sure that `name` is in the upper directory. 1 = it was, 0 = it was copied, -1 = failed. */
static int ensure(struct fl_copyup *c, const struct place *p, const char *name, bool is_parent)
{
    struct stat upper, lower;
    int there = look_up(c, p->upper, name, &upper), below;

    if (there < 0)
        return -1;
    if (there && is_whiteout(p->upper, name, &upper))
        return fail_missing(c);
    if (there)
        return is_parent && S_ISLNK(upper.st_mode) ? fail_symlink(c) : 1;
    below = look_up(c, p->lower, name, &lower);
    if (below < 0)
        return -1;
    if (!below || is_whiteout(p->lower, name, &lower))
        return fail_missing(c);
    if (is_parent && S_ISLNK(lower.st_mode))
        return fail_symlink(c);
    if (is_parent && !S_ISDIR(lower.st_mode))
        return fl_error_os(&c->err, ENOTDIR, "copy-up", c->path, strlen(c->path));
    return copy_object(c, p, name, &lower);
}

/* Steps into directory `name`, which the upper side has now. */
static int descend(struct fl_copyup *c, struct place *p, const char *name)
{
    bool hidden = p->lower < 0 || is_opaque(p->upper, name);
    int upper = openat(p->upper, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), lower = -1;
    struct stat st;

    if (upper < 0)
        return fl_error_os(&c->err, errno, "open", c->path, strlen(c->path));
    if (!hidden && fstatat(p->lower, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode)) {
        lower = openat(p->lower, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (lower < 0) {
            int errnum = errno;

            close(upper);
            return fl_error_os(&c->err, errnum, "open", c->path, strlen(c->path));
        }
    }
    if (p->lower >= 0)
        close(p->lower);
    close(p->upper);
    *p = (struct place){lower, upper};
    return 0;
}

/* Takes the next component of *rest into name. */
static int next_component(struct fl_copyup *c, const char **rest, char name[NAME_MAX + 1])
{
    size_t len = strcspn(*rest, "/");

    if (len > NAME_MAX)
        return fl_error_os(&c->err, ENAMETOOLONG, "copy-up", c->path, strlen(c->path));
    memcpy(name, *rest, len);
    name[len] = '\0';
    if (len == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return fl_error_set(&c->err, FL_ERR_UNSAFE, c->path, strlen(c->path), "not a plain relative path");
    *rest += len + ((*rest)[len] == '/');
    return 0;
}

static int copy_path(struct fl_copyup *c, struct place *p)
{
    const char *rest = c->path;
    char name[NAME_MAX + 1];

    while (*rest != '\0') {
        if (next_component(c, &rest, name) < 0 || ensure(c, p, name, *rest != '\0') < 0)
            return -1;
        if (*rest != '\0' && descend(c, p, name) < 0)
            return -1;
    }
    return 0;
}

static void *run_copyup(void *arg)
{
    struct fl_copyup *c = arg;
    struct place p = {fcntl(c->lower, F_DUPFD_CLOEXEC, 0), fcntl(c->upper, F_DUPFD_CLOEXEC, 0)};
    int result;

    if (p.lower < 0 || p.upper < 0)
        result = fl_error_os(&c->err, errno, "dup", NULL, 0);
    else
        result = copy_path(c, &p);
    if (result < 0)
        fl_error_path(&c->err, c->path, strlen(c->path));
    if (p.lower >= 0)
        close(p.lower);
    if (p.upper >= 0)
        close(p.upper);
    remove_stage(c);
    pthread_mutex_lock(&c->lock);
    c->result = result;
    c->done = true;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static int start_thread(struct fl_copyup *c, struct fl_error *err)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&c->thread, NULL, run_copyup, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0)
        return fl_error_os(err, r, "pthread_create", NULL, 0);
    c->joined = false;
    return 0;
}

struct fl_copyup *fl_copyup_new(int lower, int upper, int work, const char *path, const struct fl_backing *backing,
                                struct fl_error *err)
{
    struct fl_copyup *c = calloc(1, sizeof(*c));
    pthread_condattr_t attr;

    if (c == NULL || (c->path = strdup(path)) == NULL) {
        free(c);
        fl_error_memory(err);
        return NULL;
    }
    c->lower = lower;
    c->upper = upper;
    c->work = work;
    c->backing = backing != NULL ? *backing : (struct fl_backing){.target = -1};
    c->stage = -1;
    c->joined = true;
    fl_node_init(&c->node);
    c->node.attrs.skip_overlay = true;
    c->node.copy.stop = &c->stop;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (start_thread(c, err) < 0) {
        fl_copyup_free(c);
        return NULL;
    }
    return c;
}

static void join_thread(struct fl_copyup *c)
{
    if (!c->joined)
        pthread_join(c->thread, NULL);
    c->joined = true;
}

int fl_copyup_step(struct fl_copyup *c, unsigned wait_ms, struct fl_error *err)
{
    struct timespec until;
    bool done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&c->lock);
    while (!c->done && pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT)
        ;
    done = c->done;
    pthread_mutex_unlock(&c->lock);
    if (!done)
        return 1;
    join_thread(c);
    if (c->result < 0)
        *err = c->err;
    return c->result;
}

void fl_copyup_read_stats(const struct fl_copyup *c, struct fl_clone_stats *ret_stats)
{
    memset(ret_stats, 0, sizeof(*ret_stats));
    if (!c->joined)
        return;
    ret_stats->entries = c->entries;
    ret_stats->bytes = c->bytes;
    ret_stats->shared = c->node.copy.shared;
    ret_stats->copied = c->node.copy.copied;
    ret_stats->lost_owners = c->node.attrs.lost_owners;
    ret_stats->lost_xattrs = c->node.attrs.lost_xattrs;
}

void fl_copyup_free(struct fl_copyup *c)
{
    if (c == NULL)
        return;
    atomic_store(&c->stop, true);
    join_thread(c);
    fl_node_free(&c->node);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->path);
    free(c);
}
