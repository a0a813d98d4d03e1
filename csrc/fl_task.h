/* Directories that a copy still has to look at.
 *
 * A task is a path relative to the roots of both trees, in a list. Tasks by
 * depth are those that can only be finished from the leaves to the root. Not
 * thread-safe.
 */
#ifndef FL_TASK_H
#define FL_TASK_H

#include <stddef.h>

#include "fl_error.h"

struct fl_task {
    struct fl_task *next;
    char path[];
};

/* dir/name; either may be empty. NULL when there is no memory. */
struct fl_task *fl_task_new(const char *dir, const char *name, struct fl_error *err);

/* A whole list; NULL is fine. */
void fl_task_free(struct fl_task *t);

/* Zero-initialise; fl_tasks_free at the end. */
struct fl_tasks_by_depth {
    struct fl_task **lists;
    size_t depths;
};

/* Owns t from now on, unless it fails. */
int fl_tasks_push(struct fl_tasks_by_depth *l, struct fl_task *t, struct fl_error *err);

/* One of the deepest, the caller's now; NULL when there are none. */
struct fl_task *fl_tasks_pop(struct fl_tasks_by_depth *l);

void fl_tasks_free(struct fl_tasks_by_depth *l);

#endif
