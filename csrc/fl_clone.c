#include "fl_clone.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "fl_links.h"
#include "fl_node.h"
#include "fl_sys.h"
#include "fl_task.h"

#define MAX_JOBS 16
#define STACK_SIZE (256u << 10)
#define NAMES_SIZE (32u << 10)
#define CLOSE_BATCH 512u /* directories finished in one step */

struct worker {
    struct fl_clone *clone;
    pthread_t thread;
    struct fl_node node;
    atomic_ullong entries, bytes;  /* written by this worker only, read at any time */
    uint64_t sockets;
    struct fl_error err;
    _Alignas(8) uint8_t names[NAMES_SIZE]; /* records of getdents64 */
};

struct fl_clone {
    int src, dst;
    dev_t dst_dev;
    ino_t dst_ino;
    unsigned jobs, flags, started;
    struct fl_backing backing;
    atomic_bool stop;
    bool finished;              /* the root has its attributes                     */
    struct fl_links links;
    pthread_mutex_t lock;       /* all below                                       */
    pthread_cond_t work, done;
    struct fl_task *todo;       /* newest first: near depth-first                  */
    struct fl_tasks_by_depth closed; /* attributes to be set at the end, see finish_dir */
    unsigned busy, idle;
    struct fl_error *failed;    /* of the first worker that failed                 */
    struct worker workers[];
};

