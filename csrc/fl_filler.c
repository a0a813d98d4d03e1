#include "fl_filler.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#define RANGE_PIECE (256u << 10)

void fl_filler_init(struct fl_filler *f, const struct fl_origin *origin, unsigned helpers)
{
    memset(f, 0, sizeof(*f));
    f->origin = origin;
    f->helpers = helpers < FL_FILLER_THREADS ? helpers : FL_FILLER_THREADS;
    f->copy.stop = &f->stop;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->work, NULL);
}

/* ---- one file --------------------------------------------------------- */

static int stopped(struct fl_error *err)
{
    return fl_error_set(err, FL_ERR_USAGE, NULL, 0, "stopped");
}

static int write_all(int to, const uint8_t *data, size_t len, uint64_t at, struct fl_error *err)
{
    while (len != 0) {
        ssize_t n = pwrite(to, data, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fl_error_os(err, n < 0 ? errno : EIO, "write", NULL, 0);
        data += n;
        at += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Bytes that are only a part of their file. */
static int copy_range(struct fl_filler *f, struct fl_copy *copy, const struct fl_filler_job *job, struct fl_error *err)
{
    cleanup_free uint8_t *piece = malloc(RANGE_PIECE);
    uint64_t done = 0, size = job->row->size;

    if (piece == NULL)
        return fl_error_memory(err);
    while (done < size) {
        size_t want = size - done < RANGE_PIECE ? (size_t)(size - done) : RANGE_PIECE;
        ssize_t n = pread(job->from.fd, piece, want, (off_t)(job->from.pos + done));

        if (atomic_load_explicit(&f->stop, memory_order_relaxed))
            return stopped(err);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fl_error_os(err, errno, "read", NULL, 0);
        if (n == 0)
            return fl_origin_changed(f->origin->table, job->row, err);
        if (write_all(job->to, piece, (size_t)n, done, err) < 0)
            return -1;
        done += (size_t)n;
    }
    copy->copied += size;
    return 0;
}

static int finish(const struct fl_filler_job *job, struct fl_error *err)
{
    if (job->keep_to)
        return 0;
    if (futimens(job->to, job->times) < 0)
        return fl_error_os(err, errno, "utimensat", NULL, 0);
    return job->sync && fsync(job->to) < 0 ? fl_error_os(err, errno, "fsync", NULL, 0) : 0;
}

static int fill(struct fl_filler *f, struct fl_copy *copy, const struct fl_filler_job *job, struct fl_error *err)
{
    int r = job->from.own ? fl_copy_data(copy, job->from.fd, &job->from.st, job->to, err)
                          : copy_range(f, copy, job, err);

    if (r < 0 || fl_origin_check(f->origin, job->row, &job->from, err) < 0)
        return -1;
    return finish(job, err);
}

/* The source, and the file unless it is the caller's. */
static int close_both(const struct fl_filler_job *job, int result, struct fl_error *err)
{
    struct fl_origin_file from = job->from;

    fl_origin_close(&from);
    if (job->keep_to)
        return result;
    if (close(job->to) < 0 && errno != EINTR && result == 0)
        return fl_error_os(err, errno, "close", NULL, 0);
    return result;
}

int fl_filler_fill(struct fl_filler *f, struct fl_copy *copy, const struct fl_filler_job *job, struct fl_error *err)
{
    int r = close_both(job, fill(f, copy, job, err), err);

    if (r < 0)
        fl_error_path(err, fl_row_path(f->origin->table, job->row), job->row->path_len);
    return r;
}

/* ---- threads ---------------------------------------------------------- */

/* With the lock held: the next job, or false when there will be none. */
static bool take(struct fl_filler *f, struct fl_filler_job *ret)
{
    while (f->waiting == 0 && !f->quit)
        pthread_cond_wait(&f->work, &f->lock);
    if (f->waiting == 0)
        return false;
    *ret = f->jobs[f->first];
    f->first = (f->first + 1) % FL_FILLER_JOBS;
    f->waiting--;
    f->busy++;
    return true;
}

/* With the lock held. */
static void note(struct fl_filler *f, int result, const struct fl_error *err)
{
    f->busy--;
    if (result < 0 && !f->failed) {
        f->failed = true;
        f->err = *err;
    }
}

static void *serve(void *arg)
{
    struct fl_filler *f = arg;
    struct fl_copy copy = {.stop = &f->stop};
    struct fl_filler_job job;
    struct fl_error err;

    pthread_mutex_lock(&f->lock);
    while (take(f, &job)) {
        int r;

        pthread_mutex_unlock(&f->lock);
        r = fl_filler_fill(f, &copy, &job, &err);
        pthread_mutex_lock(&f->lock);
        note(f, r, &err);
    }
    f->shared += copy.shared;
    f->copied += copy.copied;
    pthread_mutex_unlock(&f->lock);
    fl_copy_free(&copy);
    return NULL;
}

/* Fewer threads than wanted are as good. */
static void start_threads(struct fl_filler *f)
{
    sigset_t all, old;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (f->started < f->helpers && pthread_create(&f->threads[f->started], NULL, serve, f) == 0)
        f->started++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    f->helpers = f->started;
}

static bool is_free(const struct fl_filler *f)
{
    return !f->failed && f->waiting + f->busy < FL_FILLER_JOBS;
}

bool fl_filler_has_room(struct fl_filler *f)
{
    bool room;

    if (f->started < f->helpers)
        start_threads(f);
    if (f->helpers == 0)
        return false;
    pthread_mutex_lock(&f->lock);
    room = is_free(f);
    pthread_mutex_unlock(&f->lock);
    return room;
}

bool fl_filler_offer(struct fl_filler *f, const struct fl_filler_job *job)
{
    bool taken;

    if (!fl_filler_has_room(f))
        return false;
    pthread_mutex_lock(&f->lock);
    taken = is_free(f);
    if (taken) {
        f->jobs[(f->first + f->waiting++) % FL_FILLER_JOBS] = *job;
        pthread_cond_signal(&f->work);
    }
    pthread_mutex_unlock(&f->lock);
    return taken;
}

int fl_filler_look(struct fl_filler *f, struct fl_error *err)
{
    bool failed;

    if (f->started == 0)
        return 0;
    pthread_mutex_lock(&f->lock);
    failed = f->failed;
    pthread_mutex_unlock(&f->lock);
    if (failed)
        *err = f->err;
    return failed ? -1 : 0;
}

static void join(struct fl_filler *f)
{
    pthread_mutex_lock(&f->lock);
    f->quit = true;
    pthread_cond_broadcast(&f->work);
    pthread_mutex_unlock(&f->lock);
    for (; f->started != 0; f->started--)
        pthread_join(f->threads[f->started - 1], NULL);
    f->helpers = 0;
}

int fl_filler_wait(struct fl_filler *f, struct fl_error *err)
{
    int r;

    join(f);
    f->copy.shared += f->shared;
    f->copy.copied += f->copied;
    f->shared = f->copied = 0;
    r = f->failed ? -1 : 0;
    if (r < 0)
        *err = f->err;
    return r;
}

void fl_filler_free(struct fl_filler *f)
{
    atomic_store(&f->stop, true);
    join(f);
    fl_copy_free(&f->copy);
    pthread_cond_destroy(&f->work);
    pthread_mutex_destroy(&f->lock);
}
