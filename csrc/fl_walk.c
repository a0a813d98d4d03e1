#include "fl_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fl_dir.h"

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A directory we are in. Its path is the first path_len bytes of walk.path. */
struct frame {
    uint64_t dev;
    uint64_t ino;
    size_t names;      /* lengths of the lists before this directory           */
    size_t events;
    uint32_t next;     /* index of the next event, in the whole list            */
    uint32_t path_len;
    int fd;            /* -1: closed to save descriptors                        */
};

struct slot {
    struct fl_entry *entries;
    struct fl_buf heap;
    uint32_t count;
};

struct walk {
    struct fl_source source;
    int root_fd;
    bool started;
    uint32_t delivered;
    struct fl_xattr_reader xattr;
    struct fl_dir_lists lists;
    struct fl_ignore ignore;
    struct fl_buf path;
    struct fl_buf frames;
    uint32_t depth;
    uint32_t lowest_open; /* frames from here on have an open fd                */

    struct slot ring[FL_WALK_RING];
    bool running;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under `lock`: */
    uint32_t made;        /* batches filled                                     */
    uint32_t taken;       /* batches the consumer is done with                  */
    bool stop;
    bool failed;
    struct fl_error error;
};

static struct frame *frame_at(struct walk *w, uint32_t i)
{
    return (struct frame *)(void *)w->frames.data + i;
}

static struct frame *top(struct walk *w)
{
    return frame_at(w, w->depth - 1);
}

static int changed(const void *path, size_t len, struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_CHANGED, path, len,
                        "was replaced while the tree was read; try again when it is quiet");
}

/* ---- one entry ---- */

static void fill_stat(struct fl_entry *e, const struct stat *st)
{
    e->dev = st->st_dev;
    e->ino = st->st_ino;
    e->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
    e->mtime_sec = st->st_mtim.tv_sec;
    e->mtime_nsec = (uint32_t)st->st_mtim.tv_nsec;
    e->ctime_sec = st->st_ctim.tv_sec;
    e->ctime_nsec = (uint32_t)st->st_ctim.tv_nsec;
    e->mode = st->st_mode;
    e->uid = st->st_uid;
    e->gid = st->st_gid;
    e->nlink = (uint32_t)st->st_nlink;
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        e->rdev_major = major(st->st_rdev);
        e->rdev_minor = minor(st->st_rdev);
    }
}

static int add_path(struct walk *w, struct slot *s, const char *name,
                    struct fl_entry *e, struct fl_error *err)
{
    uint32_t dir = w->depth ? top(w)->path_len : 0;

    if (fl_buf_add(&s->heap, w->path.data, dir, &e->path_off, err) < 0)
        return -1;
    if (dir != 0 && fl_buf_add(&s->heap, "/", 1, NULL, err) < 0)
        return -1;
    if (fl_buf_add(&s->heap, name, strlen(name), NULL, err) < 0)
        return -1;
    e->path_len = (uint32_t)(s->heap.len - e->path_off);
    return 0;
}

static int add_link(struct fl_buf *heap, int fd, const char *name,
                    struct fl_entry *e, struct fl_error *err)
{
    ssize_t n;

    if (fl_buf_reserve(heap, PATH_MAX, err) < 0)
        return -1;
    n = readlinkat(fd, name, (char *)heap->data + heap->len, PATH_MAX);
    if (n < 0)
        return fl_error_os(err, errno, "readlink", NULL, 0);
    heap->len += (size_t)n;
    e->link_len = (uint32_t)n;
    e->size = (uint64_t)n;
    return 0;
}