/* What getdents64 fills a buffer with. */
struct record {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

/* One directory while it is copied. */
struct dir {
    int src, dst;
    const char *path;
};

static void count(atomic_ullong *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static int name_error(struct worker *w, const struct dir *d, const char *name)
{
    char path[FL_ERROR_PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s%s%s", d->path, *d->path && *name ? "/" : "", name);

    fl_error_path(&w->err, path, n < (int)sizeof(path) ? (size_t)n : sizeof(path) - 1);
    return -1;
}

static void push_task(struct fl_clone *c, struct fl_task *t)
{
    pthread_mutex_lock(&c->lock);
    t->next = c->todo;
    c->todo = t;
    if (c->idle != 0)
        pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
}

/* Makes the later name of a hard link; its first may lie deeper than PATH_MAX. */
static int make_link(struct worker *w, const char *first, const struct dir *d, const char *name)
{
    const char *slash = strrchr(first, '/');
    cleanup_free char *parent = NULL;
    cleanup_fd int parent_fd = -1;

    if (linkat(w->clone->dst, first, d->dst, name, 0) == 0)
        return 0;
    if (errno != ENAMETOOLONG || slash == NULL)
        return fl_error_os(&w->err, errno, "link", NULL, 0);
    parent = strndup(first, (size_t)(slash - first));
    if (parent == NULL)
        return fl_error_memory(&w->err);
    if (fl_node_open_beneath(w->clone->dst, parent, O_PATH, &parent_fd, &w->err) < 0)
        return -1;
    if (linkat(parent_fd, slash + 1, d->dst, name, 0) < 0)
        return fl_error_os(&w->err, errno, "link", NULL, 0);
    return 0;
}

/* With the lock of links held: 1 = it was a later name and exists now, 0 = this is the first, -1 = failed. */
static int link_or_remember(struct worker *w, const struct stat *st, const struct dir *d, const char *name)
{
    struct fl_links *links = &w->clone->links;
    const char *first = fl_links_find(links, st->st_dev, st->st_ino);

    if (first != NULL)
        return make_link(w, first, d, name) < 0 ? -1 : 1;
    return fl_links_add(links, st->st_dev, st->st_ino, d->path, name, &w->err);
}

/* Creates the file that has other names, or links it to the first. 1 = linked, 0 = created, -1 = failed. */
static int create_shared(struct worker *w, const struct stat *st, const struct dir *d, const char *name, int *ret_fd)
{
    int r;

    pthread_mutex_lock(&w->clone->links.lock);
    r = link_or_remember(w, st, d, name);
    if (r == 0)
        r = fl_node_create(&w->node, d->dst, name, st, ret_fd, &w->err);
    pthread_mutex_unlock(&w->clone->links.lock);
    return r;
}

static int copy_file(struct worker *w, const struct dir *d, const char *name)
{
    cleanup_fd int src = -1, dst = -1;
    struct stat st;
    int r;

    if (fl_node_open(&w->node, d->src, name, 0, &src, &w->err) < 0)
        return -1;
    if (fstat(src, &st) < 0)
        return fl_error_os(&w->err, errno, "fstat", NULL, 0);
    if (!S_ISREG(st.st_mode))
        return fl_error_set(&w->err, FL_ERR_CHANGED, NULL, 0, "changed its type while it was copied");
    r = st.st_nlink > 1 ? create_shared(w, &st, d, name, &dst)
                        : fl_node_create(&w->node, d->dst, name, &st, &dst, &w->err);
    if (r != 0)
        return r < 0 ? -1 : 0;
    if (fl_node_fill(&w->node, src, name, &st, dst, name, &w->err) < 0)
        return -1;
    count(&w->bytes, (uint64_t)st.st_size);
    return 0;
}

static int copy_special(struct worker *w, const struct dir *d, const char *name, const struct stat *st)
{
    int r = 0;

    if (st->st_nlink > 1) {
        pthread_mutex_lock(&w->clone->links.lock);
        r = link_or_remember(w, st, d, name);
    }
    if (r == 0)
        r = fl_node_copy_special(&w->node, d->src, name, st, d->dst, name, &w->err);
    if (st->st_nlink > 1)
        pthread_mutex_unlock(&w->clone->links.lock);
    return r < 0 ? -1 : 0;
}

static int copy_dir(struct worker *w, const struct dir *d, const char *name)
{
    struct fl_task *t;

    if (fl_attrs_mkdir(&w->node.attrs, d->dst, name, &w->err) < 0)
        return -1;
    t = fl_task_new(d->path, name, &w->err);
    if (t == NULL)
        return -1;
    push_task(w->clone, t);
    return 0;
}

/* `type` is the directory's word (DT_*); only what it says plainly spares the lstat. 1 = a socket, skipped. */
static int copy_entry(struct worker *w, const struct dir *d, const char *name, unsigned char type)
{
    struct stat st;

    if (type == DT_REG)
        return copy_file(w, d, name);
    if (type == DT_DIR)
        return copy_dir(w, d, name);
    if (fstatat(d->src, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return fl_error_os(&w->err, errno, "lstat", NULL, 0);
    if (S_ISREG(st.st_mode))
        return copy_file(w, d, name);
    if (S_ISDIR(st.st_mode))
        return copy_dir(w, d, name);
    if (S_ISSOCK(st.st_mode)) {
        w->sockets++;
        return 1;
    }
    return copy_special(w, d, name, &st);
}

static bool is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

static int copy_batch(struct worker *w, const struct dir *d, size_t filled)
{
    size_t at = 0;
    int r;

    while (at < filled) {
        const struct record *e = (const struct record *)(w->names + at);

        at += e->reclen;
        if (is_dot(e->name))
            continue;
        if (atomic_load_explicit(&w->clone->stop, memory_order_relaxed))
            return fl_error_set(&w->err, FL_ERR_USAGE, NULL, 0, "stopped");
        r = copy_entry(w, d, e->name, e->type);
        if (r < 0)
            return name_error(w, d, e->name);
        count(&w->entries, r == 0);
    }
    return 0;
}

static int copy_entries(struct worker *w, const struct dir *d)
{
    ssize_t n;

    while ((n = fl_sys_getdents64(d->src, w->names, sizeof(w->names))) > 0)
        if (copy_batch(w, d, (size_t)n) < 0)
            return -1;
    return n == 0 ? 0 : fl_error_os(&w->err, errno, "getdents64", NULL, 0);
}

/* Attributes of a directory whose names all exist. The root, and what its owner could not search or write in any
 * more, wait until everything below is complete. */
static int finish_dir(struct worker *w, const struct dir *d, const struct stat *st)
{
    struct fl_clone *c = w->clone;
    struct fl_task *t;
    int r;

    if (*d->path != '\0' && (st->st_mode & 0700) == 0700)
        return fl_attrs_copy_fd(&w->node.attrs, d->src, st, d->dst, 0700, &w->err);
    t = fl_task_new(d->path, "", &w->err);
    if (t == NULL)
        return -1;
    pthread_mutex_lock(&c->lock);
    r = fl_tasks_push(&c->closed, t, &w->err);
    pthread_mutex_unlock(&c->lock);
    if (r < 0)
        free(t);
    return r;
}

static int open_both(struct worker *w, const char *path, int *ret_src, int *ret_dst, struct stat *ret_st)
{
    struct fl_clone *c = w->clone;

    if (fl_node_open_beneath(c->src, path, O_NOATIME, ret_src, &w->err) < 0 ||
        fl_node_open_beneath(c->dst, path, 0, ret_dst, &w->err) < 0)
        return -1;
    if (fstat(*ret_src, ret_st) < 0)
        return fl_error_os(&w->err, errno, "fstat", NULL, 0);
    if (ret_st->st_dev == c->dst_dev && ret_st->st_ino == c->dst_ino)
        return fl_error_set(&w->err, FL_ERR_USAGE, NULL, 0, "the destination lies inside the source");
    return 0;
}

static int copy_tree_dir(struct worker *w, const char *path)
{
    cleanup_fd int src = -1, dst = -1;
    struct stat st;
    struct dir d;

    if (open_both(w, path, &src, &dst, &st) < 0)
        return -1;
    d = (struct dir){src, dst, path};
    fl_behind_enter(&w->node.behind, &w->clone->backing, w->clone->src, path, path);
    if (copy_entries(w, &d) < 0)
        return -1;
    return finish_dir(w, &d, &st);
}

/* With the lock held: the next directory, or NULL when there will be none. */
static struct fl_task *next_task(struct fl_clone *c)
{
    struct fl_task *t;

    while (c->todo == NULL && c->busy != 0 && !atomic_load(&c->stop)) {
        c->idle++;
        pthread_cond_wait(&c->work, &c->lock);
        c->idle--;
    }
    t = atomic_load(&c->stop) ? NULL : c->todo;
    if (t != NULL) {
        c->todo = t->next;
        c->busy++;
    }
    return t;
}

static void end_task(struct worker *w, int result)
{
    struct fl_clone *c = w->clone;

    c->busy--;
    if (result < 0) {
        if (c->failed == NULL)
            c->failed = &w->err;
        atomic_store(&c->stop, true);
    }
    if (result < 0 || (c->busy == 0 && c->todo == NULL)) {
        pthread_cond_broadcast(&c->work);
        pthread_cond_signal(&c->done);
    }
}

static void *run_worker(void *arg)
{
    struct worker *w = arg;
    struct fl_clone *c = w->clone;
    struct fl_task *t;
    int r;

    pthread_mutex_lock(&c->lock);
    while ((t = next_task(c)) != NULL) {
        pthread_mutex_unlock(&c->lock);
        r = copy_tree_dir(w, t->path);
        if (r < 0)
            fl_error_path(&w->err, t->path, strlen(t->path));
        free(t);
        pthread_mutex_lock(&c->lock);
        end_task(w, r);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static unsigned usable_cpus(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

static int start_worker(struct fl_clone *c, const pthread_attr_t *attr, struct fl_error *err)
{
    struct worker *w = &c->workers[c->started];
    int r;

    w->clone = c;
    fl_node_init(&w->node);
    w->node.copy.stop = &c->stop;
    w->node.copy.live = (c->flags & FL_CLONE_LIVE) != 0;
    r = pthread_create(&w->thread, attr, run_worker, w);
    if (r != 0) {
        fl_node_free(&w->node);
        return c->started != 0 ? 0 : fl_error_os(err, r, "pthread_create", NULL, 0); /* fewer will do */
    }
    c->started++;
    return 0;
}

/* Signals are for the threads of the caller. */
static int start_workers(struct fl_clone *c, struct fl_error *err)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int r = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    for (unsigned i = 0; i < c->jobs && r == 0; i++)
        r = start_worker(c, &attr, err);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

static void init_locks(struct fl_clone *c)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->done, &attr);
    pthread_condattr_destroy(&attr);
    fl_links_init(&c->links);
}

static int prepare(struct fl_clone *c, struct fl_error *err)
{
    struct fl_attrs attrs = {0};
    struct stat st;

    if (fstat(c->dst, &st) < 0)
        return fl_error_os(err, errno, "fstat", NULL, 0);
    c->dst_dev = st.st_dev;
    c->dst_ino = st.st_ino;
    fl_attrs_init(&attrs);
    if (fl_attrs_make_private(&attrs, c->dst, err) < 0)
        return -1;
    c->todo = fl_task_new("", "", err);
    if (c->todo == NULL)
        return -1;
    c->todo->next = NULL;
    return 0;
}

struct fl_clone *fl_clone_new(int src_fd, int dst_fd, unsigned jobs, unsigned flags, const struct fl_backing *backing,
                              struct fl_error *err)
{
    struct fl_clone *c;

    if (jobs == 0)
        jobs = usable_cpus() < 4 ? usable_cpus() : 4;
    if (jobs > MAX_JOBS)
        jobs = MAX_JOBS;
    c = calloc(1, sizeof(*c) + jobs * sizeof(c->workers[0]));
    if (c == NULL) {
        fl_error_memory(err);
        return NULL;
    }
    c->src = src_fd;
    c->dst = dst_fd;
    c->jobs = jobs;
    c->flags = flags;
    c->backing = backing != NULL ? *backing : (struct fl_backing){.target = -1};
    init_locks(c);
    if (prepare(c, err) < 0 || start_workers(c, err) < 0) {
        fl_clone_free(c);
        return NULL;
    }
    return c;
}

static void join_workers(struct fl_clone *c)
{
    for (; c->started != 0; c->started--)
        pthread_join(c->workers[c->started - 1].thread, NULL);
}

static int close_dir(struct worker *w, const char *path)
{
    cleanup_fd int src = -1, dst = -1;
    struct stat st;

    if (open_both(w, path, &src, &dst, &st) < 0)
        return -1;
    return fl_attrs_copy_fd(&w->node.attrs, src, &st, dst, 0700, &w->err);
}

/* A batch of what finish_dir has left: 1 = there is more, 0 = done, -1 = failed. */
static int close_dirs(struct fl_clone *c)
{
    struct worker *w = &c->workers[0];

    for (unsigned n = 0; n < CLOSE_BATCH; n++) {
        struct fl_task *t = fl_tasks_pop(&c->closed);
        int r;

        if (t == NULL)
            return 0;
        r = close_dir(w, t->path);
        if (r < 0)
            fl_error_path(&w->err, t->path, strlen(t->path));
        free(t);
        if (r < 0)
            return -1;
    }
    return 1;
}

static bool wait_done(struct fl_clone *c, unsigned wait_ms)
{
    struct timespec until;
    bool done;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += wait_ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&c->lock);
    while (!(done = c->failed != NULL || (c->busy == 0 && c->todo == NULL)))
        if (pthread_cond_timedwait(&c->done, &c->lock, &until) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&c->lock);
    return done;
}

int fl_clone_step(struct fl_clone *c, unsigned wait_ms, struct fl_error *err)
{
    int more = 0;

    if (c->finished)
        return 0;
    if (!wait_done(c, wait_ms))
        return 1;
    join_workers(c);
    if (c->failed == NULL && (more = close_dirs(c)) < 0)
        c->failed = &c->workers[0].err;
    if (more > 0)
        return 1;
    if (c->failed != NULL) {
        *err = *c->failed;
        return -1;
    }
    c->finished = true;
    return 0;
}

void fl_clone_read_stats(struct fl_clone *c, struct fl_clone_stats *ret_stats)
{
    memset(ret_stats, 0, sizeof(*ret_stats));
    for (unsigned i = 0; i < c->jobs; i++) {
        struct worker *w = &c->workers[i];

        ret_stats->entries += atomic_load(&w->entries);
        ret_stats->bytes += atomic_load(&w->bytes);
        if (c->started != 0) /* the others are the worker's own while it runs */
            continue;
        ret_stats->sockets += w->sockets;
        ret_stats->shared += w->node.copy.shared;
        ret_stats->copied += w->node.copy.copied;
        ret_stats->lost_owners += w->node.attrs.lost_owners;
        ret_stats->lost_xattrs += w->node.attrs.lost_xattrs;
        ret_stats->changed += w->node.changed;
    }
}

void fl_clone_free(struct fl_clone *c)
{
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->stop, true);
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    join_workers(c);
    for (unsigned i = 0; i < c->jobs; i++)
        fl_node_free(&c->workers[i].node);
    fl_task_free(c->todo);
    fl_tasks_free(&c->closed);
    fl_links_free(&c->links);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->done);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
