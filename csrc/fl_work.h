/* Runs calls in a thread of its own, one at a time, so that the caller of a
 * call that may take long can look at signals meanwhile - and stop it.
 *
 *   r = fl_work_run(&w, function, arg, wait_ms, &ret, &err);
 *   while (r == FL_WORK_RUNNING)
 *       r = fl_work_wait(&w, wait_ms, &ret, &err);   or fl_work_stop(&w)
 *
 * The thread starts with the first call, has all signals blocked and ends with
 * fl_work_free. Where it cannot be started the call runs in the caller's.
 * Zero-initialise. Not to be used by two threads at once.
 */
#ifndef FL_WORK_H
#define FL_WORK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "fl_error.h"

#define FL_WORK_DONE 0
#define FL_WORK_RUNNING 1

typedef int (*fl_work_function)(void *arg, struct fl_error *err);

struct fl_work {
    atomic_bool stop;       /* to be looked at by long functions: fl_work_check */
    bool started;           /* private from here on                             */
    bool quit;
    bool busy;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    fl_work_function run;
    void *arg;
    int result;
    struct fl_error err;
};

/* Both return FL_WORK_RUNNING, or FL_WORK_DONE with what the function returned (and err when that is negative). */
int fl_work_run(struct fl_work *w, fl_work_function run, void *arg, unsigned wait_ms, int *ret_result,
                struct fl_error *err);
int fl_work_wait(struct fl_work *w, unsigned wait_ms, int *ret_result, struct fl_error *err);

/* Asks the function to stop and waits until it has; its result is lost. No further call will run. */
void fl_work_stop(struct fl_work *w);
void fl_work_free(struct fl_work *w);

/* For the function, between two steps of its work: 0, or -1 with err (ECANCELED) when it is to stop.
 * stop: of the fl_work; NULL: nobody stops it. */
int fl_work_check(const atomic_bool *stop, struct fl_error *err);

#endif