int fl_walk_read(struct fl_xattr_reader *xattr, struct fl_buf *heap, int fd,
                 const char *name, struct fl_entry *e, struct fl_error *err)
{
    uint32_t dropped;
    struct stat st;
    int r = name[0] ? fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) : fstat(fd, &st);

    if (r < 0)
        return fl_error_os(err, errno, "stat", NULL, 0);
    fill_stat(e, &st);
    if (S_ISLNK(st.st_mode) && add_link(heap, fd, name, e, err) < 0)
        return -1;
    if (fl_xattr_read(xattr, fd, name, heap, &e->xattr_len, &dropped, err) < 0)
        return -1;
    e->flags = dropped << FL_ENTRY_DROPPED_SHIFT;
    return 0;
}

/* enum fl_ignore_verdict of a name in the directory we are in, or -1. */
static int judge(struct walk *w, const char *name, size_t len, bool is_dir, struct fl_error *err)
{
    if (w->ignore.program == NULL)
        return FL_IGNORE_KEEP;
    return fl_ignore_look(&w->ignore, w->path.data, top(w)->path_len, name, len, is_dir, err);
}

/* 1 added, 0 it vanished. name "": the directory fd itself. */
static int visit(struct walk *w, struct slot *s, int fd, const char *name,
                 struct fl_error *err)
{
    struct fl_entry *e = &s->entries[s->count];

    memset(e, 0, sizeof(*e));
    if (add_path(w, s, name, e, err) < 0)
        return -1;
    if (fl_walk_read(&w->xattr, &s->heap, fd, name, e, err) < 0) {
        fl_error_path(err, s->heap.data + e->path_off, e->path_len);
        s->heap.len = e->path_off;
        return err->kind == FL_ERR_OS && err->errnum == ENOENT ? 0 : -1;
    }
    s->count++;
    return 1;
}

/* ---- the stack of directories ---- */

static int open_dir(int at, const char *name)
{
    int fd = openat(at, name, DIR_FLAGS | O_NOATIME);

    return fd < 0 && errno == EPERM ? openat(at, name, DIR_FLAGS) : fd;
}

static void close_highest_parent(struct walk *w)
{
    struct frame *f = frame_at(w, w->lowest_open++);

    close(f->fd);
    f->fd = -1;
}

/* The directory of the new frame has been appended to w->path. Takes fd. */
static int push_frame(struct walk *w, int fd_, struct fl_error *err)
{
    cleanup_fd int fd = fd_;
    struct frame f = { .names = w->lists.names.len, .events = w->lists.events.len };
    struct stat st;

    if (fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "stat", w->path.data, w->path.len);
    f.dev = st.st_dev;
    f.ino = st.st_ino;
    f.path_len = (uint32_t)w->path.len;
    f.next = (uint32_t)(f.events / sizeof(uint32_t));
    if (fl_dir_read(&w->lists, fd, err) < 0) {
        fl_error_path(err, w->path.data, w->path.len);
        return -1;
    }
    if (w->depth - w->lowest_open >= FL_WALK_FDS)
        close_highest_parent(w);
    w->frames.len = w->depth * sizeof(f);
    f.fd = fd;
    if (fl_buf_add(&w->frames, &f, sizeof(f), NULL, err) < 0)
        return -1;
    fl_steal_fd(&fd);
    w->depth++;
    return 0;
}

static int descend(struct walk *w, char *name, struct fl_error *err)
{
    struct frame *f = top(w);
    size_t len = strlen(name);
    int fd, verdict;

    name[--len] = '\0'; /* "name/" would follow a symbolic link */
    verdict = judge(w, name, len, true, err);
    if (verdict < 0 || verdict == FL_IGNORE_OUT)
        return verdict < 0 ? -1 : 0;
    w->path.len = f->path_len;
    if ((f->path_len != 0 && fl_buf_add(&w->path, "/", 1, NULL, err) < 0) ||
        fl_buf_add(&w->path, name, len, NULL, err) < 0)
        return -1;
    fd = open_dir(f->fd, name);
    if (fd >= 0)
        return push_frame(w, fd, err);
    if (errno == ENOENT)
        return 0;
    if (errno == ENOTDIR || errno == ELOOP)
        return changed(w->path.data, w->path.len, err);
    return fl_error_os(err, errno, "open", w->path.data, w->path.len);
}

