#include "fl_work.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#define NS_PER_MS 1000000L
#define NS_PER_S 1000000000L

static void *serve(void *arg)
{
    struct fl_work *w = arg;

    pthread_mutex_lock(&w->lock);
    while (!w->quit) {
        if (!w->busy) {
            pthread_cond_wait(&w->changed, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        w->result = w->run(w->arg, &w->err);
        pthread_mutex_lock(&w->lock);
        w->busy = false;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static bool start(struct fl_work *w)
{
    pthread_condattr_t clock;
    sigset_t all, old;

    if (w->started)
        return true;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&w->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    w->started = pthread_create(&w->thread, NULL, serve, w) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!w->started) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
    }
    return w->started;
}

static struct timespec after(unsigned ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)(ms % 1000) * NS_PER_MS;
    t.tv_sec += (time_t)(ms / 1000) + t.tv_nsec / NS_PER_S;
    t.tv_nsec %= NS_PER_S;
    return t;
}

int fl_work_run(struct fl_work *w, fl_work_function run, void *arg, unsigned wait_ms, int *ret_result,
                struct fl_error *err)
{
    if (!start(w)) {
        *ret_result = run(arg, err);
        return FL_WORK_DONE;
    }
    pthread_mutex_lock(&w->lock);
    w->run = run;
    w->arg = arg;
    w->busy = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return fl_work_wait(w, wait_ms, ret_result, err);
}

int fl_work_wait(struct fl_work *w, unsigned wait_ms, int *ret_result, struct fl_error *err)
{
    struct timespec until = after(wait_ms);
    int r = 0;
    bool busy;

    pthread_mutex_lock(&w->lock);
    while (w->busy && r == 0)
        r = pthread_cond_timedwait(&w->changed, &w->lock, &until);
    busy = w->busy;
    pthread_mutex_unlock(&w->lock);
    if (busy)
        return FL_WORK_RUNNING;
    *ret_result = w->result;
    if (w->result < 0)
        *err = w->err;
    return FL_WORK_DONE;
}

void fl_work_stop(struct fl_work *w)
{
    atomic_store(&w->stop, true);
    if (!w->started)
        return;
    pthread_mutex_lock(&w->lock);
    while (w->busy)
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

void fl_work_free(struct fl_work *w)
{
    fl_work_stop(w);
    if (!w->started)
        return;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    w->started = false;
}

int fl_work_check(const atomic_bool *stop, struct fl_error *err)
{
    if (stop == NULL || !atomic_load_explicit(stop, memory_order_relaxed))
        return 0;
    return fl_error_os(err, ECANCELED, "stop", NULL, 0);
}
