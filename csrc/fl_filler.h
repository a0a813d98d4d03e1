/* Filling files that have been made, with the bytes of rows of a change table: here, or by threads beside the one that
 * makes the files.
 *
 *   fl_filler_init(&f, &origin, helpers);
 *   for each file: if (!fl_filler_offer(&f, &job)) fl_filler_fill(&f, &f.copy, &job, &err);
 *   fl_filler_wait(&f, &err);
 *   fl_filler_free(&f);
 *
 * A job is its filler's from then on, descriptors included, whatever becomes of it. An offer is refused when the
 * threads have enough to do: few files are open at once, and a caller that helps never waits. Threads start with the
 * first offer and have all signals blocked.
 */
#ifndef FL_FILLER_H
#define FL_FILLER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#include "fl_copy.h"
#include "fl_origin.h"

#define FL_FILLER_JOBS 8u    /* files waiting or being filled by threads          */
#define FL_FILLER_THREADS 4u

struct fl_filler_job {
    struct fl_origin_file from;
    int to;                    /* empty, open for writing                          */
    bool sync;                 /* fsync it                                         */
    const struct fl_row *row;
    struct timespec times[2];  /* set at the end                                   */
    bool keep_to;              /* neither set times nor sync nor close: the caller does */
};

struct fl_filler {
    const struct fl_origin *origin;
    atomic_bool stop;          /* jobs end soon, with an error                     */
    struct fl_copy copy;       /* of the caller's thread; after the wait its sums are of all threads */

    unsigned helpers, started; /* private from here on */
    pthread_t threads[FL_FILLER_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct fl_filler_job jobs[FL_FILLER_JOBS];
    unsigned first, waiting, busy;
    bool quit, failed;
    uint64_t shared, copied;   /* by threads                                       */
    struct fl_error err;       /* of the first that failed                         */
};

void fl_filler_init(struct fl_filler *f, const struct fl_origin *origin, unsigned helpers);
void fl_filler_free(struct fl_filler *f);

/* Would an offer be taken? Stays true until one is, or a job fails. */
bool fl_filler_has_room(struct fl_filler *f);

/* false: not taken. */
bool fl_filler_offer(struct fl_filler *f, const struct fl_filler_job *job);

/* In the caller's thread. */
int fl_filler_fill(struct fl_filler *f, struct fl_copy *copy, const struct fl_filler_job *job, struct fl_error *err);

/* 0, or -1 with the error of a job that failed; does not wait. */
int fl_filler_look(struct fl_filler *f, struct fl_error *err);

/* Until nothing is under way. */
int fl_filler_wait(struct fl_filler *f, struct fl_error *err);

#endif