/* Opens the frame below `child` again. */
static int reopen_parent(struct walk *w, const struct frame *child, struct fl_error *err)
{
    struct frame *f = frame_at(w, w->depth - 2);
    cleanup_fd int fd = open_dir(child->fd, "..");
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return fl_error_os(err, errno, "open", w->path.data, f->path_len);
    if (st.st_dev != f->dev || st.st_ino != f->ino)
        return changed(w->path.data, child->path_len, err);
    f->fd = fl_steal_fd(&fd);
    w->lowest_open = w->depth - 2;
    return 0;
}

static int pop_frame(struct walk *w, struct fl_error *err)
{
    struct frame *f = top(w);

    if (w->depth >= 2 && frame_at(w, w->depth - 2)->fd < 0 &&
        reopen_parent(w, f, err) < 0)
        return -1;
    close(f->fd);
    w->lists.names.len = f->names;
    w->lists.events.len = f->events;
    w->depth--;
    w->path.len = w->depth ? top(w)->path_len : 0;
    return 0;
}

/* ---- batches ---- */

static int start(struct walk *w, struct slot *s, struct fl_error *err)
{
    int fd = open_dir(w->root_fd, ".");

    w->started = true;
    if (fd < 0)
        return fl_error_os(err, errno, "open", NULL, 0);
    if (visit(w, s, fd, "", err) < 0) {
        close(fd);
        return -1;
    }
    return push_frame(w, fd, err);
}

/* A directory's descent was listed right behind it. */
static bool was_directory(const struct walk *w, const char *name)
{
    const char *next = name + strlen(name) + 1;
    const char *end = (const char *)w->lists.names.data + w->lists.names.len;

    return next < end && *next == FL_DIR_DESCEND;
}

static int take_name(struct walk *w, struct slot *s, const char *name, struct fl_error *err)
{
    bool is_dir = was_directory(w, name);
    int verdict = judge(w, name, strlen(name), is_dir, err), r;
    struct fl_entry *e;

    if (verdict < 0 || verdict == FL_IGNORE_OUT)
        return verdict < 0 ? -1 : 0;
    r = visit(w, s, top(w)->fd, name, err);
    if (r <= 0)
        return r;
    e = &s->entries[s->count - 1];
    if (S_ISDIR(e->mode) && !is_dir)
        return changed(s->heap.data + e->path_off, e->path_len, err);
    if (verdict == FL_IGNORE_PASS)
        e->flags |= FL_ENTRY_PASSED;
    return 0;
}

static int take_event(struct walk *w, struct slot *s, struct fl_error *err)
{
    struct frame *f = top(w);
    uint32_t ref;
    uint8_t *event;

    if ((size_t)f->next * sizeof(ref) >= w->lists.events.len)
        return pop_frame(w, err);
    memcpy(&ref, w->lists.events.data + (size_t)f->next++ * sizeof(ref), sizeof(ref));
    event = w->lists.names.data + ref;
    if (*event == FL_DIR_DESCEND)
        return descend(w, (char *)event + 1, err);
    return take_name(w, s, (const char *)event + 1, err);
}

/* An empty batch is the end. */
static int fill(struct walk *w, struct slot *s, struct fl_error *err)
{
    s->count = 0;
    s->heap.len = 0;
    if (s->entries == NULL)
        s->entries = malloc(FL_WALK_BATCH * sizeof(*s->entries));
    if (s->entries == NULL)
        return fl_error_memory(err);
    if (fl_buf_reserve(&s->heap, 1, err) < 0) /* the root alone needs no byte */
        return -1;
    if (!w->started && start(w, s, err) < 0)
        return -1;
    while (w->depth > 0 && s->count < FL_WALK_BATCH && s->heap.len < FL_WALK_BATCH_BYTES)
        if (take_event(w, s, err) < 0)
            return -1;
    return 0;
}

static void give(struct walk *w, const struct slot *s, struct fl_batch *ret)
{
    ret->entries = s->entries;
    ret->heap = s->heap.data;
    ret->count = s->count;
    ret->first = w->delivered;
    w->delivered += s->count;
}

static int next_direct(struct fl_source *source, struct fl_batch *ret, struct fl_error *err)
{
    struct walk *w = (struct walk *)source;

    if (fill(w, &w->ring[0], err) < 0)
        return -1;
    give(w, &w->ring[0], ret);
    return 0;
}

/* ---- the thread ---- */

static bool wait_for_room(struct walk *w)
{
    bool go;

    pthread_mutex_lock(&w->lock);
    while (!w->stop && w->made - w->taken >= FL_WALK_RING)
        pthread_cond_wait(&w->changed, &w->lock);
    go = !w->stop;
    pthread_mutex_unlock(&w->lock);
    return go;
}

static void *run(void *arg)
{
    struct walk *w = arg;
    bool more = true;

    while (more && wait_for_room(w)) {
        struct slot *s = &w->ring[w->made % FL_WALK_RING];
        int r = fill(w, s, &w->error);

        pthread_mutex_lock(&w->lock);
        w->made++;
        w->failed = r < 0;
        pthread_cond_signal(&w->changed);
        pthread_mutex_unlock(&w->lock);
        more = r == 0 && s->count != 0;
    }
    return NULL;
}

static int start_thread(struct walk *w, struct fl_error *err)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&w->thread, NULL, run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r != 0)
        return fl_error_os(err, r, "pthread_create", NULL, 0);
    w->running = true;
    return 0;
}

/* From the second call on the caller is done with the batch it was given. */
static int next_threaded(struct fl_source *source, struct fl_batch *ret, struct fl_error *err)
{
    struct walk *w = (struct walk *)source;
    bool first = !w->running, failed;
    uint32_t mine;

    if (first && start_thread(w, err) < 0)
        return -1;
    pthread_mutex_lock(&w->lock);
    if (!first) {
        w->taken++;
        pthread_cond_signal(&w->changed);
    }
    while (w->made == w->taken)
        pthread_cond_wait(&w->changed, &w->lock);
    mine = w->taken;
    failed = w->failed && w->made == mine + 1;
    pthread_mutex_unlock(&w->lock);
    if (failed) {
        *err = w->error;
        return -1;
    }
    give(w, &w->ring[mine % FL_WALK_RING], ret);
    return 0;
}

static void stop_thread(struct walk *w)
{
    if (!w->running)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

/* ---- life ---- */

static void free_walk(struct fl_source *source)
{
    struct walk *w = (struct walk *)source;

    stop_thread(w);
    for (uint32_t i = w->lowest_open; i < w->depth; i++)
        close(frame_at(w, i)->fd);
    for (uint32_t i = 0; i < FL_WALK_RING; i++) {
        free(w->ring[i].entries);
        fl_buf_free(&w->ring[i].heap);
    }
    fl_xattr_reader_free(&w->xattr);
    fl_dir_lists_free(&w->lists);
    fl_ignore_free(&w->ignore);
    fl_buf_free(&w->path);
    fl_buf_free(&w->frames);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    free(w);
}

struct fl_source *fl_walk_open(int root_fd, enum fl_xattr_policy policy,
                               bool threaded, const struct fl_ignore_program *ignore,
                               struct fl_error *err)
{
    struct walk *w = calloc(1, sizeof(*w));

    if (w == NULL) {
        fl_error_memory(err);
        return NULL;
    }
    w->source.next = threaded ? next_threaded : next_direct;
    w->source.free = free_walk;
    w->root_fd = root_fd;
    w->xattr.policy = policy;
    w->ignore.program = ignore;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    return &w->source;
}
